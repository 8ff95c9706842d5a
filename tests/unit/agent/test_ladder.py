"""The recovery ladder: what it says to every piece of news."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hpctrain.agent.decide import History, Limits
from hpctrain.agent.ladder import GATHER_S, KILL_S, MEND_S, SPARES_S, Ladder
from hpctrain.agent.ladder_model import (
    Command,
    Detected,
    Down,
    Ended,
    Event,
    Fault,
    Finish,
    Forget,
    Joined,
    Kill,
    Killed,
    Lost,
    Mend,
    NotStarted,
    Signalled,
    Stage,
    Start,
    StepEnded,
    Stop,
    StopAsked,
    Tick,
)
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_result import RankExit
from hpctrain.detect.beat import Detection
from hpctrain.ids import Incarnation, NodeName
from hpctrain.slurm.model import JobState
from hpctrain.watchdog.budget import BudgetLimits, Cause

T = 1000.0
NODES = ("n1", "n2", "n3")


def ladder(nodes: Sequence[str] = NODES, wanted: int = 2, **changes: object) -> Ladder:
    made = Ladder(tuple(nodes), wanted, 1, History(), Limits(), BudgetLimits(max_same_failure=3))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def tell(machine: Ladder, *events: Event) -> list[Command]:
    return [command for event in events for command in machine.handle(event)]


def running(nodes: Sequence[str] = NODES, wanted: int = 2, **changes: object) -> Ladder:
    """Ranks 0 and 1 are at work on n1 and n2."""
    machine = ladder(nodes, wanted, **changes)
    (start,) = tell(machine, *(Joined(T, node) for node in nodes))
    assert isinstance(start, Start) and start.rung == ""
    return machine


def died(
    rank: int, node: str, code: int = -9, time: float = T + 10, *, by_agent: bool = False, message: str = ""
) -> RankExit:
    return RankExit(rank, node, code, time, message, by_agent=by_agent)


def killed(machine: Ladder, *nodes: str, time: float = T + 11) -> list[Command]:
    """All ranks of these nodes are gone."""
    assert machine.ranks is not None
    incarnation = machine.ranks.incarnation
    return tell(machine, *(
        Killed(time, node, incarnation, tuple(
            died(rank, node, by_agent=True) for rank in machine.ranks.ranks_of(NodeName(node)) if rank not in machine.exits))
        for node in nodes))


def kinds(commands: Sequence[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_ranks_start_when_all_agents_have_called() -> None:
    """Training nodes are the first of the allocation, the rest are spares, and the first incarnation is number 0."""
    machine = ladder()
    assert [] == tell(machine, Joined(T, "n3"), Joined(T, "n1"))
    (start,) = tell(machine, Joined(T + 1, "n2"))

    assert isinstance(start, Start)
    assert (0, ("n1", "n2"), ("n3",)) == (start.ranks.incarnation, start.ranks.nodes, start.ranks.spares)


def test_a_spare_that_does_not_call_is_not_waited_for_long() -> None:
    """Enough agents for training are enough, after a moment."""
    machine = ladder()
    assert [] == tell(machine, Joined(T, "n1"), Joined(T, "n3"), Tick(T + SPARES_S - 1))
    (start,) = tell(machine, Tick(T + SPARES_S))

    assert isinstance(start, Start) and ("n1", "n3") == start.ranks.nodes


def test_too_few_agents_end_the_start() -> None:
    """A node that cannot bring up an agent is lost, and the job is to go on elsewhere."""
    machine = ladder(("n1", "n2"))
    tell(machine, Joined(T, "n1"))
    (finish,) = tell(machine, Tick(T + GATHER_S))

    assert isinstance(finish, Finish) and ("n2",) == finish.end.lost_nodes and finish.verdict.restart


def test_r1_a_dead_rank_has_all_killed_and_started_again_where_they_were() -> None:
    """The fault is told first; new ranks start on the same nodes when the last old one is gone, under the next number."""
    machine = running()
    commands = tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2"),)))
    assert ["Fault", "Kill"] == kinds(commands)
    fault = commands[0]
    assert isinstance(fault, Fault) and (Cause.RANK, (1,), 9) == (fault.cause, fault.ranks, fault.signal)
    assert [] == killed(machine, "n2")
    (start,) = killed(machine, "n1")

    assert isinstance(start, Start) and start.attempt is not None
    assert ("R1", 1, ("n1", "n2")) == (start.rung, start.ranks.incarnation, start.ranks.nodes)
    assert ("R1", Cause.RANK, 0) == (start.attempt.rung, start.attempt.cause, start.attempt.incarnation)


def test_r2_a_spare_takes_a_lost_nodes_place_and_its_ranks() -> None:
    """n1 keeps rank 0; n3 gets rank 1; what n1's rank said when its peer was gone is not the cause."""
    machine = running()
    tell(machine, Ended(T + 10, "n1", 0, (died(0, "n1", 1, message="connection reset"),)))
    assert [] == killed(machine, "n1")
    commands = tell(machine, Lost(T + 11, "n2", "its agent is gone"))

    assert ["Forget", "Start"] == kinds(commands)
    start = commands[1]
    assert isinstance(start, Start) and start.attempt is not None
    assert ("R2", ("n1", "n3"), Cause.NODE, ("n2",)) == (
        start.rung, start.ranks.nodes, start.attempt.cause, start.attempt.nodes)


