#!/usr/bin/env bash
# Starts a Docker engine where none runs, with the distribution's own packages (as root, or through sudo).
#   engine.sh start     install what is missing, start it, and wait until it answers
#   engine.sh stop      end an engine that this script has started
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
PID_FILE=/run/hpctrain-dockerd.pid
LOG=/var/log/hpctrain-dockerd.log

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$1" >&2
    printf 'hint:  %s\n' "${@:2}" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }
answers() { timeout 20 docker info >/dev/null 2>&1; }
has_compose() { docker compose version >/dev/null 2>&1 || has docker-compose; }

install_packages() {
    local packages=()
    has dockerd || packages+=(docker.io)
    has_compose || packages+=(docker-compose)
    ((${#packages[@]})) || return 0
    has apt-get || die "not installed: ${packages[*]}" "install Docker Engine with Compose by this system's own tools"
    say "Installing from the distribution: ${packages[*]}"
    local held=0
    # The package would start the engine by an init system that may not be there.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        held=1
    fi
    { DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}" ||
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"; }; } >>"$LOG" 2>&1 ||
        die "apt could not install ${packages[*]}" "the output is in $LOG"
    ((held == 0)) || rm -f /usr/sbin/policy-rc.d
}

start() {
    if has docker && answers; then
        install_packages
        return 0
    fi
    ((EUID == 0)) || exec sudo -n -- /bin/bash "$0" start
    install_packages
    if [[ -d /run/systemd/system ]] && has systemctl && systemctl start docker >>"$LOG" 2>&1 && answers; then return 0; fi
    say "Starting a Docker engine"
    rm -f /var/run/docker.pid "$PID_FILE" # of an engine that was killed: its number may be another process's by now
    setsid dockerd --pidfile "$PID_FILE" </dev/null >>"$LOG" 2>&1 &
    for _ in {1..60}; do
        if answers; then return 0; fi
        sleep 1
    done
    tail -n 5 "$LOG" >&2
    die "the Docker engine does not answer" "its log is $LOG"
}

stop() {
    [[ -s $PID_FILE ]] || return 0
    ((EUID == 0)) || exec sudo -n -- /bin/bash "$0" stop
    local pid
    pid=$(<"$PID_FILE")
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) != dockerd ]] || kill "$pid"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) die "what is to be done?" "engine.sh start, or engine.sh stop" ;;
esac
