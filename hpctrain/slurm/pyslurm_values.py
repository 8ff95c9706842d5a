"""What pyslurm shows, as hpctrain's values (pure).

Where pyslurm lies or leaves out, it is put right or said here:

- The text ``None`` is no text for pyslurm. A job's name is never empty in Slurm, so a missing name *was* ``None``.
- Exit statuses of 128 and more come out as 128 less (255 as 127): :func:`exit_is_unsure` tells when to ask elsewhere.
- Time limits are minutes; no limit is None, or a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm import parse
from hpctrain.slurm.model import Job, JobState, Node, Partition, Reservation
from hpctrain.slurm.nodelist import expand, natural_key
from hpctrain.slurm.pyslurm_wire import JOB_VALUES, NODE_VALUES, PARTITION_VALUES, RESERVATION_VALUES

Row = Sequence[Any]


def job_of(row: Row, user_name: Callable[[int], str]) -> Job:
    """One job from the values of :data:`~hpctrain.slurm.pyslurm_wire.JOB_VALUES`.

    Args:
        user_name: names a user id.
    """
    value = dict(zip(JOB_VALUES, row, strict=True))
    state, flags = parse.parse_state(value["state"] or "")
    reason, priority = parse.plain(value["state_reason"] or ""), value["priority"] or 0
    if state is JobState.PENDING:
        flags |= parse.hold_flags(reason, priority)
    ended = state.finished
    return Job(
        job_id=JobId(value["id"]),
        name=value["name"] or "None",
        user=user_name(value["user_id"]),
        state=state,
        flags=flags,
        reason=reason,
        partition=value["partition"] or "",
        account=value["account"] or "",
        qos=value["qos"] or "",
        num_nodes=value["num_nodes"] or 0,
        nodes=_expanded(value["allocated_nodes"]),
        batch_host=NodeName(value["batch_host"]) if value["batch_host"] else None,
        submit_time=_time(value["submit_time"]),
        eligible_time=_time(value["eligible_time"]),
        start_time=_time(value["start_time"]),
        end_time=None if state is JobState.PENDING else _time(value["end_time"]),
        time_limit_s=_limit(value["time_limit"]),
        restarts=value["requeue_count"] or 0,
        priority=priority,
        exit_code=value["exit_code"] if ended else None,
        exit_signal=value["exit_code_signal"] or 0 if ended else 0,
        comment=value["comment"] or "",
        work_dir=value["working_directory"] or "",
        excluded_nodes=() if ended else _expanded(value["excluded_nodes"]),
    )


def exit_is_unsure(job: Job) -> bool:
    """The job's real exit status may be 128 more than pyslurm says."""
    unsure = job.state is JobState.FAILED or (job.state.finished and bool(job.exit_code))
    return unsure and not job.exit_signal


def nodes_of(rows: Sequence[Row], *, tracked: bool) -> list[Node] | None:
    """Nodes in natural order; None where pyslurm does not tell how many GPUs are in use.

    Args:
        rows: values of :data:`~hpctrain.slurm.pyslurm_wire.NODE_VALUES`.
        tracked: the site tracks GPUs (``AccountingStorageTRES=gres/gpu``), so that they are among the allocated TRES.
    """
    nodes = [_node(row, tracked=tracked) for row in rows]
    known = [node for node in nodes if node is not None]
    if len(known) < len(nodes):
        return None
    return sorted(known, key=lambda node: natural_key(node.name))


def partition_of(row: Row) -> Partition:
    """One partition from the values of :data:`~hpctrain.slurm.pyslurm_wire.PARTITION_VALUES`."""
    value = dict(zip(PARTITION_VALUES, row, strict=True))
    return Partition(
        name=value["name"],
        is_default=bool(value["is_default"]),
        up=value["state"] == "UP",
        max_time_s=_limit(value["max_time_limit"]),
        default_time_s=_limit(value["default_time"]),
        nodes=_expanded(value["nodes"]),
    )


def reservation_of(row: Row) -> Reservation:
    """One reservation from the values of :data:`~hpctrain.slurm.pyslurm_wire.RESERVATION_VALUES`."""
    value = dict(zip(RESERVATION_VALUES, row, strict=True))
    users = tuple(value["users"] or ())
    return Reservation(value["name"], _expanded(value["nodes"]), users, _time(value["end_time"]))


def _node(row: Row, *, tracked: bool) -> Node | None:
    value = dict(zip(NODE_VALUES, row, strict=True))
    state, flags = parse.node_state(value["state"] or "")
    gpus, gpu_type = _gpus(value["configured_gres"] or {})
    if gpus and not tracked and state in ("ALLOCATED", "MIXED"):
        return None
    used = int((value["allocated_tres"] or {}).get("gres/gpu", 0))
    out = parse.out_of_service(state, flags)
    return Node(
        name=NodeName(value["name"]),
        state=state,
        flags=flags,
        partitions=tuple(value["partitions"] or ()),
        cpus=value["total_cpus"] or 0,
        memory_mib=value["real_memory"] or 0,
        gpus=gpus,
        gpu_type=gpu_type,
        gpus_allocated=used,
        features=tuple(value["active_features"] or ()),
        reason=(value["reason"] or "") if out else "",
        reason_user=(value["reason_user"] or "") if out and value["reason"] else "",
        reason_time=_time(value["reason_time"]) if out and value["reason"] else None,
        boot_time=_time(value["boot_time"]),
    )


def _gpus(gres: Mapping[str, Any]) -> tuple[int, str]:
    """From pyslurm's ``{"gpu:h100": 8}``, through the one reader of such texts."""
    return parse.parse_gpus(",".join(f"{name}:{count}" for name, count in gres.items()))


@lru_cache(maxsize=4096)
def _expanded(text: str | None) -> tuple[NodeName, ...]:
    return expand(text)


def _time(seconds: Any) -> float | None:
    return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None


def _limit(minutes: Any) -> int | None:
    return minutes * 60 if isinstance(minutes, int) and not isinstance(minutes, bool) and minutes > 0 else None