def test_a_lost_node_without_a_spare_gets_another_agent_or_costs_the_allocation() -> None:
    """The agent may have died alone: a new one is sent for; when none comes the job is queued again."""
    for comes in (True, False):
        machine = running(("n1", "n2"))
        assert ["Forget", "Fault", "Kill"] == kinds(tell(machine, Lost(T + 5, "n2", "its agent is gone")))
        (mend,) = killed(machine, "n1", time=T + 6)
        assert mend == Mend(("n2",))
        (last,) = tell(machine, Joined(T + 9, "n2")) if comes else tell(machine, Tick(T + 6 + MEND_S))

        if comes:
            assert isinstance(last, Start) and last.attempt is not None
            assert (("n1", "n2"), Cause.AGENT, ()) == (last.ranks.nodes, last.attempt.cause, last.attempt.nodes)
        else:
            assert isinstance(last, Finish) and last.attempt is not None
            assert (("n2",), "R3", True) == (last.end.lost_nodes, last.attempt.rung, last.verdict.restart)


def test_a_node_that_slurm_calls_down_is_not_waited_for() -> None:
    """The job is queued again at once; a node whose agent lives is believed before Slurm."""
    machine = running(("n1", "n2"))
    tell(machine, Lost(T + 5, "n2", "its agent is gone"))
    killed(machine, "n1", time=T + 6)
    assert [] == tell(machine, Down(T + 7, "n1"))
    (finish,) = tell(machine, Down(T + 7, "n2"))

    assert isinstance(finish, Finish) and ("n2",) == finish.end.lost_nodes


def test_a_lost_spare_is_sent_for_and_nobody_is_killed() -> None:
    """Training goes on."""
    machine = running()

    assert ["Forget", "Mend"] == kinds(tell(machine, Lost(T + 5, "n3", "its agent is gone")))
    assert machine.stage is Stage.RUN


def test_in_place_false_leaves_everything_to_the_next_start() -> None:
    """The recipe may forbid rungs R1 and R2."""
    machine = running(in_place=False)
    tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2"),)))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and finish.end.failure is not None and finish.verdict.restart


def test_ranks_that_cannot_be_killed_cost_their_node() -> None:
    """A rank stuck in a driver is not waited for: the node is lost, and the spare takes its place."""
    machine = running()
    tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2"),)))
    killed(machine, "n2")
    commands = tell(machine, Tick(T + 10 + KILL_S))

    assert ["Forget", "Start"] == kinds(commands)
    assert isinstance(commands[1], Start) and ("n3", "n2") == commands[1].ranks.nodes


def test_the_same_bug_three_times_stops_with_its_own_words() -> None:
    """R4: a deterministic crash is not repeated until max_restarts."""
    machine = running()
    for count in range(3):
        assert machine.ranks is not None
        end = died(1, "n2", 1, T + 10 * count, message="ValueError: step 7")
        tell(machine, Tick(T + 10 * count, 6), Ended(T + 10 * count, "n2", machine.ranks.incarnation, (end,)))
        (last,) = killed(machine, "n1", "n2", time=T + 10 * count + 1)
        if isinstance(last, Finish):
            break

    assert isinstance(last, Finish) and not last.verdict.restart
    assert last.end.failure is not None and "ValueError: step 7" == last.end.failure.message
    assert len(machine.attempts) <= 2


