"""Does this node have the memory for another block? (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.recipe.units import format_bytes

RESERVE_BYTES = 512 * 1024 * 1024
"""Left for everything else at least."""

RESERVE_SHARE = 0.05
"""Of the limit, left for everything else at least: what a node needs for page tables and network buffers grows with it."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that bounds memory: the node, or a control group.

    Attributes:
        what: for the message, such as ``the node`` or ``control group /job_7``.
        total_bytes: the bound.
        left_bytes: what can still be used under it, without swapping; caches that the kernel gives back count as left.
    """

    what: str
    total_bytes: int
    left_bytes: int

    @property
    def reserve_bytes(self) -> int:
        """What stays free: never more than an eighth of a small limit."""
        return min(max(RESERVE_BYTES, int(self.total_bytes * RESERVE_SHARE)), self.total_bytes // 8)


def refusal(need_bytes: int, limits: Sequence[Limit], *, what: str, pending_bytes: int = 0) -> str:
    """Why the memory must not be taken, with the arithmetic; "" when it may be.

    Args:
        need_bytes: to allocate now.
        limits: see :class:`Limit`; the tightest one counts.
        what: it is for, such as ``2 blocks of 3.2 GiB for rank 0``.
        pending_bytes: others are allocating at this moment.
    """
    for limit in limits:
        room = limit.left_bytes - limit.reserve_bytes - pending_bytes
        if need_bytes > room:
            others = f" - {format_bytes(pending_bytes)} being allocated for other ranks" if pending_bytes else ""
            return (
                f"{what} needs {format_bytes(need_bytes)}, but {limit.what} has room for {format_bytes(max(room, 0))}: "
                f"{format_bytes(limit.left_bytes)} left of {format_bytes(limit.total_bytes)} "
                f"- {format_bytes(limit.reserve_bytes)} kept free{others}"
            )
    return ""


def parse_meminfo(text: str) -> Limit:
    """The node, from ``/proc/meminfo``.

    Raises:
        ValueError: it lacks a line.
    """
    values = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        fields = rest.split()
        if fields and fields[0].isdigit():
            values[name] = int(fields[0]) * (1024 if fields[1:] == ["kB"] else 1)
    try:
        return Limit("the node", values["MemTotal"], values["MemAvailable"])
    except KeyError as error:
        raise ValueError(f"/proc/meminfo lacks {error}") from None


def cgroup_limit(name: str, limit: str, usage: str, stat: str) -> Limit | None:
    """A control group of version 1 or 2, from its files; None where it has no limit.

    Args:
        name: for messages.
        limit: text of ``memory.max`` or ``memory.limit_in_bytes``.
        usage: text of ``memory.current`` or ``memory.usage_in_bytes``.
        stat: text of ``memory.stat``.
    """
    if not limit.strip().isdigit() or not usage.strip().isdigit():
        return None  # "max"
    total = int(limit)
    if total >= 1 << 60:
        return None  # version 1 writes "no limit" as a huge number
    fields = dict(line.split()[:2] for line in stat.splitlines() if len(line.split()) >= 2)
    cache = int(fields.get("total_inactive_file", fields.get("inactive_file", "0")))
    return Limit(f"control group {name}", total, max(0, total - int(usage) + cache))
