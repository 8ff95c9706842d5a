#!/usr/bin/env bash
# Record accounting, and jobs and nodes in all the states that matter, as fixtures for tests/unit/slurm.
#
# scripts/record_slurm_outputs.sh runs it against a fresh cluster of eight nodes made by cluster.sh:
#   record_states.sh CLUSTER_DIR
# The files go to tests/golden/slurm/<version>/accounting and .../states. What was recorded before is replaced.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cluster=$1
export SLURM_CONF=$cluster/slurm.conf LC_ALL=C SLURM_TIME_FORMAT=%s
version=$(scontrol -V | grep -oE '[0-9]+\.[0-9]+[0-9.]*')
books=$here/$version/accounting states=$here/$version/states
rm -rf "$books" "$states"
mkdir -p "$books" "$states"
work=$(mktemp -d)
cd "$work"
begin=$(date +%s)

columns=JobIDRaw,JobID,Cluster,User,Account,Partition,QOS,State,Submit,Eligible,Start,End,ElapsedRaw,TimelimitRaw
columns=$columns,AllocCPUS,AllocTRES,ReqTRES,NodeList,ExitCode,Reason,WorkDir,Comment,JobName
# As the adapter calls it.
sacct=(sacct --noheader --allocations --duplicates --local --noconvert --parsable '--delimiter=~golden~' "--format=$columns"
    "--starttime=uts$((begin - 5))")

submit() { # submit BODY OPTION...
    local body=$1
    shift
    printf '#!/bin/sh\n%s\n' "$body" | sbatch --parsable --output=/dev/null "$@"
}

wait_for() { # wait_for SECONDS JOB STATE...: until it is in one of these
    local left=$(($1 * 5)) job=$2 state
    shift 2
    while ((left-- > 0)); do
        state=$(squeue -h -t all -j "$job" -o %T | sort -u | tr '\n' ' ')
        for wanted in "$@"; do [[ $state == "$wanted " ]] && return; done
        sleep 0.2
    done
    echo "job $job did not become $* but $state" >&2
    exit 1
}

again() { # again JOB: start a requeued job now; Slurm refuses that for some seconds
    for _ in $(seq 200); do
        scontrol update JobId="$1" StartTime=now >/dev/null 2>&1 || true
        [[ $(squeue -h -t all -j "$1" -o %T) == @(RUNNING|COMPLET*) ]] && return
        sleep 0.5
    done
    echo "job $1 did not start again" >&2
    exit 1
}

both() { # both FILE COMMAND...: keep exit code and both streams
    local file=$1 code=0
    shift
    timeout 60 "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
    { echo "rc=$code"; echo "--- stdout"; cat "$work/out"; echo "--- stderr"; cat "$work/err"; } >"$file"
}

small=(--cpus-per-task=2 --mem=100)
# shellcheck disable=SC2016 # the job's shell expands it
once='[ -n "$SLURM_RESTART_COUNT" ] && exit 0; sleep 900'

# -- jobs that end ----------------------------------------------------------------------------------------------------
timeout_=$(submit 'sleep 900' "${small[@]}" --job-name=timeout --time=1 --nodelist=n1 --no-requeue)
completed=$(submit 'sleep 2' "${small[@]}" --job-name=completed --gres=gpu:2 --nodes=2 --nodelist=n1,n3 --account=research)
hostile=$(submit 'true' "${small[@]}" --nodelist=n1 --job-name=$'pipe|and\nnewline $(false) ~golden é "q"' \
    --comment=$'State=IDLE |\n x=y\tz é')
long=$(submit 'true' "${small[@]}" --nodelist=n1 --job-name="$(printf 'x%.0s' $(seq 400))" --comment=hpctrain:long-run)
failed=$(submit 'exit 3' "${small[@]}" --nodelist=n1 --job-name=failed)
# shellcheck disable=SC2016
killed=$(submit 'kill -9 $$' "${small[@]}" --nodelist=n1 --job-name=killed)
memory=$(submit 'head -c 400m /dev/zero | tail -c 400m | sleep 30' --mem=20 --nodelist=n1 --job-name=memory --no-requeue)
array=$(submit 'sleep 1' "${small[@]}" --nodelist=n1 --job-name=array --array=0-2%2)
waiting_array=$(submit 'sleep 1' "${small[@]}" --job-name=waiting-array --array=5-9 --hold)
parts=$(printf '#!/bin/sh\nsleep 2\n' | sbatch --parsable --output=/dev/null --job-name=parts --mem=100 --nodelist=n1 : --mem=100 --nodelist=n3)
suspended=$(submit 'sleep 6' "${small[@]}" --nodelist=n1 --job-name=suspended)
cancelled=$(submit 'sleep 900' "${small[@]}" --nodelist=n1 --job-name=cancelled)
never=$(submit 'true' "${small[@]}" --job-name=cancelled-pending --hold)
requeued=$(submit "$once" "${small[@]}" --nodelist=n1 --job-name=requeued --gres=gpu:1 --comment=hpctrain:requeued-run)
requeued_waiting=$(submit 'sleep 900' "${small[@]}" --nodelist=n1 --job-name=requeued-waiting)
requeue_held=$(submit 'sleep 900' "${small[@]}" --nodelist=n1 --job-name=requeue-held)
victim=$(submit "$once" "${small[@]}" --nodelist=n8 --gres=gpu:4 --job-name=victim)
victim_waiting=$(submit 'sleep 900' "${small[@]}" --nodelist=n8 --gres=gpu:4 --job-name=victim-waiting)
lost=$(submit 'sleep 900' "${small[@]}" --nodelist=n7 --job-name=lost --no-requeue)
lost_requeued=$(submit 'sleep 900' "${small[@]}" --nodelist=n7 --job-name=lost-requeued)
running=$(submit 'sleep 900' "${small[@]}" --nodelist=n1 --job-name=running --gres=gpu:2)

