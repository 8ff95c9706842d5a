"""Why a run waits, was started again, has stopped."""

from __future__ import annotations

import json

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.jobs.incidents import find_incidents
from hpctrain.jobs.status import JobStatus, State
from hpctrain.jobs.why import Known, Statement, why
from hpctrain.settings import Settings
from hpctrain.slurm.model import Job, JobState, Node
from tests.unit.jobs.story import Story, respawned
from tests.unit.jobs.world import World

WAITING = Job(7, "tiny-1", "alice", JobState.PENDING, reason="Resources", partition="main", num_nodes=3, submit_time=900.0)


def status(state: State, explanation: str = "because", **more: object) -> JobStatus:
    return JobStatus(7, "tiny-1", "/runs/tiny-1", state, explanation, **more)  # type: ignore[arg-type]


def ask(
    story: Story, state: State, *, job: Job | None = None, nodes: tuple[Node, ...] = (), **more: object,
) -> list[Statement]:
    incidents = find_incidents(story.events)
    return why(Known(status(state, **more), story.events, incidents, story.now + 10, job, nodes))


def test_a_waiting_job_is_explained_by_its_nodes() -> None:
    """How many nodes it wants, how many are free, and which are out of service for what reason."""
    nodes = (
        Node("n1", "IDLE", partitions=("main",)), Node("n2", "ALLOCATED", partitions=("main",)),
        Node("n3", "IDLE", frozenset({"DRAIN"}), ("main",), reason="hpctrain: xid: GPU 3: Xid 79"),
        Node("n4", "IDLE", partitions=("other",)),
    )

    (answer,) = ask(Story().tell("job.submitted"), State.QUEUED, job=WAITING, nodes=nodes)

    told = "\n".join(answer.evidence)
    assert "waits" == answer.topic
    assert "reason Resources" in told
    assert "asks for 3 nodes; 1 of 3 nodes of partition main is free, 1 busy, 1 out of service" in told
    assert "n3 is idle+drain: hpctrain: xid: GPU 3: Xid 79" in told
    assert "n4" not in told


def test_excluded_nodes_and_the_expected_start_are_named() -> None:
    """What keeps the job from nodes that look free."""
    story = Story().begin().tell("node.excluded", "n2 failed twice", node="n2", until=99_999.0)
    story.tell("node.excluded", "n1 failed long ago", node="n1", until=1.0).tell("job.requeued", "n2 was lost")
    job = Job(**{name: getattr(WAITING, name) for name in WAITING.__slots__} | {
        "excluded_nodes": ("n2",), "start_time": 5000.0})

    answer, *_ = ask(story, State.REQUEUED, job=job)

    told = "\n".join(answer.evidence)
    assert "it may not use n2" in told
    assert "Slurm expects to start it at" in told
    assert "n2 failed twice" in told
    assert "n1 failed long ago" not in told
    assert "job requeued: n2 was lost" in told


def test_a_restart_is_told_with_its_evidence() -> None:
    """What failed, how it was seen, which rung, how long each part took, from where training went on."""
    now, again = ask(respawned(), State.RUNNING)

    told = "\n".join(again.evidence)
    assert ("runs", "restarted") == (now.topic, again.topic)
    assert "rank 2 on n2 died of SIGKILL; recovered on R1 in 0.9s" == again.sentence
    assert "known after 0.05s, because the end of its process was seen, at step 20" in told
    assert "R1 (ranks started again on the same nodes)" in told
    assert "regroup 0.2s" in told
    assert "step 20 from the node's own memory, 1 step done again" in told


def test_a_drill_is_called_by_its_name() -> None:
    """What was broken on purpose must frighten nobody."""
    story = Story().begin().fault()
    story.tell("drill.caused", "drill kill-rank: a rank is killed", source="cli", caused=story.now - 0.1)

    assert "it was done on purpose: drill kill-rank: a rank is killed" in ask(story, State.RUNNING)[-1].evidence


def test_many_restarts_are_counted_by_cause() -> None:
    """The newest are told one by one, those before by cause."""
    story = Story().begin()
    for _ in range(9):
        story.fault()
        fault = story.events[-1].evidence["fault_time"]
        story.recovery("R1").recovered("R1", fault_time=fault, detect_s=0.1, first_step_s=0.5)

    answers = ask(story, State.RUNNING)

    assert 1 + 5 + 1 == len(answers)
    assert "4 times before that: 4 x a rank died" == answers[-1].sentence


def test_a_verdict_is_told_with_rule_traceback_and_checkpoint() -> None:
    """The rule that stopped it, the exit code, the newest checkpoint, the user's own traceback."""
    story = Story().begin().tell("checkpoint.saved", step=5, tier="shared").fault()
    story.tell("job.failed", "rank 0 raised ValueError at step 7", rule="same_failure", exit_code=1, attempts=3,
               traceback="Traceback\n  File x\nValueError: seven")

    answer, *_ = ask(story, State.FAILED)

    told = "\n".join(answer.evidence)
    assert "stopped" == answer.topic
    assert "resilience.max_same_failure" in told
    assert "exit code 1" in told
    assert "step 5 in the shared tier" in told
    assert "  ValueError: seven" in answer.evidence


def test_what_is_being_brought_back_is_said_first() -> None:
    """While a recovery is under way that is the answer."""
    now, *_ = ask(Story().begin().fault().recovery("R1"), State.RUNNING)

    assert "being brought back" in now.evidence[0]


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(tmp_path)
    context = api.Context(Settings(str(tmp_path)), made.slurm, made.clock)
    monkeypatch.setattr(api, "make_context", lambda **_: context)
    return made


def test_the_command_answers_in_words_and_json(world, capsys) -> None:
    """The same statements, for people and for programs; unknown runs are exit code 4."""
    world.event("job.started", incarnation=0)
    world.event("fault.detected", "rank 1 died", cause="rank", fault_time=world.now)
    world.event("recovery.started", "the nodes are whole", rung="R1", incarnation=1)
    assert 0 == invoke(["why", "latest"])
    text = capsys.readouterr().out
    assert "rank 1 died" in text
    assert "\x1b" not in text
    assert 0 == invoke(["why", "latest", "-o", "json"])
    document = json.loads(capsys.readouterr().out)
    assert {"runs", "restarted"} == {statement["topic"] for statement in document["why"]["statements"]}
    assert 4 == invoke(["why", "no-such-run"])


def test_a_pending_job_is_answered_with_slurms_reason(world, capsys) -> None:
    """A job in the queue: the fake's nodes are counted."""
    world.slurm.requeue(world.job_id, hold=True)
    world.clock.advance(30)
    assert 0 == invoke(["why", "latest"])
    text = capsys.readouterr().out
    assert "It waits" in text
    assert "Slurm: PENDING" in text
    assert "out of service" in text
    assert "scontrol release" in text


def test_events_are_filtered_by_source_node_and_time(world, capsys) -> None:
    """Filters narrow down together; a node counts as the one that tells or the one that is blamed."""
    world.event("job.started")
    world.event("ranks.started", source="agent", node="n2")
    world.clock.advance(600)
    world.event("fault.detected", "n2 is silent", nodes=["n2"])

    def kinds(*options: str) -> list[str]:
        assert 0 == invoke(["events", "latest", "-o", "json", *options])
        return [event["kind"] for event in json.loads(capsys.readouterr().out)["events"]]

    assert ["ranks.started"] == kinds("--source", "agent")
    assert ["ranks.started", "fault.detected"] == kinds("--node", "n2")
    assert ["fault.detected"] == kinds("--node", "n2", "--since", "5m")
    assert 2 == invoke(["events", "latest", "--since", "yesterday"])
