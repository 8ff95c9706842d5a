"""``sacct``'s text into values (pure).

sacct is asked for named columns with a separator that no name can contain, one record per attempt and none per step, never
for JSON (whose shape changes from version to version). Recorded from 22.05, 24.11 and 26.05: tests/golden/slurm.

Odd values: times ``Unknown`` and ``None`` for what has not happened, nodes ``None assigned``, elapsed ``INVALID``, time
limits ``UNLIMITED`` and ``Partition_Limit``, ``CANCELLED by 1000``, resources that are empty for what never started, and
every GPU twice where a site tracks types: once as ``gres/gpu=8`` and once as ``gres/gpu:h100=8``.
"""

from __future__ import annotations

import re

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.accounting import Attempt, Tres
from hpctrain.slurm.nodelist import expand
from hpctrain.slurm.parse import parse_exit, parse_state, parse_time, records

COLUMNS = (
    "JobIDRaw", "JobID", "Cluster", "User", "Account", "Partition", "QOS", "State", "Submit", "Eligible", "Start", "End",
    "ElapsedRaw", "TimelimitRaw", "AllocCPUS", "AllocTRES", "ReqTRES", "NodeList", "ExitCode", "Reason", "WorkDir",
    "Comment", "JobName",
)  # fmt: skip
"""Columns of ``sacct --format`` from which an :class:`Attempt` is made, all known from 21.08 to 26.05."""

_ABSENT = frozenset({"", "(null)", "none", "n/a", "unknown", "invalid", "none assigned"})
_GPU = re.compile(r"^gres/gpu(?::(?P<type>.+))?$")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)([KMGTP]?)$", re.I)
_MIB = {"K": 1 / 1024, "M": 1, "": 1, "G": 1024, "T": 1024**2, "P": 1024**3}


def parse_attempts(text: str, separator: str) -> list[Attempt]:
    """Attempts of ``sacct --noheader --parsable --delimiter=SEPARATOR`` with :data:`COLUMNS`, in Slurm's order.

    Raises:
        ValueError: the text is not made of whole records.
    """
    rows = records(text, separator, len(COLUMNS), "sacct")
    return [_attempt(dict(zip(COLUMNS, row, strict=True))) for row in rows if row[0].isdecimal()]


def parse_tres(text: str) -> Tres:
    """Resources of ``AllocTRES`` or ``ReqTRES``; what is counted by type and in sum is counted once."""
    values = dict(item.partition("=")[::2] for item in text.split(",") if "=" in item)
    total, types = 0, {}
    for name, value in values.items():
        if match := _GPU.match(name):
            if match["type"]:
                types[match["type"]] = _whole(value)
            else:
                total = _whole(value)
    kind = max(types, key=lambda name: types[name], default="")
    return Tres(
        cpus=_whole(values.get("cpu", "")), gpus=max(total, sum(types.values())), gpu_type=kind,
        memory_mib=_mib(values.get("mem", "")), nodes=_whole(values.get("node", "")),
    )


def _attempt(field: dict[str, str]) -> Attempt:
    word = field["State"].strip().upper()
    outcome, _, by = word.partition(" BY ")
    state, _ = parse_state(outcome)
    start, end = parse_time(field["Start"]), parse_time(field["End"])
    # Slurm still shows what a job held before it lost its node, also while it waits to start again.
    held = parse_tres(field["AllocTRES"]) if start is not None else Tres()
    nodes = _nodes(field["NodeList"]) if start is not None else ()
    if not held.cpus and nodes:
        held = Tres(_whole(field["AllocCPUS"]), held.gpus, held.gpu_type, held.memory_mib, held.nodes)
    if not held.nodes and nodes:
        held = Tres(held.cpus, held.gpus, held.gpu_type, held.memory_mib, len(nodes))
    code, signal = parse_exit(_plain(field["ExitCode"]) or "0")
    return Attempt(
        job_id=JobId(int(field["JobIDRaw"])),
        label=field["JobID"],
        cluster=field["Cluster"],
        name=field["JobName"],
        user=_plain(field["User"]),
        account=_plain(field["Account"]),
        partition=_plain(field["Partition"]),
        qos=_plain(field["QOS"]),
        outcome=outcome.split("+")[0].strip() or "UNKNOWN",
        state=state,
        cancelled_by=by.strip(),
        submit_time=parse_time(field["Submit"]),
        eligible_time=parse_time(field["Eligible"]),
        start_time=start,
        end_time=end,
        elapsed_s=_elapsed(field["ElapsedRaw"], start, end),
        time_limit_s=_limit(field["TimelimitRaw"]),
        held=held,
        asked=parse_tres(field["ReqTRES"]),
        nodes=nodes,
        exit_code=code if end is not None else None,
        exit_signal=signal,
        reason=_plain(field["Reason"]),
        work_dir=field["WorkDir"],
        comment="" if field["Comment"] == "(null)" else field["Comment"],
    )


def _elapsed(text: str, start: float | None, end: float | None) -> float:
    """Slurm's own count, which leaves suspensions out; the difference of the times where Slurm has none."""
    if text.strip().isdecimal():
        return float(text)
    return max(0.0, end - start) if start is not None and end is not None else 0.0


def _nodes(text: str) -> tuple[NodeName, ...]:
    """Nodes, none for a list that no longer parses: an old record must not hide the others."""
    if text.strip().lower() in _ABSENT:
        return ()
    try:
        return expand(text)
    except ValueError:
        return ()


def _limit(text: str) -> int | None:
    """Seconds, from minutes."""
    return int(text) * 60 if text.strip().isdecimal() else None


def _mib(text: str) -> int:
    match = _SIZE.match(text.strip())
    return int(float(match[1]) * _MIB[match[2].upper()]) if match else 0


def _whole(text: str) -> int:
    """Counts may carry a suffix where conversion was not turned off."""
    match = _SIZE.match(text.strip())
    factor = {"K": 1000, "M": 1000**2, "G": 1000**3}.get(match[2].upper(), 1) if match else 0
    return int(float(match[1]) * factor) if match else 0


def _plain(text: str) -> str:
    return "" if text.strip().lower() in _ABSENT else text