for job in "$suspended" "$cancelled" "$requeued" "$requeued_waiting" "$requeue_held" "$victim" "$victim_waiting" "$lost" \
    "$lost_requeued" "$running"; do
    wait_for 60 "$job" RUNNING
done
scontrol suspend "$suspended"
scancel "$cancelled" "$never"
scontrol requeue "$requeued"
scontrol requeuehold "$requeue_held"
high=$(submit 'sleep 5' "${small[@]}" --nodelist=n8 --gres=gpu:8 --qos=high --job-name=high)
wait_for 60 "$high" RUNNING COMPLETED
scontrol update NodeName=n7 State=DOWN Reason="record: node failure"
wait_for 60 "$lost" NODE_FAIL
wait_for 60 "$lost_requeued" PENDING
sleep 2
scontrol resume "$suspended"
wait_for 60 "$victim" PENDING
wait_for 60 "$victim_waiting" PENDING
scontrol update JobId="$victim_waiting" StartTime=now+2hours
wait_for 60 "$high" COMPLETED
again "$requeued"
again "$victim"
for job in "$completed" "$hostile" "$long" "$suspended" "$requeued" "$victim"; do wait_for 90 "$job" COMPLETED; done
wait_for 60 "$failed" FAILED
wait_for 60 "$killed" FAILED
wait_for 60 "$array" COMPLETED
wait_for 60 "$parts" COMPLETED
wait_for 90 "$memory" OUT_OF_MEMORY FAILED CANCELLED
wait_for 150 "$timeout_" TIMEOUT

# -- jobs that wait, and nodes that are out ------------------------------------------------------------------------------
submit 'true' "${small[@]}" --job-name=dependency --dependency="afterok:$failed" >/dev/null
submit 'true' "${small[@]}" --job-name=later --begin=now+3hours >/dev/null
submit 'true' "${small[@]}" --job-name=excluding --exclude=n1,n5 --hold >/dev/null
draining=$(submit 'sleep 900' "${small[@]}" --nodelist=n3 --gres=gpu:3 --job-name=draining)
rebooting=$(submit 'sleep 900' "${small[@]}" --nodelist=n5 --job-name=rebooting)
ending=$(submit 'trap "" TERM; sleep 900 & wait; sleep 900' "${small[@]}" --nodelist=n1 --job-name=ending)
for job in "$draining" "$rebooting" "$ending"; do wait_for 60 "$job" RUNNING; done
scontrol requeue "$requeued_waiting"
wait_for 60 "$requeued_waiting" PENDING
scontrol update NodeName=n2 State=DRAIN Reason="hpctrain: xid 79 [b@c] State=IDLE Gres=gpu:9 é"
scontrol update NodeName=n3 State=DRAIN Reason="a person's reason"
scontrol update NodeName=n4 State=FAIL Reason="bad disk"
scontrol reboot ASAP nextstate=DOWN reason="hpctrain: reboot" n5
# Its slurmd is gone: the node stops responding, and is DOWN after SlurmdTimeout.
kill "$(<"$cluster/run/n6.pid")"
scontrol create reservation ReservationName=work StartTime=now Duration=60 Nodes=n8 Users=root Flags=MAINT,IGNORE_JOBS >/dev/null
submit 'true' "${small[@]}" --job-name=large --nodes=7 --gres=gpu:8 --exclusive >/dev/null
submit 'true' "${small[@]}" --job-name=down-nodes --nodelist=n7 >/dev/null
for _ in $(seq 300); do
    [[ $(sinfo -h -N -n n6 -o %T | head -1) == down* ]] && break
    sleep 0.2
done
sleep 6
fields=$(printf '%s:~golden~,' JobID UserName State Reason Partition Account QOS NumNodes NodeList BatchHost SubmitTime \
    EligibleTime StartTime EndTime TimeLimit RestartCnt PriorityLong exit_code WorkDir Name Comment)
scancel "$ending"
squeue --noheader --all --local --states=all -O "${fields%,}" >"$states/squeue.txt"
squeue --noheader --all --local --states=all -o '%A~golden~%x~golden~' >"$states/squeue-exclusions.txt"
scontrol --all --details --oneliner show node >"$states/nodes.txt"
scontrol --all --oneliner show partition >"$states/partitions.txt"
scontrol --oneliner show reservation >"$states/reservations.txt"
scontrol ping >"$states/ping.txt" 2>&1 || true
scontrol show config | grep -E '^(ClusterName|SLURM_VERSION|AccountingStorage|MinJobAge)' >"$states/config.txt"

# -- the database --------------------------------------------------------------------------------------------------------
sleep 3
"${sacct[@]}" --allusers >"$books/sacct.txt"
"${sacct[@]}" --allusers "--jobs=$requeued" >"$books/sacct-requeued.txt"
both "$books/no-such-user.txt" "${sacct[@]}" --user=nosuchuser
both "$books/nothing.txt" "${sacct[@]}" --allusers --accounts=nosuchaccount
grep -vE '^(Accounting|Preempt|Priority)' "$SLURM_CONF" >"$work/slurm.conf"
both "$books/disabled.txt" env SLURM_CONF="$work/slurm.conf" "${sacct[@]}" --allusers
"$here/cluster.sh" stop "$cluster" mariadbd
both "$books/no-database.txt" "${sacct[@]}" --allusers
"$here/cluster.sh" start "$cluster" mariadbd
"$here/cluster.sh" stop "$cluster" slurmdbd
both "$books/down.txt" "${sacct[@]}" --allusers
echo "recorded in $books and $states (jobs that still wait or run: $waiting_array $victim_waiting $lost_requeued $running)"
