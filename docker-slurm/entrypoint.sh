#!/usr/bin/env bash
# Starts one machine of the dockerised cluster: entrypoint.sh mariadb|slurmdbd|slurmctld|login|node
#
# Anything else is run as a command, with none of the daemons: docker run --rm IMAGE hpctrain --version
set -euo pipefail
# shellcheck source=docker-slurm/roles.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/roles.sh"

case ${1:-} in
    mariadb | slurmdbd | slurmctld | login | node)
        ROLE=$1
        mkdir -p /run/hpctrain-cluster
        echo "$ROLE" >/run/hpctrain-cluster/role
        trap 'exit 0' TERM INT
        "role_$ROLE"
        ;;
    *) exec "$@" ;;
esac
