#!/bin/sh
# ray.sh   brings a Ray up over all nodes, runs the job's command as its driver, and ends with that.
# What is left then is killed by the pilot on every node: `ray stop` would end a neighbour's Ray.
# ray.sh INDEX NODE ADDRESS   is the Ray of one node; it is run by the first.
# Comes with settings.sh, command.sh and ready.py beside it (plugins/launch/ray.py).
here=${0%/*}
python='' nodes='' addresses='' port='' store='' cpus='' gpus='' dashboard='' ready=''
# shellcheck source=/dev/null
. "$here/settings.sh"

if [ $# = 0 ]; then
    # Whoever reaches its ports could run code, but for this.
    (umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$here/token")
fi
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(cat "$here/token") RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED

# $1 the number of the node, $2 its address.
start() {
    number=$1 address=$2
    set -- --block --disable-usage-stats --num-cpus="$cpus" --num-gpus="$gpus" \
        --object-store-memory="$store" --min-worker-port=0 --max-worker-port=0 \
        --dashboard-agent-listen-port="$((port + 1))"
    [ "$address" = - ] || set -- "$@" --node-ip-address="$address"
    if [ "$number" = 0 ]; then
        set -- "$@" --head --port="$port" --ray-client-server-port="$((port + 2))" \
            --temp-dir="${TMPDIR:-/tmp}/ray" --include-dashboard="$dashboard" \
            --dashboard-host=127.0.0.1 --dashboard-port="$((port + 3))"
    else
        set -- "$@" --address="$first:$port"
    fi
    exec "$python" -m ray.scripts.scripts start "$@" </dev/null >&2
}

first=${addresses%% *}
[ "$first" != - ] || first=127.0.0.1
if [ $# -gt 0 ]; then start "$1" "$3"; fi

# Unix sockets have short names, and Ray's own part of them is long.
directory=${TMPDIR:-/tmp}/ray
if [ ${#directory} -gt 44 ]; then
    echo "ray: $directory is too long a name for its sockets: run the job in a container," \
        "or give the site's pilots a shorter directory" >&2
    exit 255
fi
index=0 all=''
trap 'kill $all 2>/dev/null' EXIT
for node in $nodes; do
    address=${addresses%% *} addresses=${addresses#* }
    if [ $index = 0 ]; then
        (start 0 "$address") &
        head=$!
    else
        "$AILURUS_PILOT_RSH" "$node" /bin/sh "$here/ray.sh" $index "$node" "$address" </dev/null &
    fi
    all="$all $!"
    index=$((index + 1))
done
RAY_ADDRESS=$first:$port
export RAY_ADDRESS
if ! "$python" "$here/ready.py" "$index" "$ready" "$head" </dev/null >&2; then
    echo "ray: it did not come up on $index nodes within $ready s" >&2
    exit 255
fi
/bin/sh "$here/command.sh"
