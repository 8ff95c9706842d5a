#!/usr/bin/env bash
# RebootProgram: a container cannot reboot, so everything but its first processes and its ssh server is killed, and the
# entry point starts slurmd as after a boot.
#
# slurmd waits for this program, and is to be killed by it: the work is done by a process of its own.
if [[ ${1:-} != now ]]; then
    setsid /bin/bash "$0" now </dev/null >/dev/null 2>&1 &
    exit 0
fi
keep='^(docker-init|tini|bash|sleep|munged|sshd)$'
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    read -r name <"$process/comm" 2>/dev/null || continue
    user=$(stat -c %u "$process" 2>/dev/null) || continue
    # Root's shells and ssh servers stay, whatever is a user's goes.
    if [[ $user == 0 || $name == munged ]] && [[ $name =~ $keep ]]; then continue; fi
    [[ $pid == "$$" || $pid == 1 ]] || kill -KILL "$pid" 2>/dev/null
done
/bin/sleep 2
touch /run/hpctrain-cluster/reboot
