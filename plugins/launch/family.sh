# shellcheck shell=sh
# The MPI of a version's text: openmpi4, openmpi5, mpich; empty if it is of none that we know.
family() {
    case $1 in
        *'Open MPI) 5'* | *'OpenRTE) 5'* | *'Open MPI v5'* | *prterun*) echo openmpi5 ;;
        *'Open MPI) '* | *'OpenRTE) '* | *'Open MPI v'*) echo openmpi4 ;;
        *HYDRA* | *'MPICH Version'* | *'Intel(R) MPI'* | *MVAPICH*) echo mpich ;;
    esac
}
