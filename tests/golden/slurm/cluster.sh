#!/usr/bin/env bash
# A whole Slurm with accounting in one directory, as root, for recordings. Its daemons use ports of their own and files of that
# directory; a Slurm that the machine has already is not touched.
#
#   cluster.sh up DIR NODES [accounting|none]     then: export SLURM_CONF=DIR/slurm.conf
#   cluster.sh down DIR
#   cluster.sh stop|start DIR slurmdbd|mariadbd
#
# Needs munge, slurmctld, slurmd and slurm-client; for accounting slurmdbd and mariadb-server, too (Debian's names).
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
action=$1 dir=$2
port=${RECORD_PORT:-27000}

alive() { [[ -s $dir/run/$1.pid ]] && kill -0 "$(<"$dir/run/$1.pid")" 2>/dev/null; }

wait_for() { # wait_for SECONDS COMMAND...
    local left=$(($1 * 5))
    shift
    until "$@" >/dev/null 2>&1; do
        ((left-- > 0)) || { echo "it never came true: $*" >&2; exit 1; }
        sleep 0.2
    done
}

stop() { # stop NAME: end a daemon by the pid it has written down
    local pid
    [[ -s $dir/run/$1.pid ]] || return 0
    pid=$(<"$dir/run/$1.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
}

start_mariadbd() {
    local data=$dir/mysql
    if [[ ! -d $data/mysql ]]; then
        mariadb-install-db --no-defaults --user=root --datadir="$data" --auth-root-authentication-method=normal \
            --skip-test-db >"$dir/log/mariadb-install.log" 2>&1
    fi
    printf '%s\n' "CREATE DATABASE IF NOT EXISTS slurm_acct_db;" \
        "CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'recording';" \
        "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';" >"$dir/init.sql"
    setsid mariadbd --no-defaults --user=root --datadir="$data" --socket="$dir/run/mysql.sock" --port=$((port + 2)) \
        --bind-address=127.0.0.1 --pid-file="$dir/run/mariadbd.pid" --init-file="$dir/init.sql" --skip-name-resolve \
        --innodb-buffer-pool-size=64M >"$dir/log/mariadbd.log" 2>&1 </dev/null &
    wait_for 60 mariadb --no-defaults --protocol=TCP -h 127.0.0.1 -P $((port + 2)) -u slurm -precording -e 'USE slurm_acct_db'
}

start_slurmdbd() {
    slurmdbd
    wait_for 60 sacctmgr -n list cluster
}

start_slurmctld() {
    slurmctld -f "$dir/slurm.conf"
    wait_for 60 scontrol ping
}

write_conf() { # write_conf NODES accounting|none
    local last=$1 none=${2/#none/}
    local version disabled=cgroup/v1
    version=$(slurmctld -V | sed -n 's/[^0-9]*\([0-9]*\)\.\([0-9]*\).*/\1\2/p')
    ((version < 2405)) || disabled=disabled
    echo "CgroupPlugin=$disabled" >"$dir/cgroup.conf"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=recorded
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=3,nohold_on_prolog_fail
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=4000
PreemptMode=${none:+REQUEUE}${none:-OFF}
JobRequeue=1
KillWait=2
MaxJobCount=20000
MinJobAge=3600
SlurmdTimeout=15
ReturnToService=1
RebootProgram=/bin/true
ResumeTimeout=600
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
GresTypes=gpu
NodeName=n[1-$last] NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 11))-$((port + 10 + last)) CPUs=64 RealMemory=256000 Gres=gpu:sim:8 State=UNKNOWN
PartitionName=main Nodes=n[1-$last] Default=YES DefaultTime=60 MaxTime=UNLIMITED State=UP
CONF
    sed -i "s/^PreemptMode=REQUEUE.*/PreemptMode=REQUEUE/; s/ Port=\([0-9]*\)-\([0-9]*\) / Port=[\1-\2] /" "$dir/slurm.conf"
    mkdir -p "$dir/gpus"
    touch "$dir"/gpus/gpu{0..7}
    echo "NodeName=n[1-$last] Name=gpu Type=sim File=$dir/gpus/gpu[0-7]" >"$dir/gres.conf"
    [[ -n $none ]] || return 0
    cat >>"$dir/slurm.conf" <<CONF
NodeName=n$((last + 1)) NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 11 + last)) CPUs=64 RealMemory=256000 State=FUTURE
PreemptType=preempt/qos
PriorityType=priority/multifactor
PriorityWeightQOS=10000
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$dir/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
CONF
    install -m 600 /dev/stdin "$dir/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
DbdHost=localhost
DbdPort=$((port + 1))
SlurmUser=root
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 2))
StorageUser=slurm
StoragePass=recording
StorageLoc=slurm_acct_db
CONF
}

up() { # up NODES accounting|none
    local node
    mkdir -p "$dir"/{run,log,state,spool}
    write_conf "$1" "$2"
    head -c 128 /dev/urandom >"$dir/munge.key"
    chmod 400 "$dir/munge.key"
    chmod 755 "$dir" "$dir/run"
    munged --force --key-file="$dir/munge.key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"
    if [[ $2 == accounting ]]; then
        start_mariadbd
        start_slurmdbd
        sacctmgr -i add cluster recorded >/dev/null 2>&1 || true
        sacctmgr -i add account research >/dev/null
        sacctmgr -i add user root account=research >/dev/null
        sacctmgr -i add qos high priority=100 preempt=normal >/dev/null
        sacctmgr -i modify user root set qos+=high >/dev/null
    fi
    start_slurmctld
    for node in $(seq "$1"); do
        mkdir -p "$dir/spool/n$node"
        slurmd -N "n$node" -f "$dir/slurm.conf"
    done
    wait_for 60 bash -c "[[ \$(sinfo -h -N -t idle -o %N | sort -u | wc -l) == $1 ]]"
}

down() {
    local pid
    # Jobs outlive the daemons.
    timeout 10 scancel --signal=KILL --full --user=root >/dev/null 2>&1 || true
    timeout 10 scancel --user=root >/dev/null 2>&1 || true
    for _ in $(seq 50); do [[ -z $(timeout 5 squeue -h -t R,CG,S 2>/dev/null) ]] && break; sleep 0.2; done
    for pid in "$dir"/run/n*.pid; do [[ -e $pid ]] && stop "$(basename "$pid" .pid)"; done
    for name in slurmctld slurmdbd mariadbd munged; do stop "$name"; done
}

export SLURM_CONF=$dir/slurm.conf LC_ALL=C
case $action in
    up) up "$3" "${4:-accounting}" ;;
    down) down ;;
    stop) stop "$3" ;;
    start) "start_$3" ;;
    *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
