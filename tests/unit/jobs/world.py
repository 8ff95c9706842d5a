"""A run, its Slurm and a clock that makes things happen while somebody waits."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

from hpctrain.jobs.find import Run
from hpctrain.jobs.screen import Screen
from hpctrain.slurm.model import Submission
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm
from hpctrain.testing.run_builder import RunBuilder

START = 1_800_000_000.0


class BusyClock(FakeClock):
    """A clock on which planned things happen while somebody sleeps; it never runs past its end."""

    def __init__(self, now: float = START, *, lifetime_s: float = 3600.0) -> None:
        super().__init__(now)
        self._plans: list[tuple[float, Callable[[], object]]] = []
        self._end = now + lifetime_s

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Plan something."""
        self._plans.append((self.now + seconds, act))
        self._plans.sort(key=lambda plan: plan[0])

    def sleep(self, seconds: float) -> None:
        """Advance, doing what is due on the way."""
        target = self.now + seconds
        assert target < self._end, "waited for ever"
        while self._plans and self._plans[0][0] <= target:
            when, act = self._plans.pop(0)
            self.now = max(self.now, when)
            act()
        self.sleeps.append(seconds)
        self.now = target


class World:
    """One submitted run on a fake cluster."""

    def __init__(self, tmp_path: Path, name: str = "tiny-1", *, nodes: int = 2) -> None:
        self.clock = BusyClock()
        self.slurm = FakeSlurm(clock=self.clock)
        script = f"#!/bin/bash\n#SBATCH --job-name={name}\n#SBATCH --nodes={nodes}\n#SBATCH --no-kill\n"
        self.job_id = self.slurm.submit(Submission(script, str(tmp_path)))
        self.builder = RunBuilder(tmp_path, name, job_id=self.job_id, submitted=self.clock.now)
        self.slurm.calls.clear()
        self.out, self.err = StringIO(), StringIO()
        self.screen = Screen(self.out, self.err)

    @property
    def run(self) -> Run:
        """The run as found on disk."""
        return self.builder.run

    @property
    def now(self) -> float:
        """The time."""
        return self.clock.now

    def event(self, kind: str, reason: str = "", *, source: str = "coordinator", **more: object) -> None:
        """Something happens now."""
        self.builder.event(self.now, source, kind, reason, **more)  # type: ignore[arg-type]

    def say(self, text: str, rank: int = 0, node: str = "n1", incarnation: int = 0) -> None:
        """A rank prints a line now."""
        self.builder.log(rank, node, [(self.now, text)], incarnation=incarnation)

    @property
    def shown(self) -> list[str]:
        """Lines on standard output so far."""
        return self.out.getvalue().splitlines()

    @property
    def told(self) -> str:
        """Messages on standard error so far."""
        return self.err.getvalue()
