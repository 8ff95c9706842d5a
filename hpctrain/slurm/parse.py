"""Slurm's text into values (pure).

Jobs come from ``squeue -O`` with a separator that the caller draws afresh for every call, so that no job name or
comment can contain it: names with ``|``, newlines or spaces are data, never structure. Nodes and partitions come from
``scontrol --oneliner``, where only operators write free text, and that text (a node's Reason) stands behind all keys
that are read here. Times are asked for as ``SLURM_TIME_FORMAT=%s``; local ISO times are understood as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobState, Node, Partition, Reservation
from hpctrain.slurm.nodelist import expand, natural_key

JOB_FIELDS = (
    "JobID", "UserName", "State", "Reason", "Partition", "Account", "QOS", "NumNodes", "NodeList", "BatchHost",
    "SubmitTime", "EligibleTime", "StartTime", "EndTime", "TimeLimit", "RestartCnt", "PriorityLong", "exit_code",
    "WorkDir", "Name", "Comment",
)  # fmt: skip
"""Columns of ``squeue -O`` from which a :class:`Job` is made, in the order :func:`parse_jobs` expects them."""

_ABSENT = frozenset({"", "(null)", "n/a", "none", "unknown", "invalid"})

_BASE_OF_FLAG = {
    "COMPLETING": JobState.RUNNING, "CONFIGURING": JobState.RUNNING, "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING, "STAGE_OUT": JobState.RUNNING, "STOPPED": JobState.RUNNING,
    "POWER_UP_NODE": JobState.RUNNING, "UPDATE_DB": JobState.RUNNING,
    "REQUEUED": JobState.PENDING, "REQUEUE_HOLD": JobState.PENDING, "REQUEUE_FED": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING, "RESV_DEL_HOLD": JobState.PENDING, "LAUNCH_FAILED": JobState.PENDING,
    "EXPEDITING": JobState.PENDING, "BLOCKED": JobState.PENDING,
    "REVOKED": JobState.CANCELLED, "RECONFIG_FAIL": JobState.FAILED,
}  # fmt: skip
"""The text interface shows one word per job; a flag hides the base state, and this is the one it goes with."""

_NODE_BASES = frozenset({"IDLE", "ALLOCATED", "MIXED", "DOWN", "UNKNOWN", "FUTURE", "ERROR"})
_OUT_STATES = frozenset({"DOWN", "ERROR", "UNKNOWN"})
_OUT_FLAGS = frozenset({"DRAIN", "FAIL", "MAINTENANCE", "REBOOT_ISSUED", "REBOOT_REQUESTED", "INVALID_REG"})
_NODE_MARKS = {
    "*": "NOT_RESPONDING", "~": "POWERED_DOWN", "#": "POWERING_UP", "%": "POWERING_DOWN", "$": "MAINTENANCE",
    "@": "REBOOT_ISSUED", "^": "REBOOT_ISSUED", "!": "POWER_DOWN", "-": "PLANNED",
}  # fmt: skip
_REASON = re.compile(r" Reason=(?P<text>.*) \[(?P<user>[^\s\[\]@]+)@(?P<time>\d+|\d{4}-\d\d-\d\dT[\d:]+)\]", re.S)
"""The last bracket is Slurm's: who set the reason and when. Newer versions write more keys after it."""
_BARE_REASON = re.compile(r" Reason=(?P<text>.*)(?P<user>)(?P<time>)$", re.S)
"""A reason from slurm.conf has no bracket."""
_GPU = re.compile(r"^gpu(?::(?P<type>[^:(]+))??(?::no_consume)?(?::(?P<count>\d+))?(?:\(.*\))?$")


def job_format(separator: str) -> str:
    """Value of ``squeue -O`` for :func:`parse_jobs`; the separator must hold no comma and not begin with a digit."""
    return ",".join(f"{field}:{separator}" for field in JOB_FIELDS)


def parse_jobs(text: str, separator: str) -> list[Job]:
    """Jobs of ``squeue --noheader -O`` with :func:`job_format`, in Slurm's order.

    Raises:
        ValueError: the text is not made of whole records.
    """
    return [_job(dict(zip(JOB_FIELDS, record, strict=True))) for record in records(text, separator, len(JOB_FIELDS))]


def exclusion_format(separator: str) -> str:
    """Value of ``squeue -o`` for :func:`parse_exclusions` (``-O`` has no column for excluded nodes)."""
    return f"%A{separator}%x{separator}"


