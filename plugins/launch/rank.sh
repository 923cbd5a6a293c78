#!/bin/sh
# rank.sh RANKS MPI LOADS COMMAND…   one rank of an MPI program: runs COMMAND, and notes if it is
# the first to fail. MPI is that of what has started it; LOADS that of the program, or `unknown`.
here=${0%/*} ranks=$1 mpi=$2 loads=$3
shift 3
rank=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-}}}
size=${OMPI_COMM_WORLD_SIZE:-${PMI_SIZE:-}}
told=''

# The first is kept, whichever node it is on.
note() {
    (set -C; printf '%s\n' "$*" >"$here/failed") 2>/dev/null
}

# The MPI that a process has loaded, by what its loader wrote.
loaded() {
    for file in "$seen".*; do
        found=$(grep -s 'calling init: .*/lib\(mpi\|mpich\|open-pal\)\.so' "$file")
        case $found in
            *libmpi.so.40* | *libopen-pal*) echo openmpi; return ;;
            *libmpich.so* | *libmpi.so.12*) echo mpich; return ;;
        esac
    done
}

if [ "$size" != "$ranks" ]; then
    note "${rank:-?} 255 $(uname -n)"
    printf 'mpi: a rank was told of %s ranks, and the job has %s\n' "${size:-no}" "$ranks" >&2
    exit 255
fi
end() {
    # shellcheck disable=SC2013  # numbers
    for below in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do end "$below"; done
    kill -KILL "$1"
}

# Whoever starts ranks may kill this shell and nothing below it. A FIFO shows that at once, for no
# CPU. This shell's end of it is descriptor 0: a starter may have taken all others that it can name.
leash=${TMPDIR:-/tmp}/.ailurus-rank.$rank
rm -f "$leash"
mkfifo -m 600 "$leash" || exit 255
seen=''
if [ "$rank" = 0 ] && [ "$loads" = unknown ]; then
    seen=${TMPDIR:-/tmp}/.ailurus-loaded
    LD_DEBUG=files LD_DEBUG_OUTPUT=$seen "$@" <&0 &
else
    "$@" <&0 &
fi
child=$!
(read -r over <"$leash"; [ "$over" = over ] || end $child) >/dev/null 2>&1 &
watch=$!
exec 0>"$leash"
rm -f "$leash"
trap 'told=1; kill -TERM $child' TERM
trap 'told=1; kill -INT $child' INT
while :; do
    wait $child
    code=$?
    kill -0 $child 2>/dev/null || break
done
echo over >&0
# Before this shell: a starter takes a rank for ended when its shell has, and all of its descriptors.
wait $watch
if [ -n "$seen" ]; then
    of=$(loaded)
    rm -f "$seen".*
    if [ -n "$of" ] && [ "$of" != "$mpi" ]; then
        note "wrong $of"
        exit 255
    fi
fi
# Others are ended because one has failed.
[ "$code" = 0 ] || [ -n "$told" ] || note "$rank $code $(uname -n)"
[ "$code" != 0 ] || [ "$mpi" != mpich ] || : >"$here/ended.$rank"
exit "$code"