def test_what_cannot_be_mended_is_not_tried_again() -> None:
    """Our trainer's code for a wrong recipe ends the job at once."""
    machine = running()
    tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2", 3),)))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and 1 == machine.history.incarnation + 1


def test_all_ranks_done_is_the_end() -> None:
    """Exit code 0 everywhere; a trainer's 75 anywhere means that it has stopped."""
    for code, done in ((0, True), (75, False)):
        machine = running()
        tell(machine, Ended(T + 10, "n1", 0, (died(0, "n1", 0),)))
        (finish,) = tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2", code),)))

        assert isinstance(finish, Finish) and (done, not done) == (finish.end.done, finish.end.stopped)
        assert finish.end.failure is None and (finish.attempt is None) == done


def test_a_stop_request_reaches_the_ranks_once() -> None:
    """The time limit is near: the ranks save and stop, and the reason is kept for the next start."""
    machine = running()
    assert [Stop("the time limit is near")] == tell(machine, StopAsked(T + 5, "the time limit is near"))
    assert [] == tell(machine, StopAsked(T + 6, "again"))
    tell(machine, Ended(T + 10, "n1", 0, (died(0, "n1", 75),)))
    (finish,) = tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2", 75),)))

    assert isinstance(finish, Finish) and finish.end.stopped and "the time limit is near" == finish.end.stop_reason


def test_a_rank_that_dies_while_it_is_to_stop_is_not_started_again_here() -> None:
    """There is no time left for another incarnation in this start."""
    machine = running()
    tell(machine, StopAsked(T + 5, "the time limit is near"), Ended(T + 10, "n2", 0, (died(1, "n2"),)))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and finish.end.failure is not None


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.TIMEOUT, JobState.PREEMPTED, None])
def test_a_job_that_slurm_ends_is_killed_and_not_brought_back(state: JobState | None) -> None:
    """What becomes of it is decided afterwards, from Slurm's word."""
    machine = running()
    assert ["Kill"] == kinds(tell(machine, Signalled(T + 5, state)))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and finish.end.terminated and finish.end.job_state is state


def test_sigterm_in_the_middle_of_a_recovery_ends_it() -> None:
    """No new ranks are started for a job that is being ended."""
    machine = running()
    tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2"),)), Signalled(T + 10.5, JobState.CANCELLED))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and finish.end.terminated


def found(action: str, *nodes: str) -> Detected:
    return Detected(T + 10, Detection("node_health", action, "n2: Xid 79", "health", T + 9, nodes=nodes))  # type: ignore[arg-type]


def test_a_sick_node_is_swapped_for_a_spare() -> None:
    """All ranks end in good order, and the node runs none of the new ones although its agent lives."""
    machine = running()
    assert ["Fault", "Kill"] == kinds(tell(machine, found("swap", "n2")))
    (start,) = killed(machine, "n1", "n2")

    assert isinstance(start, Start) and start.attempt is not None
    assert ("R2", ("n1", "n3"), Cause.HEALTH, ("n2",)) == (
        start.rung, start.ranks.nodes, start.attempt.cause, start.attempt.nodes)


def test_a_sick_node_without_a_spare_costs_the_allocation() -> None:
    """The next start is to leave it out."""
    machine = running(("n1", "n2"))
    tell(machine, found("swap", "n2"))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and ("n2",) == finish.end.blamed_nodes


def test_a_sick_spare_takes_nobodys_place() -> None:
    """Nobody is killed for it, and it is not chosen later."""
    machine = running((*NODES, "n4"))
    assert [] == tell(machine, found("swap", "n3"))
    tell(machine, Lost(T + 11, "n2", "gone"))
    (start,) = killed(machine, "n1")

    assert isinstance(start, Start) and ("n1", "n4") == start.ranks.nodes


def test_a_detector_that_says_stop_ends_the_job() -> None:
    """No other start can help."""
    machine = running()
    tell(machine, found("stop", "n2"))
    (finish,) = killed(machine, "n1", "n2")

    assert isinstance(finish, Finish) and "n2: Xid 79" == finish.end.hopeless


