#!/usr/bin/env bash
# From a fresh machine to a trained model: sets up what is missing, starts a private Slurm cluster on this machine,
# and trains a small language model on it, while a GPU falls off its bus and a node loses its power. Needs no root where
# everything is installed. See docs/install.md.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./quickstart.sh [--set-up-only] [--help]

  --set-up-only   install what is missing and make .venv, then stop

Variables: HPCTRAIN_PYTHON, HPCTRAIN_VENV, HPCTRAIN_TORCH_INDEX_URL (explained in docs/install.md).
TEXT
}

set_up_only=
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --set-up-only) set_up_only=yes ;;
        *) usage >&2; printf 'error: unknown option: %s\n' "$argument" >&2; exit 2 ;;
    esac
done

# shellcheck source=scripts/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/setup.sh"

say "hpctrain quickstart: Slurm and Python packages, a private cluster, one training job"
set_up train
[[ -z $set_up_only ]] || exit 0

# The private cluster is meant, also on a machine that has a site's Slurm.
export HPCTRAIN_CLUSTER=${HPCTRAIN_CLUSTER:-default}

say "Starting a private Slurm cluster (4 nodes with 8 simulated GPUs each and health checks, all on this machine)"
hpctrain cluster up --health

say "Training on 2 nodes, with 2 to spare: hpctrain submit quickstart --set resources.spares=2"
hpctrain submit quickstart --set resources.spares=2
hpctrain logs latest -f &
following=$!

# Not before it trains: a drill breaks a running job.
trains() { hpctrain events latest -o json 2>/dev/null | grep -q '"step.first"'; }
for ((waited = 0; waited < 300; waited++)); do
    if trains || ! kill -0 "$following" 2>/dev/null; then break; fi
    sleep 1
done

# drill KIND: break the running job, as a person would try it. What is not as promised is said, and is no reason to stop.
drill() {
    say "Breaking it on purpose: hpctrain drill $1 latest"
    hpctrain drill "$1" latest --yes --any-time || note "the drill did not go as promised: see above"
}
drill xid79
drill kill-node

status=0
wait "$following" || status=$?
if ((status)); then
    printf 'error: the training job did not end well (exit code %s)\n' "$status" >&2
    printf "hint:  look at 'hpctrain why latest' and 'hpctrain logs latest'; the cluster is still up\n" >&2
    exit "$status"
fi

say "What happened: hpctrain report latest"
hpctrain report latest

say "Done. Everything above was run by commands that you can run, too:"
cat <<TEXT
    source $(printf '%q' "$VENV")/bin/activate   # so that your shell finds hpctrain

    hpctrain describe latest            how the run went, and where its files are
    hpctrain why latest                 what went wrong on the way, and what was done about it
    hpctrain logs latest --rank 0       what a rank printed
    hpctrain events latest              every start, save and stop
    hpctrain recipes list               the recipes that come with hpctrain
    hpctrain init my-recipe.yaml        write your own
    hpctrain submit quickstart --set training.steps=300 --follow

    hpctrain cluster kill-node n2       break a node of the private cluster
    hpctrain cluster down               take the cluster down (your runs stay)
TEXT
