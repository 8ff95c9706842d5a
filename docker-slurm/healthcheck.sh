#!/usr/bin/env bash
# Docker's health check: this machine does what its role asks for.
set -euo pipefail
STATE=/run/hpctrain-cluster

case $(<"$STATE/role") in
    mariadb) mariadb-admin --user=root ping ;;
    slurmdbd) : </dev/tcp/127.0.0.1/6819 ;; # slurm.conf comes later
    slurmctld) [[ -e $STATE/accounts ]] && scontrol ping | grep -q 'is UP' ;;
    login) [[ -e $STATE/ready ]] && scontrol ping | grep -q 'is UP' ;;
    node) [[ -e $STATE/ready ]] && pgrep -x slurmd ;;
esac >/dev/null
