#!/bin/sh
# spread.sh   starts the job's command on all nodes and ends with them, or with the first that fails.
# Comes with settings.sh, command.sh and part.sh beside it (plugins/launch/spread.py).
here=${0%/*}
each='' nodes='' before=''
# shellcheck source=/dev/null
. "$here/settings.sh"
ends=${TMPDIR:-/tmp}/.ailurus-ends
mkfifo -m 600 "$ends" || exit 255
exec 3<>"$ends"
# shellcheck source=/dev/null
[ -z "$before" ] || . "$here/$before"

index=0
for node in $nodes; do
    (
        if [ $index = 0 ]; then
            /bin/sh "$here/part.sh" 0 "$node" 3>&-
        else
            "$AILURUS_PILOT_RSH" "$node" /bin/sh "$here/part.sh" $index "$node" 3>&-
        fi
        echo "$? $node" >&3
    ) </dev/null &
    index=$((index + 1))
done
while [ $index -gt 0 ]; do
    read -r code node <&3
    if [ "$code" != 0 ]; then
        [ ! -s "$here/failed" ] || read -r rank own node <"$here/failed"
        printf 'launch: rank %s of %s, on %s, ended with exit code %s\n' \
            "${rank:-?}" $((each * $(echo "$nodes" | wc -w))) "$node" "${own:-$code}" >&2
        exit "${own:-$code}"
    fi
    index=$((index - 1))
done