def test_a_hang_asks_for_stacks_before_the_kill() -> None:
    """Where the ranks are is worth knowing, and cannot be known later."""
    machine = running()
    hang = Detection("hang", "restart", "rank 1 makes no step", "hang", T + 4, ranks=(1,), stacks=True)
    _, kill = tell(machine, Detected(T + 10, hang))

    assert isinstance(kill, Kill) and kill.stacks


def test_an_agent_that_comes_back_without_its_ranks_is_a_failure() -> None:
    """It died and was started again: the ranks of that node are gone."""
    machine = running()

    assert ["Fault", "Kill"] == kinds(tell(machine, Joined(T + 5, "n2", -1)))


def test_an_agent_that_calls_again_with_its_ranks_disturbs_nothing() -> None:
    """A connection broke; the ranks know nothing of it, and what ended meanwhile is heard."""
    machine = running()
    assert [] == tell(machine, Joined(T + 5, "n2", 0, (1,)))
    assert ["Fault", "Kill"] == kinds(tell(machine, Joined(T + 6, "n2", 0, (), (died(1, "n2"),))))


def test_ranks_that_could_not_be_started_are_a_failure_with_words() -> None:
    """The agent's error is the cause."""
    machine = running()
    commands = tell(machine, NotStarted(T + 1, "n2", 0, "no such program: foo", 4))

    assert isinstance(commands[0], Fault) and "no such program: foo" == commands[0].reason


def test_news_of_old_incarnations_is_ignored() -> None:
    """A rank of the past that ends late says nothing about the present."""
    machine = running()
    tell(machine, Ended(T + 10, "n2", 0, (died(1, "n2"),)))
    killed(machine, "n1", "n2")

    assert [] == tell(machine, Ended(T + 12, "n2", 0, (died(1, "n2"),)), Killed(T + 12, "n2", 0, ()))


def test_a_stranger_is_hung_up_on() -> None:
    """A node that is not of this allocation gets no work."""
    assert [Forget("elsewhere")] == tell(ladder(), Joined(T, "elsewhere"))


def test_srun_that_ends_without_agents_ends_the_start() -> None:
    """Its exit code is the job's."""
    (finish,) = tell(ladder(), StepEnded(T, 3))

    assert isinstance(finish, Finish) and 3 == finish.end.exit_code


def successor(nodes: Sequence[str] = NODES) -> Ladder:
    """A coordinator that takes over incarnation 4 on n1 and n2."""
    machine = replace(ladder(nodes), history=History(4, 7))
    machine.adopt(RankPlan(Incarnation(4), (NodeName("n1"), NodeName("n2")), (NodeName("n3"),), 1))
    return machine


def test_a_successor_finds_the_ranks_at_work() -> None:
    """Nothing is killed or started; a failure afterwards is mended as ever, under the next number."""
    machine = successor()
    assert [] == tell(machine, Joined(T, "n1", 4, (0,)), Joined(T, "n2", 4, (1,)))
    assert machine.stage is Stage.RUN
    tell(machine, Ended(T + 10, "n2", 4, (died(1, "n2"),)))
    (start,) = killed(machine, "n1", "n2")

    assert isinstance(start, Start) and 5 == start.ranks.incarnation


def test_a_successor_deals_with_what_happened_meanwhile() -> None:
    """A rank that died while there was no coordinator is in the agent's greeting."""
    machine = successor()
    commands = tell(machine, Joined(T, "n1", 4, (0,)), Joined(T, "n2", 4, (), (died(1, "n2"),)))

    assert ["Fault", "Kill"] == kinds(commands)


def test_a_successor_replaces_a_node_that_is_gone() -> None:
    """The agent of n2 does not call: the spare takes its place."""
    machine = successor()
    tell(machine, Joined(T, "n1", 4, (0,)), Joined(T, "n3"))
    commands = tell(machine, Tick(T + 2 * SPARES_S + 1))
    assert ["Fault", "Kill"] == kinds(commands)
    (start,) = killed(machine, "n1")

    assert isinstance(start, Start) and ("n1", "n3") == start.ranks.nodes
