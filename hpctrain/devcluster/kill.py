"""Ending processes of a private cluster for certain (service)."""

from __future__ import annotations

import signal
from collections.abc import Callable

from hpctrain.clock import Clock
from hpctrain.devcluster import processes
from hpctrain.devcluster.layout import Layout
from hpctrain.devcluster.members import Member, find_members
from hpctrain.errors import ClusterError

GIVE_UP_AFTER_S = 20.0
_POLL_S = 0.02


def kill_members(layout: Layout, wanted: Callable[[Member], bool], clock: Clock) -> list[Member]:
    """SIGKILL all wanted processes of a cluster, also those that they start meanwhile; return who was killed.

    All are looked up before the first is killed: a process that hides its environment is recognised by its parents only.

    Raises:
        ClusterError: some are still there after 20 seconds.
    """
    known: dict[tuple[int, int], Member] = {}
    deadline = clock.monotonic() + GIVE_UP_AFTER_S
    while True:
        for member in find_members(layout):
            if wanted(member):
                known.setdefault((member.pid, member.started), member)
        alive = [member for member in known.values() if _is_alive(member)]
        if not alive:
            return list(known.values())
        if clock.monotonic() > deadline:
            pids = " ".join(str(member.pid) for member in alive)
            raise ClusterError(f"processes {pids} do not end", hint="they hang in the kernel, perhaps on a dead file system")
        for member in alive:
            processes.send(member.pid, signal.SIGKILL, started=member.started)
        clock.sleep(_POLL_S)


def _is_alive(member: Member) -> bool:
    return processes.is_alive(member.pid) and processes.start_ticks(member.pid) == member.started
