"""Events become incidents, over restarts and for runs of older versions."""

from __future__ import annotations

import json

import pytest

from hpctrain.jobs.incident import CANCELLED, OPEN, OVERTAKEN, RECOVERED, STOPPED
from hpctrain.jobs.incident_text import title
from hpctrain.jobs.incidents import find_incidents
from hpctrain.jobs.records import Restart
from tests.unit.jobs.story import Story, respawned


def test_a_respawn_is_one_incident_with_its_phases() -> None:
    """Detected, started, finished: one incident with cause, rung, phases, tier and what was done again."""
    (one,) = find_incidents(respawned().events)

    assert ("rank", "R1", RECOVERED, True) == (one.cause, one.rung, one.outcome, one.measured)
    assert ["detect", "kill", "regroup", "state", "data", "first_step"] == list(one.phases)
    assert one.total_s == pytest.approx(0.9)
    assert (1, 20, "ram", ("n2",), (2,), "pidfd") == (
        one.redone_steps, one.restored_step, one.tier, one.nodes, one.ranks, one.detected_by)
    json.dumps(one.to_json(), allow_nan=False)


def test_an_agents_word_about_the_same_rank_is_no_second_incident() -> None:
    """The agent's rank.failed before or after the coordinator's fault.detected belongs to it, and gives the traceback."""
    story = Story().begin()
    story.tell("rank.failed", "rank 2 died", after=10, source="agent", node="n2", rank=2, traceback="Traceback: here")
    story.fault(after=0.01).recovery("R1")
    story.tell("rank.failed", "rank 3 died", after=0.01, source="agent", node="n2", rank=3)
    story.recovered("R1", fault_time=story.now - 0.1, detect_s=0.05, first_step_s=1.0)

    (one,) = find_incidents(story.events)

    assert ("rank 2 on n2 died of SIGKILL", "Traceback: here", (2,)) == (one.reason, one.traceback, one.ranks)


def test_a_rung_that_fails_falls_through_to_the_next() -> None:
    """R1 is tried, the node turns out to be gone, R2 brings the job back: two rungs of incidents that follow each other."""
    story = Story().begin().fault("rank").recovery("R1")
    story.fault("node", after=1.0, reason="n2 does not answer", detected_by="agent_heartbeat")
    fault = story.events[-1].evidence["fault_time"]
    story.recovery("R2").recovered("R2", fault_time=fault, cause="node", detect_s=0.1, regroup_s=2.0, first_step_s=1.0)

    first, second = find_incidents(story.events)

    assert (OVERTAKEN, "R1") == (first.outcome, first.rung)
    assert (RECOVERED, "R2", "node") == (second.outcome, second.rung, second.cause)


def test_a_requeue_is_followed_over_the_next_start() -> None:
    """R3 ends in the next start of the batch script; the time in the queue is a phase of its own."""
    story = Story().begin().fault("node", reason="n2 is gone and there is no spare", detected_by="agent_heartbeat")
    fault = story.events[-1].evidence["fault_time"]
    story.recovery("R3").tell("job.requeued", "n2 is gone and there is no spare", after=0.5, step=20)
    story.tell("job.started", after=30, incarnation=1, restarts=1).ranks(1)
    story.recovered("R3", fault_time=fault, cause="node", tier="shared", redone=5, detect_s=0.05, kill_s=0.5,
                    regroup_s=31.0, state_s=0.5, first_step_s=1.0, total_s=33.05)

    (one,) = find_incidents(story.events)

    assert ("R3", RECOVERED, "shared", 5) == (one.rung, one.outcome, one.tier, one.redone_steps)
    assert one.queue_s == pytest.approx(30)
    assert one.phases["regroup"] == pytest.approx(1.0)
    assert sum(one.phases.values()) == pytest.approx(one.total_s)


