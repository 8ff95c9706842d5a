"""How the agents of several nodes save what memory holds, through the control directory alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.agent.control import Control
from hpctrain.agent.flush import Flush, Name
from hpctrain.agent.flusher import SILENT_S, Deadline, Flusher
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.clock import Clock, SystemClock
from hpctrain.ids import Incarnation, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.testing.fake_clock import FakeClock

RANKS = RankPlan(Incarnation(0), (NodeName("n1"), NodeName("n2")), (), 1)
VALUES = {"root": "/checkpoints", "world": {"parallelism": "ddp"}, "retention": {"keep_last": 2}}


class FakeKeeper:
    """Holds parts and takes orders, each of which is done after some questions."""

    def __init__(
        self, *steps: int, ranks: tuple[int, ...] = (), error: str = "", questions: int = 2, ordered: int = 0,
        working: bool = False,
    ) -> None:
        self.parts = {(0, step): dict.fromkeys(ranks, 2) for step in steps}
        self.orders: list[tuple[str, int, Name, Mapping[str, Any]]] = []
        self._error, self._questions, self._ranks = error, questions, ranks
        self._ordered, self._working = ordered, working
        self.restarts = 0

    def holdings(self) -> Mapping[Name, Mapping[int, int]]:
        return self.parts

    def ordered(self, tier: str, ranks: Sequence[int]) -> Mapping[Name, Sequence[int]]:
        return {(0, self._ordered): self._ranks} if self._ordered else {}

    def is_working(self, tier: str, ranks: Sequence[int]) -> bool:
        return self._working

    def restart(self) -> None:
        self.restarts += 1

    def order(self, tier: str, rank: int, name: Name, task: Mapping[str, Any]) -> str:
        self.orders.append((tier, rank, name, task))
        return ""

    def result(self, tier: str, rank: int, name: Name) -> str | None:
        assert name == (0, self._ordered) or (tier, rank, name) in [order[:3] for order in self.orders]
        self._questions -= 1
        return self._error if self._questions <= 0 else None


def flusher(
    path: Path, node: str, keeper: FakeKeeper, durable: Name | None = None, clock: Clock | None = None,
    pause: Callable[[], None] = lambda: None, living: Sequence[str] = ("n1", "n2"),
) -> Flusher:
    """The one of a node, on a run directory that all share."""
    run_dir, time = RunDir(path), clock or SystemClock()
    run_dir.control.mkdir(exist_ok=True)
    return Flusher(
        Control(run_dir, Incarnation(0)), RANKS, keeper, node=NodeName(node), living=living, values=VALUES,
        durable=lambda: durable, events=EventWriter(run_dir, "agent", node, time), clock=time, pause=pause,
        restart_writer=keeper.restart,
    )


def both(path: Path, first: FakeKeeper, second: FakeKeeper, durable: Name | None = None) -> list[Flush | None]:
    """Run those of two nodes at the same time; returns what each one heard of the decision."""
    found: dict[str, Flush | None] = {}

    def run(node: str, keeper: FakeKeeper) -> None:
        clock = SystemClock()
        flush = flusher(path, node, keeper, durable, pause=lambda: clock.sleep(0.01))
        found[node] = flush.run("rank 1 died", Deadline(clock.monotonic() + 20))

    threads = [threading.Thread(target=run, args=item) for item in (("n1", first), ("n2", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found["n1"], found["n2"]]


def test_every_node_writes_its_parts_and_one_commits(tmp_path: Path) -> None:
    """Both agents come to the same decision; each orders its own rank's part; only rank 0's order carries the commit."""
    first, second = FakeKeeper(3, 4, ranks=(0,)), FakeKeeper(3, 4, ranks=(1,))
    heard = both(tmp_path, first, second, durable=(0, 2))

    assert [(0, 4), (0, 4)] == [flush.name if flush else None for flush in heard]
    assert [("shared", 0, (0, 4))] == [order[:3] for order in first.orders]
    assert [("shared", 1, (0, 4))] == [order[:3] for order in second.orders]
    commit = first.orders[0][3]["commit"]
    assert {"world_size": 2, "world": {"world_size": 2, "parallelism": "ddp"}, "retention": {"keep_last": 2}} == {
        key: commit[key] for key in ("world_size", "world", "retention")}
    assert second.orders[0][3]["commit"] is None
    (event,) = read_events(RunDir(tmp_path))
    assert ("checkpoint.flushed", 4, 2) == (event.kind, event.step, event.evidence["steps_saved"])


def test_durable_steps_are_left_alone(tmp_path: Path) -> None:
    """When the shared tier has what memory has, nobody orders anything and no event is written."""
    first, second = FakeKeeper(4, ranks=(0,)), FakeKeeper(4, ranks=(1,))

    assert [None, None] == [flush.name if flush else (9, 9) for flush in both(tmp_path, first, second, durable=(0, 4))]
    assert [] == first.orders + second.orders
    assert [] == read_events(RunDir(tmp_path))


def test_what_the_ranks_have_ordered_is_only_waited_for(tmp_path: Path) -> None:
    """All ranks had the newest step ordered before they died: nobody orders it again, and the writer is left alone."""
    first, second = (FakeKeeper(4, ranks=(rank,), ordered=4, working=True) for rank in (0, 1))

    assert [True, True] == [bool(flush and flush.is_ordered) for flush in both(tmp_path, first, second)]
    assert [] == first.orders + second.orders
    assert (0, 0) == (first.restarts, second.restarts)
    assert ["checkpoint.flushed"] == [event.kind for event in read_events(RunDir(tmp_path))]


def test_a_writer_that_waits_for_a_dead_rank_is_replaced(tmp_path: Path) -> None:
    """Rank 1 died before it gave its order: rank 0's order would wait in vain, so a new writer begins with the agents'."""
    first, second = FakeKeeper(4, ranks=(0,), ordered=4, working=True), FakeKeeper(4, ranks=(1,))
    both(tmp_path, first, second)

    assert [[("shared", 0, (0, 4))], [("shared", 1, (0, 4))]] == [
        [order[:3] for order in keeper.orders] for keeper in (first, second)]
    assert (1, 0) == (first.restarts, second.restarts)


def test_a_silent_node_is_dead_after_a_while(tmp_path: Path) -> None:
    """n2 never speaks: n1 waits for it, then writes both parts from the copies that it holds."""
    clock, keeper = FakeClock(), FakeKeeper(4, ranks=(0, 1))
    flush = flusher(tmp_path, "n1", keeper, clock=clock, pause=lambda: clock.sleep(0.5)).run(
        "n2 is gone", Deadline(clock.monotonic() + 60))

    assert [0, 1] == [order[1] for order in keeper.orders]
    assert flush is not None and SILENT_S <= sum(clock.sleeps) < SILENT_S + 5


def test_a_node_that_is_known_to_be_dead_is_not_waited_for(tmp_path: Path) -> None:
    """The coordinator has named those that live: nobody waits for the others to speak."""
    clock, keeper = FakeClock(), FakeKeeper(4, ranks=(0, 1))
    made = flusher(tmp_path, "n1", keeper, clock=clock, pause=lambda: clock.sleep(0.1), living=("n1",))
    made.run("rank 0 died", Deadline(clock.monotonic() + 60))

    assert sum(clock.sleeps) < 1


def test_what_cannot_be_written_is_told_in_time(tmp_path: Path) -> None:
    """A writer that fails, or does not end before the limit, is an event that says which step is lost."""
    for name, keeper, words in (("a", FakeKeeper(4, ranks=(0, 1), error="no space left", questions=0), "no space left"),
                                ("b", FakeKeeper(4, ranks=(0, 1), questions=10**9), "time ran out after 30 s")):
        clock, path = FakeClock(), tmp_path / name
        path.mkdir()
        flusher(path, "n1", keeper, clock=clock, pause=lambda clock=clock: clock.sleep(0.5)).run(  # type: ignore[misc]
            "n2 is gone", Deadline(clock.monotonic() + 30))

        (event,) = read_events(RunDir(path))
        assert "checkpoint.failed" == event.kind
        assert words in event.reason
        assert sum(clock.sleeps) <= 31


def test_the_first_decision_counts(tmp_path: Path) -> None:
    """An agent that was slow, and saw other holdings, follows what has been decided already."""
    control = Control(RunDir(tmp_path), Incarnation(0))
    control.run_dir.control.mkdir()
    first, second = Flush((0, 3), {0: "n1", 1: "n2"}), Flush((0, 4), {0: "n1", 1: "n1"})

    assert (first, first) == (control.decide_flush(first), control.decide_flush(second))
