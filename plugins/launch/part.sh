#!/bin/sh
# part.sh INDEX NODE   the ranks of one node: runs command.sh as each, and ends with the first that
# fails.
here=${0%/*} index=$1 node=$2
each='' agent=''
# shellcheck source=/dev/null
. "$here/settings.sh"
export node index
if [ -n "$agent" ]; then
    # Something of the framework's own starts the ranks of a node.
    set +e
    agent </dev/null
    code=$?
    [ $code = 0 ] || (set -C; echo "of node $index $code $node" >"$here/failed") 2>/dev/null
    exit $code
fi
ends=${TMPDIR:-/tmp}/.ailurus-part
mkfifo -m 600 "$ends" || exit 255
exec 3<>"$ends"
local=0
while [ $local -lt "$each" ]; do
    (
        rank=$((index * each + local))
        rank_environment
        /bin/sh "$here/command.sh" 3>&-
        code=$?
        # The first is kept, whichever node it is on.
        [ $code = 0 ] || (set -C; echo "$rank $code $node" >"$here/failed") 2>/dev/null
        echo $code >&3
    ) </dev/null &
    local=$((local + 1))
done
while [ $local -gt 0 ]; do
    read -r code <&3
    [ "$code" = 0 ] || exit "$code"
    local=$((local - 1))
done
