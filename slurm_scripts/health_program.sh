#!/bin/sh
# Slurm's HealthCheckProgram: looks at the whole node from time to time, as root. See docs/health-checks.md.
#
# Slurm gives it no PATH, kills it after 60 s and ignores its exit code: a node that has to be drained is drained by the
# check itself. It also runs before slurmd has registered, so nothing here waits for the controller.
CONTEXT=periodic

SETTINGS=${HPCTRAIN_HEALTH_SETTINGS:-/etc/hpctrain/health.env}
if [ -r "$SETTINGS" ]; then
    # shellcheck source=/dev/null
    . "$SETTINGS" || exit 0
fi
[ -x "${HPCTRAIN_PYTHON:-/usr/bin/python3}" ] || exit 0

"${HPCTRAIN_PYTHON:-/usr/bin/python3}" -I -m hpctrain.health "$CONTEXT" </dev/null
exit 0
