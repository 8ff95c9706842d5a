#!/usr/bin/env bash
# Record what Slurm's commands print, as fixtures for the parsers: one directory per version under tests/golden/slurm.
#
#   scripts/record_slurm_outputs.sh here                       with the Slurm of this machine, as root
#   scripts/record_slurm_outputs.sh bookworm|trixie|forky...   in the image hpctrain-slurm:SUITE, which must have been built
# RECORD_IMAGE names another image; the stage "runtime" of docker-slurm/Dockerfile is enough:
#   docker build --target runtime --build-arg SUITE=forky --tag slurm-forky --file docker-slurm/Dockerfile .
#
# Each brings up a cluster of its own twice (with four nodes and no accounting; with eight and slurmdbd), records, and takes it
# down: about four minutes. Running it again replaces what was recorded; job ids, times and directories differ then.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
golden=$root/tests/golden/slurm

record_here() {
    local dir
    dir=$(mktemp -d /tmp/record-XXXXXX)
    # shellcheck disable=SC2064 # the directory of now
    trap "'$golden/cluster.sh' down '$dir' || true; rm -rf '$dir'" EXIT
    "$golden/cluster.sh" up "$dir" 4 none
    SLURM_CONF=$dir/slurm.conf "$golden/record.sh"
    "$golden/cluster.sh" down "$dir"
    rm -rf "$dir"
    mkdir "$dir"
    "$golden/cluster.sh" up "$dir" 8 accounting
    "$golden/record_states.sh" "$dir"
}

record_in() { # record_in SUITE
    docker run --rm --init --hostname recorder --volume "$root:$root" --workdir "$root" "${RECORD_IMAGE:-hpctrain-slurm:$1}" \
        bash "$root/scripts/record_slurm_outputs.sh" here
}

(($#)) || { sed -n '2,11p' "$0" >&2; exit 2; }
for where in "$@"; do
    case $where in
        here) record_here ;;
        *) record_in "$where" ;;
    esac
done
