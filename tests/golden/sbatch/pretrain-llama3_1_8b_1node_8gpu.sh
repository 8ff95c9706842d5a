#!/bin/bash
#SBATCH --job-name=run-1
#SBATCH --comment=hpctrain:run-1
#SBATCH --output=/runs/run-1/logs/job.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --mem=0
#SBATCH --time=1-00:00:00
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@600

# Written by hpctrain @VERSION@. This script decides nothing: it starts the coordinator, passes signals on to it and
# ends with its exit code. What the ranks run is in plan.json of the run directory.
set -u
umask 077

run_dir=/runs/run-1
python=/venv/bin/python

# bash runs a trap only between commands, so the coordinator is started in the background and waited for.
# It starts with USR1 ignored, because the signal may come before its own handler is in place.
start_coordinator() {
  trap '' USR1
  "$python" -m hpctrain.agent coordinate --run-dir "$run_dir" -- \
    srun \
      --nodes=1 \
      --ntasks=1 \
      --ntasks-per-node=1 \
      --gres=gpu:8 \
      --cpu-bind=none \
      --mpi=none \
      --input=none \
      --wait=0 \
      --no-kill \
      --kill-on-bad-exit=0 \
      "$python" -m hpctrain.agent node --run-dir "$run_dir" &
  coordinator=$!
  # Slurm sends USR1 600 s before the time limit, and TERM at the limit, on preemption and on scancel.
  trap 'signalled=yes; kill -s USR1 "$coordinator" 2>/dev/null' USR1
  trap 'signalled=yes; told_to_end=yes; kill -s TERM "$coordinator" 2>/dev/null' TERM
}

told_to_end=no
for attempt in 1 2 3 4; do
  start_coordinator
  # A signal that we forward ends 'wait' early; then it is done again.
  while :; do
    signalled=no
    wait "$coordinator"
    status=$?
    [ "$signalled" = yes ] || break
  done
  # 71: the one before had ended by decision, with the code of a rank that a signal killed; there is nothing to take over.
  if [ "$status" = 71 ]; then status=$last; break; fi
  # A coordinator that was killed, or met an error of its own (70), gets a successor, which finds the ranks still at work.
  if [ "$status" -ne 70 ] && [ "$status" -le 128 ]; then break; fi
  if [ "$told_to_end" = yes ] || [ "$attempt" = 4 ]; then break; fi
  last=$status
  echo "hpctrain: the coordinator is gone (status $status): a successor takes over" >&2
done
exit "$status"
