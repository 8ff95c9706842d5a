"""What pyslurm shows becomes the same values as what Slurm's commands print."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.slurm.model import JobState
from hpctrain.slurm.pyslurm_values import exit_is_unsure, job_of, nodes_of, partition_of, reservation_of
from hpctrain.slurm.pyslurm_wire import JOB_VALUES, LONGEST_BYTES, NODE_VALUES, Frames, encode


def job(**values: Any):
    known = {"id": 7, "user_id": 1000, "name": "train", "state": "RUNNING"}
    return job_of([(known | values).get(name) for name in JOB_VALUES], lambda uid: f"u{uid}")


def node(**values: Any) -> list[Any]:
    known = {"name": "n1", "state": "IDLE", "configured_gres": {"gpu:h100": 8}}
    return [(known | values).get(name) for name in NODE_VALUES]


def test_a_pending_job_has_no_end_and_no_exit() -> None:
    """What Slurm fills in for later is left out, as the commands leave it out."""
    waiting = job(state="PENDING", state_reason="Resources", end_time=99, priority=4, exit_code=0, time_limit=2)

    assert (waiting.end_time, waiting.exit_code, waiting.reason, waiting.held) == (None, None, "Resources", False)
    assert waiting.time_limit_s == 120


@pytest.mark.parametrize(
    ("reason", "priority", "flag"),
    [("JobHeldUser", 0, "HELD"), ("job requeued in held state", 0, "REQUEUE_HOLD")],
)
def test_holds_are_seen(reason: str, priority: int, flag: str) -> None:
    """By reason and priority, as with the commands."""
    held = job(state="PENDING", state_reason=reason, priority=priority)

    assert held.held
    assert flag in held.flags


def test_a_job_that_is_called_none_keeps_its_name() -> None:
    """The library takes that word for nothing, and a job always has a name."""
    assert job(name=None).name == "None"
    assert job(comment=None).comment == ""


@pytest.mark.parametrize(
    ("state", "code", "signal", "unsure"),
    [("COMPLETED", 0, 0, False), ("FAILED", 127, 0, True), ("FAILED", 0, 0, True), ("FAILED", 0, 9, False),
     ("CANCELLED", 0, 0, False), ("RUNNING", None, 0, False)],
)
def test_exit_statuses_that_may_be_128_more_are_known(state: str, code: int | None, signal: int, unsure: bool) -> None:
    """255 comes as 127, and 128 as 0 of a failed job."""
    assert exit_is_unsure(job(state=state, exit_code=code, exit_code_signal=signal)) is unsure


def test_a_completing_job_still_runs() -> None:
    """One word hides the base state, in the library as in the commands."""
    ending = job(state="COMPLETING")

    assert ending.state is JobState.RUNNING
    assert "COMPLETING" in ending.flags


def test_gpus_in_use_are_told_or_not_claimed() -> None:
    """From the tracked resources; where a site tracks no GPUs, a busy node is not called free."""
    idle = node()
    busy = node(name="n2", state="MIXED", allocated_tres={"cpu": 2, "gres/gpu": 3})
    found = nodes_of([busy, idle], tracked=True)

    assert found is not None
    assert [(one.name, one.gpus_allocated) for one in found] == [("n1", 0), ("n2", 3)]
    assert {(one.gpus, one.gpu_type) for one in found} == {(8, "h100")}
    assert nodes_of([busy, idle], tracked=False) is None
    assert nodes_of([idle], tracked=False) is not None


def test_a_node_in_service_has_no_reason() -> None:
    """Slurm 24.11 goes on showing the old one."""
    old = {"reason": "hpctrain: xid 79", "reason_user": "root", "reason_time": 5}
    found = nodes_of([node(**old), node(name="n2", state="IDLE+DRAIN+NOT_RESPONDING", **old)], tracked=True)

    assert found is not None
    assert (found[0].reason, found[0].reason_user, found[0].reason_time) == ("", "", None)
    assert (found[1].reason, found[1].reason_user, found[1].reason_time) == ("hpctrain: xid 79", "root", 5.0)
    assert found[1].drained


def test_limits_that_are_none_are_none() -> None:
    """Words and missing numbers are no limit; minutes become seconds."""
    assert partition_of(["p", True, "UP", "UNLIMITED", None, "n[1-2]"]).max_time_s is None
    part = partition_of(["p", False, "DOWN", 90, 60, None])
    assert (part.max_time_s, part.default_time_s, part.up, part.nodes) == (5400, 3600, False, ())


def test_a_reservation_without_users_has_none() -> None:
    """Slurm goes by accounts there."""
    assert reservation_of(["r", "n1", None, 7]).users == ()


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers())), st.integers(1, 7))
def test_frames_arrive_in_any_pieces(messages: list[dict[str, Any]], size: int) -> None:
    """However the pipe cuts them."""
    data, frames = b"".join(encode(message) for message in messages), Frames()
    found = [message for start in range(0, len(data), size) for message in frames.feed(data[start : start + size])]

    assert found == messages


@pytest.mark.parametrize("noise", [b"\xff\xff\xff\xff", (2).to_bytes(4, "big") + b"[]", (1).to_bytes(4, "big") + b"{"])
def test_noise_is_no_frame(noise: bytes) -> None:
    """Too long, not an object, or not JSON."""
    assert int.from_bytes(b"\xff" * 4, "big") > LONGEST_BYTES
    with pytest.raises(ValueError):
        Frames().feed(noise)