def parse_exclusions(text: str, separator: str) -> dict[JobId, tuple[NodeName, ...]]:
    """Excluded nodes by job.

    Raises:
        ValueError: the text is not made of whole records.
    """
    return {JobId(int(job_id)): expand(nodes) for job_id, nodes in records(text, separator, 2)}


def parse_nodes(text: str) -> list[Node]:
    """Nodes of ``scontrol --details --oneliner show node``, in natural order."""
    # A reason may hold a line break, so a record begins where a name does, not where a line does.
    records = re.split(r"^(?=NodeName=)", text, flags=re.M)
    nodes = [_node(record.rstrip()) for record in records if record.startswith("NodeName=")]
    return sorted(nodes, key=lambda node: natural_key(node.name))


def parse_partitions(text: str) -> list[Partition]:
    """Partitions of ``scontrol --oneliner show partition``, in Slurm's order."""
    return [_partition(line) for line in text.splitlines() if line.startswith("PartitionName=")]


def parse_reservations(text: str) -> list[Reservation]:
    """Reservations of ``scontrol --oneliner show reservation``, by name."""
    lines = (line for line in text.splitlines() if line.startswith("ReservationName="))
    found = [
        Reservation(
            _value(line, "ReservationName"), expand(_value(line, "Nodes")), _words(_value(line, "Users")),
            parse_time(_value(line, "EndTime")),
        )
        for line in lines
    ]  # fmt: skip
    return sorted(found, key=lambda one: one.name)