def test_a_requeue_without_the_coordinators_measure_is_pieced_together() -> None:
    """Runs of older versions have only requeue, start, restore and first step."""
    story = Story().begin()
    story.tell("rank.failed", "rank 2 died", after=10, source="agent", node="n2", rank=2)
    story.tell("job.requeued", "rank 2 died; restart 1 of at most 20", after=1, step=20)
    story.tell("job.started", after=4, incarnation=1, restarts=1).ranks(1)
    story.tell("checkpoint.restored", "step 16", after=3, source="trainer", step=16, tiers={"shared": 4}, steps_lost=4,
               seconds=0.4)
    story.tell("step.first", after=1, source="trainer", step=17, seconds=0.5)

    (one,) = find_incidents(story.events, [Restart(1, story.now, 20, 17, story.now - 20)])

    assert ("rank", "R3", RECOVERED, False) == (one.cause, one.rung, one.outcome, one.measured)
    assert (4, 16, "shared", 4.0) == (one.redone_steps, one.restored_step, one.tier, one.queue_s)
    assert one.phases["state"] == 0.4
    assert one.total_s == pytest.approx(9.2)


def test_a_time_limit_is_an_incident_that_begins_when_ranks_are_asked_to_stop() -> None:
    """Continuing past the time limit costs a requeue, although nothing failed."""
    story = Story().begin().tell("job.stop_requested", "the time limit is near", after=20)
    asked = story.now
    story.tell("ranks.stopped", after=2, source="agent", node="n1").tell("job.requeued", "the time limit is near", after=1)
    story.tell("job.started", after=3, restarts=1).ranks(1).tell("step.first", after=2, source="trainer", step=31)

    (one,) = find_incidents(story.events)

    assert ("time_limit", "R3", RECOVERED, asked) == (one.cause, one.rung, one.outcome, one.fault_time)


def test_a_start_that_nobody_announced_is_the_end_of_a_lost_coordinator() -> None:
    """The batch host died: only the next start tells, and the metrics tell when the last step was done."""
    story = Story().begin()
    story.tell("checkpoint.saved", after=10, source="writer", step=30)
    last = story.now
    story.tell("job.started", after=60, incarnation=1, restarts=1).ranks(1)
    story.tell("step.first", after=2, source="trainer", step=28, seconds=0.5)

    (one,) = find_incidents(story.events, [Restart(1, story.now, 33, 28, last + 3)])

    assert ("coordinator", "R3", RECOVERED, 6) == (one.cause, one.rung, one.outcome, one.redone_steps)
    assert one.fault_time == last + 3


def test_a_verdict_ends_an_incident() -> None:
    """R4: the job stops, with rule, exit code and the traceback of the user's program."""
    story = Story().begin().fault(fingerprint="abc").tell(
        "job.failed", "rank 0 raised ValueError three times at step 7", after=1, cause="rank", rule="same_failure",
        exit_code=1, traceback="ValueError: 7", fingerprint="abc", attempts=3)

    (one,) = find_incidents(story.events)

    assert (STOPPED, "R4", "same_failure", 1, "ValueError: 7") == (
        one.outcome, one.rung, one.rule, one.exit_code, one.traceback)
    assert one.total_s is None


def test_what_is_not_over_stays_open() -> None:
    """A failure whose first new step has not been done yet is open; a cancelled one is cancelled."""
    story = Story().begin().fault().recovery("R1")

    assert OPEN == find_incidents(story.events)[-1].outcome
    assert CANCELLED == find_incidents(story.tell("job.cancelled", after=1).events)[-1].outcome


def test_a_calm_run_has_no_incidents() -> None:
    """Neither the first start nor the end of a run is one."""
    assert [] == find_incidents(Story().begin().tell("job.finished", after=60).events)


def test_a_fault_after_recovery_is_another_one() -> None:
    """Incidents are numbered, and the second begins after the first has ended."""
    story = respawned()
    story.fault("hang", after=30, reason="no step for 20 s", detected_by="hang", known_after=20.0)
    fault = story.events[-1].evidence["fault_time"]
    story.recovery("R1").recovered("R1", fault_time=fault, cause="hang", detect_s=20, first_step_s=1)

    assert [(1, "rank"), (2, "hang")] == [(one.number, one.cause) for one in find_incidents(story.events)]


