#!/bin/sh
# mpi.sh COMMAND…   starts COMMAND as the ranks of one MPI program, and says which of them failed.
# Which MPI that is, is asked here, where it runs: of the library that the program loads, and of
# each program that could start it. n ranks that do not find each other are n worlds of one, which
# all end well; so a library and a starter that do not fit are an error.
# Comes with settings.sh, family.sh, the lists of hosts and rank.sh beside it
# (plugins/launch/mpi.py).
here=${0%/*}
program='' mpirun='' flavour='' ranks=''
# shellcheck source=/dev/null
. "$here/settings.sh"
# shellcheck source=plugins/launch/family.sh
. "$here/family.sh"

fail() {
    printf 'mpi: %s\n' "$*" >&2
    exit 255
}

# The MPI of the libraries that a program is linked with.
linked() {
    case $(ldd "$1" 2>/dev/null) in
        *libmpi.so.40* | *libopen-pal*) echo openmpi ;;
        *libmpich.so* | *libmpi.so.12*) echo mpich ;;
    esac
}

asked_of_python='import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().splitlines()[0])'

# The MPI that the program will load, where that can be known before it runs.
library() {
    found=$(command -v "$program" 2>/dev/null) || return 0
    of=$(linked "$found")
    [ -z "$of" ] || { echo "$of"; return; }
    case ${found##*/} in
        python*) of=$(family "$("$found" -c "$asked_of_python" 2>/dev/null)"); echo "${of%[0-9]}" ;;
    esac
}

# The usual names, those beside the program first: an environment brings its own.
starters() {
    [ -z "$mpirun" ] || { command -v "$mpirun"; return; }
    beside=$(command -v "$program" 2>/dev/null)
    for name in mpirun mpiexec mpirun.openmpi mpirun.mpich mpiexec.hydra; do
        [ -z "$beside" ] || ! [ -x "${beside%/*}/$name" ] || echo "${beside%/*}/$name"
        command -v "$name"
    done
}

wanted=$flavour
loads=$(library)
if [ -n "$wanted" ] && [ -n "$loads" ] && [ "$wanted" != "$loads" ]; then
    fail "the job says $wanted, and $program loads $loads: its ranks would not find each other"
fi
wanted=${wanted:-$loads}
found='' kind='' others=''
for candidate in $(starters); do
    of=$(family "$("$candidate" --version 2>&1 </dev/null)")
    case $of in
        '') others="$others $candidate is of an MPI that is not known here;" ;;
        "$wanted"*) found=$candidate kind=$of; break ;;
        *) others="$others $candidate is of $of;" ;;
    esac
done
[ -n "$found" ] || fail "nothing on the job's PATH starts ranks${wanted:+ of $wanted}:" \
    "${others:-there is no mpirun and no mpiexec;}${loads:+ $program loads $loads;}" \
    "name one by \`mpirun:\`, set PATH in the job's environment, or run it in an image that has one"

# What a program loads that nobody could ask, its first rank sees while it runs.
of=${kind%[0-9]}
begin "$kind" /bin/sh "$here/rank.sh" "$ranks" "$of" "${loads:-unknown}" "$@" </dev/null &
child=$!
# A starter should end when all ranks have, or when one has failed, with the others; hydra of MPICH
# 4.0 may wait for ever, or fail in the end.
ended() { [ "$(find "$here" -name 'ended.*' | wc -l)" -ge "$ranks" ]; }
(
    until [ -s "$here/failed" ] || ended; do sleep 1; done
    sleep 3
    kill -TERM $child
    sleep 5
    kill -KILL $child
) </dev/null >/dev/null 2>&1 &
watch=$!
trap 'kill -TERM $child' TERM
trap 'kill -INT $child' INT
while :; do
    wait $child
    code=$?
    kill -0 $child 2>/dev/null || break
done
kill $watch 2>/dev/null
if [ "$code" != 0 ] && [ ! -s "$here/failed" ] && ended; then code=0; fi
if [ -s "$here/failed" ]; then
    read -r rank own node <"$here/failed"
    if [ "$rank" = wrong ]; then
        fail "$found is of $of, and the program loads $own:" \
            "its $ranks ranks did not find each other"
    fi
    printf 'mpi: rank %s of %s, on %s, ended with exit code %s\n' \
        "$rank" "$ranks" "$node" "$own" >&2
    exit "$own"
fi
[ "$code" = 0 ] ||
    printf 'mpi: %s ended with exit code %s, and no rank had failed\n' "$found" "$code" >&2
exit "$code"
