#!/bin/sh
# The pilot of Ailurus @VERSION@ (@SYSTEM@, with Python @PYTHON@ and glibc @GLIBC@): this text, then an archive.
# The archive is unpacked once into ailurus-pilot-UID/ beside the work directory (-a), or where
# AILURUS_PILOT_DIR says, and run there in place of this shell, so that signals reach the pilot itself.
set -eu
build=@DIGEST@
die() { printf 'pilot: %s\n' "$*" >&2; exit 65; }
elsewhere='name another directory with -a or AILURUS_PILOT_DIR'

place=${AILURUS_PILOT_DIR-} before=
for word; do
    case $before in -a | --workdir) place=${AILURUS_PILOT_DIR-$word} ;; esac
    case $word in --workdir=*) place=${AILURUS_PILOT_DIR-${word#*=}} ;; esac
    before=$word
done
place=${place:-${TMPDIR:-/tmp}}
home=$place/ailurus-pilot-$(id -u)
here=$home/$build

check() {
    [ "$(uname -sm)" = "@SYSTEM@" ] || die "this file is for @SYSTEM@, and here is $(uname -sm)"
    mkdir -p "$place" 2>/dev/null && [ -d "$place" ] || die "cannot make $place: $elsewhere"
    (umask 077 && mkdir "$home" 2>/dev/null) || :
    [ -d "$home" ] && [ ! -L "$home" ] && [ -O "$home" ] && [ -w "$home" ] ||
        die "$home cannot be made, or is a link or another user's: $elsewhere"
}

# Under a lock, so that pilots that start together unpack once, and what a killed one left is removed.
# Where the file system has no locks each unpacks its own, and the first one's is taken.
unpack() {
    new=$home/new
    exec 8>"$home/lock" || die "cannot write in $home: $elsewhere"
    if flock -w 300 8 2>/dev/null; then rm -rf "$home"/new*; else new=$home/new.$(uname -n).$$; fi
    [ ! -e "$here/used" ] || return 0
    [ "$(tail -c @SIZE@ "$0" | sha256sum)" = "@SHA256@  -" ] ||
        die "$0 is damaged or cut short: copy it again"
    mkdir "$new" || die "cannot write in $home: $elsewhere"
    tail -c @SIZE@ "$0" | tar -xzmf - -C "$new" || {
        rm -rf "$new"; die "cannot unpack @UNPACKED@ MB into $home: $elsewhere"; }
    [ -x "$new/pilot" ] || { rm -rf "$new"; die "$place is mounted noexec: $elsewhere"; }
    : >"$new/used"
    mv -T "$new" "$here" 2>/dev/null || { rm -rf "$new"; [ -e "$here/used" ]; } ||
        die "cannot write in $home: $elsewhere"
    for old in "$home"/[0-9a-f]*; do         # builds that no pilot runs, nor did for a week
        [ -z "$(find "$old/used" -mtime +7 2>/dev/null)" ] || ! flock -n "$old/used" true || rm -rf "$old"
    done
    exec 8>&-
}

[ -e "$here/used" ] || { check; unpack; }
[ -x "$here/pilot" ] || die "$place is mounted noexec: $elsewhere"
touch -c "$here/used" 2>/dev/null || :
exec 9<"$here/used"                          # held as long as the pilot lives
flock -s -n 9 2>/dev/null || :
# Agents on other nodes unpack their own where that place is not certainly seen by all nodes.
if [ "${AILURUS_PILOT_DIR-}" ]; then
    case $0 in /*) AILURUS_PILOT_FILE=$0 ;; *) AILURUS_PILOT_FILE=$PWD/$0 ;; esac
    export AILURUS_PILOT_FILE
fi
export AILURUS_BUNDLE="@SYSTEM@, Python @PYTHON@, glibc @GLIBC@, build $build"
# By its own loader, with the libraries that it was built with: the node's may be older, or not glibc.
exec "$here/lib/@LOADER@" --library-path "$here/lib" --argv0 "$here/pilot" "$here/pilot" "$@"
