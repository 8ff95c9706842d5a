"""Killed anywhere, whoever tends the nodes does nothing twice and loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.health import reset
from hpctrain.ids import NodeName
from hpctrain.nodes import acts
from hpctrain.nodes.hooks import HookState
from hpctrain.nodes.record import Entry
from hpctrain.nodes.site import Site
from hpctrain.nodes.tend import Tender
from tests.unit.nodes.conftest import ECC, XID, QuickHooks, QuickJournal, World

_CHANGES = ("drain", "undrain", "resume", "reboot", "update_reservation", "delete_reservation")


class Killed(BaseException):
    """SIGKILL: nothing in the code may catch it."""


class Fate:
    """Counts what reaches outside, and kills before or after the n-th."""

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self.seen, self._at, self._after = 0, at, after

    def __call__(self, effect: Callable[[], Any]) -> Any:
        self.seen += 1
        if self.seen == self._at and not self._after:
            raise Killed
        result = effect()
        if self.seen == self._at:
            raise Killed
        return result


class MortalSlurm:
    """Slurm, called by somebody who may be killed; what did happen is counted."""

    def __init__(self, world: World, fate: Fate, did: Counter[str]) -> None:
        self._world, self._fate, self._did = world, fate, did

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._world.slurm, name)
        if name not in _CHANGES:
            return method

        def call(*arguments: Any) -> Any:
            def effect() -> Any:
                method(*arguments)
                self._did[f"{name} {arguments[0]}"] += 1

            return self._fate(effect)

        return call


class MortalJournal(QuickJournal):
    fate: Fate

    def append(self, entry: Entry) -> None:
        self.fate(lambda: QuickJournal.append(self, entry))


class MortalHooks(QuickHooks):
    def __init__(self, fate: Fate, did: Counter[str]) -> None:
        super().__init__()
        self._fate, self._did = fate, did

    def start(self, act: str, command: Any, timeout_s: float) -> HookState:
        def effect() -> None:
            if act not in self.ran:
                self._did[f"hook {command[1]}"] += 1
            self.ran[act] = list(command)

        self._fate(effect)
        return self.state(act, timeout_s)


def play(world: World, fate: Fate, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], dict[str, list[str]]]:
    """Two faulty nodes, one that a person has drained, and a spare; nine looks, each by a new process."""
    did: Counter[str] = Counter()
    hooks, journal = MortalHooks(fate, did), MortalJournal(world.directory / "journal")
    journal.fate = fate
    monkeypatch.setattr(acts, "ask", lambda files, request: fate(lambda: reset.ask(files, request)))
    world.slurm.create_reservation("hpctrain-spares", [NodeName("n4")], ["root"])
    world.slurm.drain([NodeName("n3")], "alice: fan")
    world.faults, world.stubborn = {"n1": XID, "n2": ECC, "n3": XID}, {"n1"}
    slurm: Any = MortalSlurm(world, fate, did)
    for _ in range(9):
        for _attempt in range(2):
            try:
                Tender(Site(slurm, world.config, world.settings, world.clock, journal, hooks)).look()
            except Killed:
                continue
            break
        world.live()
    ends = {name: [kind for kind in world.kinds(name) if not kind.endswith("intent")] for name in ("n1", "n2", "n3")}
    return did, ends


def test_nothing_is_done_twice_and_nothing_is_lost(
    world: World, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every write and every call: the same acts as without a kill, each once."""
    fate = Fate()
    expected, ends = play(world, fate, monkeypatch)
    assert ends["n1"] == ["drain done", "reboot done", "reboot done", "spare done", "replace done"]
    assert ends["n2"] == ["drain done", "reset GPU done", "return done"]
    assert ends["n3"] == []
    assert expected == {
        "drain ['n1']": 1, "drain ['n2']": 1, "reboot ['n1']": 2, "undrain ['n2']": 1, "hook n1": 1,
        "delete_reservation hpctrain-spares": 1,
    }  # fmt: skip
    assert world.node("n3").reason == "alice: fan"

    for number in range(1, fate.seen + 1):
        for after in (False, True):
            again = fresh(world, tmp_path_factory.mktemp("world"))
            did, ended = play(again, Fate(number, after=after), monkeypatch)
            where = f"killed {'after' if after else 'before'} effect {number} of {fate.seen}"
            assert did == expected, where
            assert ended == ends, where
            assert again.resets == ["n2 gpu 2 0000:3b:00"], where


def fresh(world: World, directory: Path) -> World:
    """The same world from its beginning."""
    from dataclasses import replace

    from hpctrain.testing.fake_clock import FakeClock
    from hpctrain.testing.fake_slurm import FakeSlurm

    clock = FakeClock(1_000_000.0)
    (directory / "slots").mkdir()
    breaker = replace(world.config.breaker, directory=str(directory / "slots"))
    config = replace(world.config, state_dir=str(directory / "state"), breaker=breaker)
    made = World(directory, FakeSlurm(clock=clock, user="root"), clock, config, world.settings)
    made.check()
    return made
