# Read by spread.sh on the first node: begins the rendezvous, and waits until it listens.
# shellcheck shell=sh disable=SC2154  # the variables of settings.sh
"$python" "$here/rendezvous.py" "$hosts" "$world" "$here/rendezvous" </dev/null >&2 3>&- &
rendezvous=$!
trap 'kill $rendezvous 2>/dev/null' EXIT
until [ -s "$here/rendezvous" ]; do
    if ! kill -0 "$rendezvous" 2>/dev/null; then
        echo "horovod: its rendezvous did not start: is Horovod in $python?" >&2
        exit 255
    fi
    sleep 0.2
done