def parse_time(text: str) -> float | None:
    """Seconds since the epoch from ``1795227261`` or local ``2026-11-21T02:11:33``; None for N/A, None, Unknown."""
    if text.strip().lower() in _ABSENT:
        return None
    if text.isdigit():
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def parse_limit(text: str) -> int | None:
    """Seconds of a time limit in any of Slurm's forms; None for UNLIMITED, NONE, Partition_Limit and the like.

    The forms are ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``, ``days-hours:minutes``
    and ``days-hours:minutes:seconds``.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        return None
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] is not None or match[4] is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    return first * 60 + second


def parse_state(word: str) -> tuple[JobState, frozenset[str]]:
    """Base state and flags from ``RUNNING``, ``COMPLETING``, ``CANCELLED by 1000`` or ``PENDING+REQUEUED``."""
    words = re.split(r"[+,\s]+", word.strip().upper())
    base, flags = JobState.UNKNOWN, set()
    for part in (words[:1] if "BY" in words else words):
        if part in JobState.__members__:
            base = JobState[part]
        else:
            flags.add(part)
    if base is JobState.UNKNOWN:
        base = next((_BASE_OF_FLAG[flag] for flag in sorted(flags) if flag in _BASE_OF_FLAG), JobState.UNKNOWN)
    return base, frozenset(flags)


def parse_exit(text: str) -> tuple[int, int]:
    """(exit status, signal) from ``3:0``, or from the wait status ``768`` that squeue prints."""
    if ":" in text:
        code, _, signal = text.partition(":")
        return int(code), int(signal)
    status = int(text or 0)
    return status >> 8 & 0xFF, status & 0x7F


def parse_gpus(text: str) -> tuple[int, str]:
    """(count, type) of the GPUs in a gres text such as ``gpu:h100:4(S:0-1),gpu:a100:2,shard:8``.

    Counts add up; the type is that of the largest group, "" where Slurm has none.
    """
    counts: dict[str, int] = {}
    for item in re.split(r",(?![^(]*\))", text):
        if match := _GPU.match(item.strip()):
            kind = match["type"] or ""
            counts[kind] = counts.get(kind, 0) + int(match["count"] or 1)
    kind = max(counts, key=lambda name: counts[name], default="")
    return sum(counts.values()), kind


def records(text: str, separator: str, width: int, program: str = "squeue") -> Iterator[list[str]]:
    """Values of each record of a listing in which every value is followed by the separator, every record by a line break.

    Raises:
        ValueError: the text is not made of whole records.
    """
    *values, tail = text.split(separator)
    if tail.strip() or len(values) % width:
        raise ValueError(f"{program}'s answer is cut off or has other columns than were asked for")
    for start in range(0, len(values), width):
        first, *rest = values[start : start + width]
        yield [first.strip(), *rest]


def _job(field: dict[str, str]) -> Job:
    state, flags = parse_state(field["State"])
    reason, priority = plain(field["Reason"]), int(field["PriorityLong"] or 0)
    if state is JobState.PENDING:
        flags |= hold_flags(reason, priority)
    ended = state.finished
    code, signal = parse_exit(field["exit_code"]) if ended else (None, 0)
    return Job(
        job_id=JobId(int(field["JobID"])),
        name=field["Name"],
        user=field["UserName"],
        state=state,
        flags=flags,
        reason=reason,
        partition=plain(field["Partition"]),
        account=plain(field["Account"]),
        qos=plain(field["QOS"]),
        num_nodes=int(field["NumNodes"].partition("-")[0] or 0),
        nodes=expand(field["NodeList"]),
        batch_host=NodeName(field["BatchHost"]) if plain(field["BatchHost"]) else None,
        submit_time=parse_time(field["SubmitTime"]),
        eligible_time=parse_time(field["EligibleTime"]),
        start_time=parse_time(field["StartTime"]),
        end_time=None if state is JobState.PENDING else parse_time(field["EndTime"]),
        time_limit_s=parse_limit(field["TimeLimit"]),
        restarts=int(field["RestartCnt"] or 0),
        priority=priority,
        exit_code=code,
        exit_signal=signal,
        comment="" if field["Comment"] == "(null)" else field["Comment"],
        work_dir=field["WorkDir"],
    )


def hold_flags(reason: str, priority: int) -> frozenset[str]:
    """Flags of a pending job: squeue's only trace of REQUEUE_HOLD is the reason ``job requeued in held state``.

    Priority 0 is Slurm's own mark of a hold.
    """
    if "held state" in reason.replace("_", " "):
        return frozenset({"REQUEUE_HOLD"})
    return frozenset({"HELD"}) if priority == 0 else frozenset()


def _node(record: str) -> Node:
    state, flags = node_state(_value(record, "State"))
    gpus, gpu_type = parse_gpus(_value(record, "Gres"))
    reason = None
    if out_of_service(state, flags):
        reason = _REASON.search(record) or _BARE_REASON.search(record)
    return Node(
        name=NodeName(_value(record, "NodeName")),
        state=state,
        flags=flags,
        partitions=_words(_value(record, "Partitions")),
        cpus=int(_value(record, "CPUTot") or 0),
        memory_mib=int(_value(record, "RealMemory") or 0),
        gpus=gpus,
        gpu_type=gpu_type,
        gpus_allocated=_gpus_allocated(record),
        features=_words(_value(record, "ActiveFeatures")),
        reason=reason["text"] if reason else "",
        reason_user=reason["user"] if reason else "",
        reason_time=parse_time(reason["time"]) if reason else None,
        boot_time=parse_time(_value(record, "BootTime") or "None"),
    )


def _gpus_allocated(record: str) -> int:
    """GresUsed counts the devices; AllocTRES only knows GPUs where the site tracks them."""
    used = _value(record, "GresUsed")
    if used:
        return parse_gpus(used)[0]
    tracked = re.search(r" AllocTRES=\S*\bgres/gpu=(\d+)", record)
    return int(tracked[1]) if tracked else 0


def out_of_service(state: str, flags: frozenset[str]) -> bool:
    """Whether a reason is the node's present one: Slurm 24.11 goes on showing that of a node put back into service."""
    return state in _OUT_STATES or bool(flags & _OUT_FLAGS)


def node_state(text: str) -> tuple[str, frozenset[str]]:
    """Base state and flags from ``IDLE+DRAIN*`` or ``MIXED+NOT_RESPONDING``."""
    base, flags = "UNKNOWN", set()
    for part in text.upper().split("+"):
        word = part.rstrip("".join(_NODE_MARKS))
        flags |= {_NODE_MARKS[mark] for mark in part[len(word) :]}
        if word in _NODE_BASES:
            base = word
        elif word:
            flags.add(word)
    return base, frozenset(flags)


def _partition(line: str) -> Partition:
    return Partition(
        name=_value(line, "PartitionName"),
        is_default=_value(line, "Default") == "YES",
        up=_value(line, "State") == "UP",
        max_time_s=parse_limit(_value(line, "MaxTime")),
        default_time_s=parse_limit(_value(line, "DefaultTime")),
        nodes=expand(_value(line, "Nodes")),
    )


def _value(record: str, key: str) -> str:
    """The first value of a key; "" where there is none. No value that is read this way can hold a space."""
    match = re.search(rf"(?:^|\s){key}=(\S*)", record)
    return "" if match is None or match[1] == "(null)" else match[1]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def plain(text: str) -> str:
    """The text, or "" where it is one of Slurm's words for nothing."""
    return "" if text.strip().lower() in _ABSENT else text