def test_a_clock_that_is_ahead_makes_no_negative_phase() -> None:
    """A node's clock may say that the fault happened after it was known."""
    story = Story().begin()
    story.fault(fault_time=story.now + 100)

    (one,) = find_incidents(story.events)

    assert one.fault_time <= (one.known_time or 0)
    assert one.phases["detect"] == 0


def test_the_cause_as_it_is_judged_later_counts() -> None:
    """A dead agent shows first as a rank elsewhere that lost its connection; the requeue knows that the node was lost."""
    story = Story().begin().fault("rank", reason="rank 1 on n1 ended with exit code 1", nodes=["n1"], ranks=[1])
    story.tell("node.lost", "n2 was lost: its agent is gone", after=20, node="n2", cause="node")
    story.tell("job.requeued", "node n2 was lost (its agent is gone); restart 5 of at most 20", cause="node")

    (one,) = find_incidents(story.events)

    assert ("node", ("n2",), ()) == (one.cause, one.nodes, one.ranks)
    assert "node n2 was lost" in one.reason or "n2 was lost" in one.reason


def test_who_asked_first_for_a_requeue_knows_why() -> None:
    """Agents have the job of a stopped coordinator queued again; it wakes up and takes that for somebody else's deed."""
    story = Story().begin().tell("agent.lost_coordinator", after=20, source="agent", node="n2", fate="alone")
    story.tell("job.requeued", "nothing was heard of the coordinator for 20 s", after=2, source="agent", cause="coordinator")
    story.tell("node.lost", "n2 was lost: its agent is gone", after=4, node="n2")
    story.tell("job.requeued", "somebody had Slurm queue the job again", cause="node")
    story.tell("job.started", after=6, restarts=1).ranks(1).tell("step.first", after=2, source="trainer", step=21)

    (one,) = find_incidents(story.events)

    assert ("coordinator", "R3", 10.0) == (one.cause, one.rung, one.queue_s)
    assert one.fault_time == next(event.time for event in story.events if event.kind == "agent.lost_coordinator")


def test_an_agent_that_was_silent_itself_makes_no_incident() -> None:
    """It misses a coordinator that lives; nothing is queued again, and training goes on."""
    story = Story().begin().tell("agent.lost_coordinator", after=20, source="agent", node="n2", fate="alone")
    story.tell("checkpoint.saved", after=10, source="writer", step=30)

    assert [] == find_incidents(story.events)


def test_the_nodes_are_those_that_the_sentence_speaks_of() -> None:
    """A rank of another node misses those of a dead one first; the coordinator knows better a moment later."""
    story = Story().begin().fault("rank", reason="rank 0 on n1 ended with exit code 1", nodes=["n1"], ranks=[0])
    story.tell("recovery.started", "node n3 was lost (its agent is gone)", after=1, rung="R2", incarnation=1, cause="node",
               nodes=["n1", "n2"], blamed=["n3"])
    story.events[-1].evidence["reason"] = story.events[-1].reason

    (one,) = find_incidents(story.events)

    assert ("node", ("n3",), ()) == (one.cause, one.nodes, one.ranks)
    assert "node n3 was lost (its agent is gone)" == title(one)


def test_what_the_coordinator_says_comes_before_what_an_agent_saw() -> None:
    """Two agents tell of the same bug; the sentence and the name of the node are of one of them, not of both."""
    story = Story().begin().tell("rank.failed", "rank 1 on n2 ended with exit code 1", after=10, source="agent", node="n2",
                                 rank=1)
    story.fault("rank", reason="rank 0 on n1 ended with exit code 1", nodes=["n1"], ranks=[0])

    (one,) = find_incidents(story.events)

    assert ("rank 0 on n1 ended with exit code 1", ("n1",), (0,)) == (title(one), one.nodes, one.ranks)
