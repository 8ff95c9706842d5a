#!/bin/bash
# Record what this Slurm's commands print, as fixtures for tests/unit/slurm.
#
# scripts/record_slurm_outputs.sh runs it; by hand, against an idle private cluster:
#   hpctrain cluster up --name golden --nodes 4
#   eval "$(hpctrain cluster env --name golden)" && tests/golden/slurm/record.sh
# The files go to tests/golden/slurm/<version>/. The refusals of an ordinary user are recorded too when this runs as
# root and "nobody" can reach the cluster's munge socket. Its jobs and drains are removed afterwards.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C SLURM_TIME_FORMAT=%s
version=$(scontrol -V | grep -oE '[0-9]+\.[0-9]+[0-9.]*')
out=$here/$version
rm -rf "$out/errors"
mkdir -p "$out/errors"
: >"$out/exit-codes.txt"
cd "$(mktemp -d)"

columns=(JobID UserName State Reason Partition Account QOS NumNodes NodeList BatchHost SubmitTime EligibleTime StartTime
    EndTime TimeLimit RestartCnt PriorityLong exit_code WorkDir Name Comment)

submit() { # submit BODY OPTION...
    local body=$1
    shift
    printf '#!/bin/sh\n%s\n' "$body" | sbatch --parsable --output=/dev/null "$@"
}

wait_for() { # wait_for JOB STATE
    for _ in $(seq 100); do
        [[ $(squeue -h -t all -j "$1" -o %T) == "$2" ]] && return
        sleep 0.1
    done
    echo "job $1 did not become $2" >&2
    exit 1
}

refusal() { # refusal NAME COMMAND...: keep what a command that fails prints on both streams, and its exit code
    local name=$1 code=0
    shift
    "$@" </dev/null >"$out/errors/$name.txt" 2>&1 || code=$?
    echo "$name $code" >>"$out/exit-codes.txt"
}

hostile=$(submit 'sleep 600' --gres=gpu:3 --job-name=$'pipe|and\nnewline $(false) ~golden é "q"' --comment=$'State=IDLE |\n x=y\tz é')
failed=$(submit 'exit 3' --job-name=failed)
killed=$(submit "kill -9 \$\$" --job-name=killed)
wait_for "$failed" FAILED
wait_for "$killed" FAILED
requeued=$(submit 'sleep 600' --job-name=requeued --nodes=2 --exclude=n1 --gres=gpu:2 --time=90)
requeue_held=$(submit 'sleep 600' --job-name=requeue-held)
cancelled=$(submit 'sleep 600' --job-name=cancelled)
completed=$(submit 'true' --job-name=completed)
held=$(submit 'true' --job-name=held --hold --time=1-02:03:04)
huge=$(submit 'true' --job-name=huge --nodes=4 --exclusive --time=UNLIMITED --gres=gpu:8)
wait_for "$completed" COMPLETED
for job in "$hostile" "$requeued" "$requeue_held" "$cancelled"; do wait_for "$job" RUNNING; done

refusal change-of-running-job scontrol update JobId="$hostile" StartTime=now
refusal change-of-ended-job scontrol update JobId="$completed" Comment=x
refusal change-of-unknown-job scontrol update JobId=99999 Comment=x
refusal hold-of-ended-job scontrol uhold "$completed"
refusal hold-of-unknown-job scontrol uhold 99999
refusal requeue-of-pending-job scontrol requeue "$held"
refusal requeue-of-unknown-job scontrol requeue 99999
refusal cancel-of-unknown-job scancel 99999
refusal list-of-unknown-job squeue --noheader --jobs=99999
refusal show-of-unknown-node scontrol --oneliner show node zzz
refusal drain-of-unknown-node scontrol update NodeName=zzz State=DRAIN Reason=x
refusal drain-without-reason scontrol update NodeName=n1 State=DRAIN
refusal submit-to-unknown-partition submit true --partition=nope
refusal submit-with-too-many-gpus submit true --gres=gpu:1000
refusal submit-with-unknown-feature submit true --constraint=nope
refusal submit-with-unknown-reservation submit true --reservation=nope
refusal submit-of-no-script sbatch --parsable /dev/null
if [[ $(id -u) == 0 ]]; then
    ordinary=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    if timeout 5 "${ordinary[@]}" squeue >/dev/null 2>&1; then
        refusal drain-by-ordinary-user "${ordinary[@]}" scontrol update NodeName=n1 State=DRAIN Reason=x
        refusal cancel-by-other-user "${ordinary[@]}" scancel "$hostile"
        refusal hold-by-other-user "${ordinary[@]}" scontrol uhold "$hostile"
        refusal requeue-by-other-user "${ordinary[@]}" scontrol requeue "$hostile"
    fi
fi

# A controller that refuses connections: the same configuration with a port where nothing listens.
dead=$PWD/dead
mkdir "$dead"
sed -e 's/^SlurmctldPort=.*/SlurmctldPort=1/' -e '/^MessageTimeout=/d' "$SLURM_CONF" >"$dead/slurm.conf"
echo MessageTimeout=2 >>"$dead/slurm.conf"
down() { # down NAME COMMAND...
    local name=$1
    shift
    SLURM_CONF=$dead/slurm.conf refusal "down-$name" "$@"
}
down requeue scontrol requeue 1
down hold scontrol uhold 1
down release scontrol release 1
down update-node scontrol update NodeName=n1 State=UNDRAIN
down show-node scontrol show node
down show-partition scontrol show partition
down squeue squeue
down scancel scancel 1
down sbatch submit true

squeue_now() { # squeue_now FILE
    squeue --noheader --all --local --states=all -O "$(printf '%s:~golden~,' "${columns[@]}" | sed 's/,$//')" >"$out/$1"
}
scancel "$cancelled"
wait_for "$cancelled" CANCELLED
scontrol requeue "$requeued"
scontrol requeuehold "$requeue_held"
squeue_now squeue-completing.txt
wait_for "$requeued" PENDING
wait_for "$requeue_held" PENDING
scontrol update NodeName=n2 State=DRAIN Reason="hpctrain: xid 79 [b@c] State=IDLE Gres=gpu:9 é"
scontrol update NodeName=n3 State=DOWN Reason="broken"
sleep 1
squeue_now squeue.txt
squeue --noheader --all --local --states=all -o '%A~golden~%x~golden~' >"$out/squeue-exclusions.txt"
scontrol --all --details --oneliner show node >"$out/nodes.txt"
scontrol --all --oneliner show partition >"$out/partitions.txt"
scontrol -V >"$out/version.txt"

scancel "$hostile" "$requeued" "$requeue_held" "$held" "$huge"
scontrol update NodeName=n2 State=UNDRAIN
scontrol update NodeName=n3 State=RESUME
echo "recorded in $out"
