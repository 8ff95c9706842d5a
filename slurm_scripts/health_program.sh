#!/bin/sh
# Slurm's HealthCheckProgram: looks at the whole node from time to time, as root. See docs/health-checks.md.
#
# Slurm gives it no PATH, kills it after 60 s and ignores its exit code: a node that has to be drained is drained by the
# check itself. It also runs before slurmd has registered, so nothing here waits for the controller.
CONTEXT=periodic
DRAIN=90

SETTINGS=${HPCTRAIN_HEALTH_SETTINGS:-/etc/hpctrain/health.env}

# failed WHY: tell syslog and the node's own log, as slurmd writes down what we say only if we fail. Both may hang, and Slurm
# ends what is left of our process group: so they are told from another session. We wait until it is one, which is when it
# lets go of our pipe.
failed() {
    why="our own failure, the node stays in service: $1"
    echo "hpctrain health $CONTEXT: $why" >&2
    # shellcheck source=/dev/null
    state=$(
        exec 3>&1 >/dev/null 2>&1
        trap 'echo "${HPCTRAIN_HEALTH_STATE:-}" >&3' EXIT # also if the settings end this shell
        . "$SETTINGS"
    )
    # shellcheck disable=SC2016 # for the inner shell to expand
    : "$(/usr/bin/setsid /bin/sh -c '
        exec >/dev/null
        [ -x /usr/bin/logger ] && /usr/bin/logger -t hpctrain "health $3: $5"
        [ -d "$1" ] || exit
        umask 077
        form="{\"time\":%s,\"source\":\"health\",\"node\":\"%s\",\"kind\":\"health_failure\""
        form="$form,\"context\":\"%s\",\"job\":\"%s\",\"reason\":\"%s\"}\n"
        printf "$form" "$(/bin/date +%s)" "$2" "$3" "$4" "$5" >>"$1/$2.events.jsonl"
    ' sh "${state:-/var/lib/hpctrain/health}" "${SLURMD_NODENAME:-$(/bin/uname -n)}" "$CONTEXT" "${SLURM_JOB_ID:-}" "$why" \
        </dev/null 2>/dev/null &)"
    exit 0
}

# In a shell of their own: a mistake in the settings ends only that.
(
    if [ -r "$SETTINGS" ]; then
        # shellcheck source=/dev/null
        . "$SETTINGS"
    fi
    exec "${HPCTRAIN_PYTHON:-/usr/bin/python3}" -I -m hpctrain.health "$CONTEXT" </dev/null
)
code=$?
[ "$code" -eq 0 ] || [ "$code" -eq "$DRAIN" ] || failed "the check ended with status $code"
exit 0
