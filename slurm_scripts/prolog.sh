#!/bin/sh
# Slurm's Prolog: checks the node before a job starts on it, as root. See docs/health-checks.md.
#
# Slurm gives it no PATH, and takes any exit code but 0 as "drain this node". Only the code of a real verdict is passed on;
# whatever else happens (no Python, a crash, a missing file) is our own failure, and the job starts.
CONTEXT=prolog
DRAIN=90

SETTINGS=${HPCTRAIN_HEALTH_SETTINGS:-/etc/hpctrain/health.env}
if [ -r "$SETTINGS" ]; then
    # shellcheck source=/dev/null
    . "$SETTINGS" || exit 0
fi
[ -x "${HPCTRAIN_PYTHON:-/usr/bin/python3}" ] || exit 0

"${HPCTRAIN_PYTHON:-/usr/bin/python3}" -I -m hpctrain.health "$CONTEXT" </dev/null
[ $? -eq "$DRAIN" ] && exit 1
exit 0
