"""A watchdog made of its parts (service).

What belongs to one user lies in that user's own files, by default below ``~/.local/state/hpctrain/watchdog``; the watchdog
of a whole cluster keeps its in ``/var/lib/hpctrain/watchdog``. Each cluster has a directory of its own there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpctrain.clock import Clock
from hpctrain.files import make_private_dir
from hpctrain.nodes.site import Site
from hpctrain.slurm.port import Slurm
from hpctrain.watchdog.budget import BudgetLimits
from hpctrain.watchdog.config import WatchdogConfig
from hpctrain.watchdog.continuation import Continuation
from hpctrain.watchdog.daemon import Daemon, DryRun
from hpctrain.watchdog.drain import Drainer
from hpctrain.watchdog.executor import Executor
from hpctrain.watchdog.journal import FencedError, Journal
from hpctrain.watchdog.lease import Lease
from hpctrain.watchdog.notify import Notifications
from hpctrain.watchdog.pacing import Pace
from hpctrain.watchdog.runs import RunFiles
from hpctrain.watchdog.spool import SpoolFiles
from hpctrain.watchdog.webhook import post

CLUSTER_STATE = "/var/lib/hpctrain/watchdog"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a watchdog works with.

    Attributes:
        whole_cluster: everybody's jobs, by Slurm and the spool alone.
        directory: of its journal, lease and status.
        host: name of this host, for people and for the event file.
        place: name of the running kernel, for the lock: hosts may share a name, and containers a host.
        settle_s: see :data:`hpctrain.watchdog.executor.SETTLE_S`.
        site: the nodes and the journal of the acts on them, for who may drain; None for who may not.
    """

    slurm: Slurm
    config: WatchdogConfig
    clock: Clock
    directory: Path
    host: str
    place: str
    whole_cluster: bool = False
    settle_s: float = 25.0
    site: Site | None = None


def state_directory(config: WatchdogConfig, env: Mapping[str, str], *, which: str, whole_cluster: bool) -> Path:
    """Where a watchdog keeps its state.

    Args:
        which: tells clusters apart: a private cluster's name or the path of slurm.conf, "" for the site's own.
    """
    if config.state_dir:
        root = Path(config.state_dir)
    elif whole_cluster:
        root = Path(CLUSTER_STATE)
    elif own := env.get("HPCTRAIN_STATE_DIR"):
        root = Path(own) / "watchdog"
    else:
        home = env.get("HOME") or str(Path.home())
        root = Path(env.get("XDG_STATE_HOME") or f"{home}/.local/state") / "hpctrain" / "watchdog"
    name = "site"
    if which:
        name = which if which.replace("-", "").isalnum() else f"site-{hashlib.sha256(which.encode()).hexdigest()[:10]}"
    return root / ("cluster-" + name if whole_cluster else name)


def lease_of(setting: Setting) -> Lease:
    """The lease that all watchdogs over the same state contend for."""
    return Lease(setting.directory / "lease", setting.place, setting.clock)


@contextlib.contextmanager
def watchdog(
    setting: Setting, lease: Lease | None, *, say: Callable[[str], None], point: Callable[[str], None] = lambda _: None,
) -> Iterator[Daemon]:
    """A watchdog that holds the lease, or, without one, a dry run that changes nothing.

    Raises:
        StorageError: the journal cannot be opened.
        FencedError: another has taken over meanwhile.
    """
    clock, config = setting.clock, setting.config
    path = None
    if lease is not None:
        path = make_private_dir(setting.directory) / "journal.sqlite"
    journal = Journal(path, lease.token if lease else 0)
    files: RunFiles | SpoolFiles
    if setting.whole_cluster:
        spool = Path(config.spool_dir) if config.spool_dir else None
        files = SpoolFiles(spool, BudgetLimits(), journal, clock)
    else:
        files = RunFiles(setting.host, clock, continue_after_s=config.continue_after_s)
    actor: Executor | DryRun = DryRun(say)
    if lease is not None:
        notifier = Notifications(config, post, host=setting.host)
        own = None if setting.whole_cluster else Continuation(setting.slurm, clock, point)
        actor = Executor(
            setting.slurm, journal, lease, records=files, notifier=notifier, clock=clock, say=say, point=point,
            settle_s=setting.settle_s, continuation=own, drains=Drainer(setting.site) if setting.site else None,
        )
    try:
        with contextlib.suppress(FencedError):
            journal.forget(clock.time())
        yield Daemon(
            setting.slurm, files, actor, journal, clock=clock, pace=Pace(config.poll_s, config.longest_poll_s), lease=lease,
            all_users=setting.whole_cluster, status=setting.directory / "status.json" if lease else None,
            cpu_s=cpu_seconds, say=say, drain_after=config.drain_after if setting.site else 0,
        )
    finally:
        journal.close()


def cpu_seconds() -> float:
    """CPU seconds that this process and its ended children have used."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def this_place() -> str:
    """Host name and boot, which together no other kernel has."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:13]
    except OSError:
        boot = "unknown"
    return f"{os.uname().nodename}.{boot}"
