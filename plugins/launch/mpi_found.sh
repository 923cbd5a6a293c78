# Tells which MPI the usual names start, each as `MPI<tab>NAME`. Comes after family.sh.
# shellcheck shell=sh
for name in mpirun mpiexec mpirun.openmpi mpirun.mpich mpiexec.hydra; do
    command -v "$name" >/dev/null || continue
    said=$(timeout 10 "$name" --version 2>&1 </dev/null)
    version=$(printf '%s\n' "$said" |
        sed -nE 's/^.*(Open MPI\)|OpenRTE\)|Version:?) *v?([0-9][^ ]*).*/\2/p' | head -n 1)
    case $(family "$said") in
        openmpi*) found="Open MPI" ;;
        mpich) found=MPICH ;;
        *) found="an MPI that is not known here" version= ;;
    esac
    printf '%s\t%s\n' "$found${version:+ $version}" "$name"
done
