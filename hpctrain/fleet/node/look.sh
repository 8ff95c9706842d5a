#!/bin/sh
# Sent to a node and run there by 'hpctrain fleet check' and 'collect': WHAT DIRECTORY PYTHON, the package on standard input.
#
# Needs nothing of hpctrain on the node, and leaves nothing there: also a node whose disk is full or read-only can be asked.
set -eu
umask 077
what=$1 directory=$2 python=$3

fail() {
    echo "$2" >&2
    exit "$1"
}

work=''
for place in /dev/shm "${TMPDIR:-/tmp}" /run /var/tmp; do
    [ -d "$place" ] || continue
    work=$(mktemp -d "$place/hpctrain-look.XXXXXXXX" 2>/dev/null) && break
done
[ -n "$work" ] || fail 73 "there is no place to write to, not even in memory"
trap 'rm -rf -- "$work"' EXIT
trap 'exit 1' HUP INT TERM
tar -xz --no-same-owner -C "$work" -f - || fail 74 "the package did not arrive whole, or /dev/shm and /tmp are full"
"$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail 76 "there is no $python of version 3.10 or newer: name one with --python"

# The node's own settings count, so that this says what the node's own checks say.
if [ -r "$directory/health.env" ]; then
    # shellcheck source=/dev/null
    . "$directory/health.env"
fi
if [ -z "${HPCTRAIN_HEALTH_CONFIG:-}" ] && [ ! -e /etc/hpctrain/health.json ] && [ -e "$work/health.json" ]; then
    export HPCTRAIN_HEALTH_CONFIG="$work/health.json"
fi
"$python" -I -B -c '
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("hpctrain.fleet.on_node", run_name="__main__", alter_sys=True)
' "$work/site" "$what"
