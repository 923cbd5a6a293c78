# found PACKAGE COMMAND   tells, as `PACKAGE VERSION<tab>NAME`, whether python3 has the package, and the
# Python of its command; no package is imported.
# shellcheck shell=sh
asked_of_python='import sys
from importlib.metadata import version
print(version(sys.argv[1]))'

found() {
    of=$(timeout 10 python3 -c "$asked_of_python" "$1" 2>/dev/null </dev/null) &&
        printf '%s %s\tpython3\n' "$1" "$of"
    path=$(command -v "$2") || return 0
    python=$(sed -n '1s/^#!//p' "$path" 2>/dev/null)
    # shellcheck disable=SC2086  # as in `#!/usr/bin/env python3`
    of=$([ -z "$python" ] || timeout 10 $python -c "$asked_of_python" "$1" 2>/dev/null </dev/null)
    printf '%s%s\t%s\n' "$1" "${of:+ $of}" "$2"
}
