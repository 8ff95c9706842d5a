"""What the event log says of a failure and of the way back, with the time of every phase."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.agent.agents import one_more
from hpctrain.agent.ladder_model import Fault, Start
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.recovery_log import RecoveryLog
from hpctrain.ids import Incarnation, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.watchdog.budget import Attempt, Cause

RANKS = RankPlan(Incarnation(1), (NodeName("n1"), NodeName("n3")), (), 2)


@pytest.fixture
def world(tmp_path: Path) -> tuple[RunDir, FakeClock]:
    run_dir = RunDir(tmp_path)
    run_dir.control.mkdir()
    return run_dir, FakeClock()


def log_of(run_dir: RunDir, clock: FakeClock) -> RecoveryLog:
    return RecoveryLog(run_dir, EventWriter(run_dir, "coordinator", "n1", clock), clock)


def start(clock: FakeClock, rung: str = "R2") -> Start:
    attempt = Attempt(clock.time(), Cause.NODE, rung, 0, 20, progressed=True, nodes=("n2",))
    return Start(RANKS, rung, attempt, "node n2 was lost")


def fault(clock: FakeClock, since_s: float = 0.5) -> Fault:
    return Fault(clock.time(), clock.time() - since_s, Cause.RANK, "rank 1 ended with exit code 1", "pidfd", (1,), ("n1",))


def test_every_phase_of_a_recovery_is_timed(world: tuple[RunDir, FakeClock]) -> None:
    """From the fault to the first new step; the cause is the one that was found out, not the one that showed first."""
    run_dir, clock = world
    log = log_of(run_dir, clock)
    log.fault(fault(clock), 0, 20)
    clock.sleep(1.0)
    log.killed()
    clock.sleep(0.25)
    log.started(start(clock), ("n4",))
    clock.sleep(2.0)
    trainer = EventWriter(run_dir, "trainer", "n1", clock)
    trainer.note("checkpoint.restored", "step 18", step=18, evidence={"tiers": {"peer": 3, "ram": 1}})
    log.first_step({"init_s": 1.0, "data_s": 0.1, "load_s": 0.3, "step_s": 0.2, "at": clock.time()}, 19)

    detected, started, finished = (event for event in read_events(run_dir) if event.source == "coordinator")
    assert ("fault.detected", "rank", 0.5, 20) == (
        detected.kind, detected.evidence["cause"], detected.evidence["detect_s"], detected.step)
    assert ("recovery.started", "R2", ["n4"]) == (started.kind, started.evidence["rung"], started.evidence["spares_left"])
    expected = {"rung": "R2", "cause": "node", "detect_s": 0.5, "kill_s": 1.0, "regroup_s": 0.25, "state_s": 0.3,
                "total_s": 3.75, "redone_steps": 2, "restored_step": 18, "tier": "peer", "incarnation": 1}
    assert expected == {key: finished.evidence[key] for key in expected}
    assert not log.is_open


def test_a_recovery_through_the_queue_is_told_by_the_next_start(world: tuple[RunDir, FakeClock]) -> None:
    """R3: the time runs from the fault in the old start to the first step of the new one, once."""
    run_dir, clock = world
    log = log_of(run_dir, clock)
    log.fault(fault(clock, 0.0), 0, 20)
    log.killed()
    log.keep_for_next_start("node", "node n2 was lost")
    clock.sleep(15.0)
    again = log_of(run_dir, clock)
    again.take_over(1)
    again.started(Start(RANKS), ())
    again.first_step({"at": clock.time()}, 21)
    third = log_of(run_dir, clock)
    third.take_over(2)

    (finished,) = (event for event in read_events(run_dir) if event.kind == "recovery.finished")
    assert ("R3", "node", 15.0) == tuple(finished.evidence[key] for key in ("rung", "cause", "total_s"))
    assert not third.is_open


def test_two_faults_on_the_way_are_one_recovery_from_the_first(world: tuple[RunDir, FakeClock]) -> None:
    """What fails again before the first new step has not come back yet."""
    run_dir, clock = world
    log = log_of(run_dir, clock)
    log.fault(fault(clock, 0.0), 0, 20)
    clock.sleep(1.0)
    log.fault(fault(clock, 0.0), 0, 20)
    log.started(start(clock, "R1"), ())
    clock.sleep(1.0)
    log.first_step({"at": clock.time()}, 21)

    (finished,) = (event for event in read_events(run_dir) if event.kind == "recovery.finished")
    assert 2.0 == finished.evidence["total_s"]


def test_one_more_agent_is_started_beside_the_others() -> None:
    """On the named node alone, sharing what the first step holds of it; everything else is as in the first step."""
    rest = ["--ntasks-per-node=1", "--gres=gpu:2", "python", "-m", "hpctrain.agent", "node"]

    assert ["srun", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1", "--nodelist=n2", *rest] == one_more(
        ["srun", "--nodes=3", "--ntasks=3", *rest], "n2")
