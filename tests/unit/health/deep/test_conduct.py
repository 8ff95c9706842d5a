"""The conductor leads rounds of nodes that come, fail, lie still and vanish, and always ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.health.deep.baseline import Band
from hpctrain.health.deep.conduct import Conductor
from hpctrain.health.deep.files import DeepFiles
from hpctrain.health.deep.plan import DeepJob, DeepPlan
from hpctrain.health.deep.wire import Line, Message

Play = Callable[[str, Message], Message | None]


class FakeStep:
    """An srun whose tasks are threads of this process."""

    def __init__(self, threads: list[threading.Thread]) -> None:
        self._threads = threads

    def poll(self) -> int | None:
        """Ended when every task has."""
        return None if any(thread.is_alive() for thread in self._threads) else 0

    def wait(self) -> int:
        """Wait for all; a busy machine has time."""
        for thread in self._threads:
            thread.join(60)
        return 0


def conduct(directory: Path, names: tuple[str, ...], play: Play, *, absent: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Outcomes of the pairs of these nodes; ``play`` answers an order, None hangs up."""
    files = DeepFiles(directory / "run")
    files.directory.mkdir()
    files.create(DeepPlan((), True, "smoke", Band(), (DeepJob(names),), "/tmp", {}))

    def node(name: str, port: int) -> None:
        line = Line("127.0.0.1", port, files.secret())
        line.say({"node": name})
        line.say({"ready": name not in absent, "kind": "K" if name[0] == "n" else "L", "port": 1})
        while (order := line.hear()) and "round" in order:
            answer = play(name, order)
            if answer is None:
                line._line.close()
                return
            line.say({"round": order["round"], **answer})

    def start(port: int) -> FakeStep:
        threads = [threading.Thread(target=node, args=(name, port), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        return FakeStep(threads)

    assert 0 == Conductor(files, 0, start).run()
    return files.pairs(0)


def answer(value: float | None, status: str = "measured", detail: str = "") -> Message:
    """What a node says of a round."""
    return {"metric": "allreduce.pair", "status": status, "value": value, "detail": detail}


def test_a_slow_node_is_paired_again(tmp_path: Path) -> None:
    """The slower of two answers counts, and every node of a slow pair meets a fast one."""
    pairs = conduct(tmp_path, ("n1", "n2", "n3", "n4"), lambda name, _: answer(10.0 if name == "n2" else 100.0))

    slow = [one for one in pairs if one["value"] == 10.0]
    assert 2 == len(slow)
    assert all("n2" in (one["first"], one["second"]) for one in slow)


def test_a_node_that_vanishes_ends_no_round(tmp_path: Path) -> None:
    """Its pair has no outcome, and its partner is paired with another."""
    pairs = conduct(tmp_path, ("n1", "n2", "n3", "n4"), lambda name, _: None if name == "n3" else answer(100.0))

    assert all("n3" not in (one["first"], one["second"]) for one in pairs)
    assert {"n1", "n2", "n4"} == {node for one in pairs for node in (one["first"], one["second"])}


def test_kinds_are_not_mixed_and_who_cannot_take_part_is_not_waited_for(tmp_path: Path) -> None:
    """Two kinds of hardware in one job, and a node where torch does not start."""
    names = ("n1", "n2", "n3", "m1", "m2")
    pairs = conduct(tmp_path, names, lambda *_: answer(100.0), absent=("n3",))

    assert [("m1", "m2", "L"), ("n1", "n2", "K")] == sorted((one["first"], one["second"], one["kind"]) for one in pairs)


@pytest.mark.parametrize(("status", "corrupt"), [("failed", False), ("corrupt", True)])
def test_the_worse_answer_of_a_pair_counts(tmp_path: Path, status: str, corrupt: bool) -> None:
    """One of the two noticed it."""
    pairs = conduct(tmp_path, ("n1", "n2"), lambda name, _: answer(None, status, "why") if name == "n2" else answer(5.0))

    assert [(None, corrupt, "why")] == [(one["value"], one["corrupt"], one["detail"]) for one in pairs]
