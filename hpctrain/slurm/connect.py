"""Find the Slurm cluster to use, and connect to it (service).

In this order: the cluster of the job we run in; a private cluster that was asked for by name; the site's Slurm; the
only private cluster that is up. A machine may have a site Slurm *and* private clusters: naming one is how to choose it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpctrain import process
from hpctrain.clock import Clock
from hpctrain.devcluster import state
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.errors import SlurmMissingError, UsageError
from hpctrain.settings import Settings
from hpctrain.slurm.adapter import choose_adapter, open_adapter
from hpctrain.slurm.port import Slurm

SITE_CONFIGS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")


class SeveralClustersError(UsageError):
    """Several private clusters are up, and none was named."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The cluster that was chosen, and why.

    Attributes:
        kind: ``site`` or ``private`` (one that 'hpctrain cluster up' made).
        slurm_conf: value for ``SLURM_CONF``; "" where Slurm's commands find their own.
        cluster: name of the private cluster, "" for a site.
        why: the reason in words, for messages.
    """

    kind: Literal["site", "private"]
    slurm_conf: str
    cluster: str
    why: str

    @property
    def env(self) -> dict[str, str]:
        """Variables that point Slurm's commands and hpctrain at this cluster."""
        found = {"SLURM_CONF": self.slurm_conf} if self.slurm_conf else {}
        return found | ({"HPCTRAIN_CLUSTER": self.cluster} if self.cluster else {})


def connect(
    settings: Settings,
    *,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    announce: Callable[[str], None] | None = None,
    long_lived: bool = False,
) -> Slurm:
    """A Slurm to talk to. No Slurm command is run yet, except where nothing else tells whether there is a cluster.

    Args:
        announce: told in one sentence when a command is being retried.
        long_lived: this process will ask again and again; see :mod:`hpctrain.slurm.adapter`.

    Raises:
        SlurmMissingError: no cluster, or Slurm's client commands are not installed.
        NotFoundError: there is no private cluster of the name in the settings.
        ClusterError: there is one, but it is not up.
        UsageError: several private clusters are up and none was named.
    """
    env = os.environ if env is None else env
    choice = choose(settings, env)
    environment = {**env, **choice.env}
    return open_adapter(
        settings, environment, choose_adapter(settings.slurm_adapter, long_lived=long_lived), clock=clock, announce=announce
    )


def choose(
    settings: Settings,
    env: Mapping[str, str] | None = None,
    *,
    clusters: Callable[[], Sequence[ClusterInfo]] = state.running_clusters,
    site_configs: Sequence[str] | None = None,
    lasting: bool = False,
) -> Choice:
    """Decide which cluster to use; see the module's docstring for the order.

    Args:
        clusters: lists the private clusters that are up.
        site_configs: files whose existence means that the site has a Slurm.
        lasting: for a job that is to be submitted: the cluster that a 'hpctrain run' made for itself goes away with that
            run, and counts only where it was named.

    Raises:
        SlurmMissingError, NotFoundError, ClusterError, UsageError: as :func:`connect`.
    """
    env = os.environ if env is None else env
    _require_commands()
    conf = env.get("SLURM_CONF", "")
    if conf and env.get("SLURM_JOB_ID"):
        return _from_conf(conf, "the cluster of this job", clusters())
    if settings.cluster:
        found = state.find_cluster(settings.cluster)
        return Choice("private", found.slurm_conf, found.name, f"private cluster '{found.name}' was asked for")
    if conf:
        return _from_conf(conf, "SLURM_CONF is set", clusters())
    if env.get("SLURM_CONF_SERVER"):
        return Choice("site", "", "", "SLURM_CONF_SERVER is set")
    for path in _site_configs() if site_configs is None else site_configs:
        if Path(path).exists():
            return Choice("site", "", "", f"{path} exists")
    return _only_private(clusters(), lasting=lasting) or _site_by_itself(env)


def _from_conf(conf: str, why: str, clusters: Sequence[ClusterInfo]) -> Choice:
    for cluster in clusters:
        if cluster.slurm_conf == conf:
            return Choice("private", conf, cluster.name, why)
    if not Path(conf).exists():
        # Slurm's commands would wait a minute for it.
        raise SlurmMissingError(
            f"SLURM_CONF names a file that does not exist: {conf}",
            hint="unset SLURM_CONF, or start the private cluster it belonged to with 'hpctrain cluster up'",
        )
    return Choice("site", conf, "", why)


def _site_configs() -> tuple[str, ...]:
    """The usual places, and those beside the installation that the commands come from."""
    scontrol = process.find("scontrol")
    if not scontrol:
        return SITE_CONFIGS
    prefix = Path(scontrol).resolve().parent.parent
    return (*SITE_CONFIGS, str(prefix / "etc/slurm.conf"), str(prefix / "etc/slurm/slurm.conf"))


def _only_private(clusters: Sequence[ClusterInfo], *, lasting: bool) -> Choice | None:
    stay = [cluster for cluster in clusters if not state.is_for_one_run(cluster.name)]
    clusters = stay or ([] if lasting else clusters)
    if not clusters:
        return None
    chosen = clusters[0] if len(clusters) == 1 else next((c for c in clusters if c.name == state.DEFAULT_NAME), None)
    if chosen is None:
        names = ", ".join(cluster.name for cluster in clusters)
        raise SeveralClustersError(
            f"several private clusters are up: {names}",
            hint="choose one with 'hpctrain --cluster NAME ...' or HPCTRAIN_CLUSTER=NAME",
        )
    why = "it is the only private cluster that is up" if len(clusters) == 1 else "it is the default private cluster"
    return Choice("private", chosen.slurm_conf, chosen.name, why)


def _site_by_itself(env: Mapping[str, str]) -> Choice:
    """Last resort: Slurm's commands may find a configuration by a DNS record or a path compiled into them."""
    answer = process.run([process.find("scontrol") or "scontrol", "-V"], timeout_s=10, env=dict(env))
    if answer.ok:
        return Choice("site", "", "", "Slurm's commands find a configuration by themselves")
    raise SlurmMissingError(
        "there is no Slurm cluster to use: this machine has no slurm.conf and no private cluster is up",
        hint="start a private test cluster with 'hpctrain cluster up', or set SLURM_CONF to your site's slurm.conf",
    )


def _require_commands() -> None:
    missing = [name for name in COMMANDS if process.find(name) is None]
    if missing:
        raise SlurmMissingError(
            f"Slurm's commands are not installed here: {', '.join(missing)} not found",
            hint="on a cluster, run this on a login node; elsewhere install them (Debian, Ubuntu: slurm-client; for a"
            " private test cluster: slurmctld slurmd slurm-client munge) and run 'hpctrain cluster up'",
        )
