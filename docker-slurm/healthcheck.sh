#!/usr/bin/env bash
# Docker's health check: this machine does what its role asks for.
set -euo pipefail
STATE=/run/hpctrain-cluster

case $(<"$STATE/role") in
    mariadb) mariadb-admin --user=root ping ;;
    slurmdbd) sacctmgr -n show cluster ;;
    slurmctld) [[ -e $STATE/accounts ]] && scontrol ping | grep -q 'is UP' ;;
    login) [[ -e $STATE/ready ]] && scontrol ping | grep -q 'is UP' ;;
    node) [[ -e $STATE/ready ]] && pgrep -x slurmd ;;
esac >/dev/null
