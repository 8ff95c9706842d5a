"""What programs wrote down, and what it says about a fault (pure but for reading the files)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Moment:
    """A program was somewhere.

    Attributes:
        time: seconds since the epoch.
        what: ``start`` of the program's first line, ``import`` done, ``join`` done, ``load`` done, ``step`` done.
        step: steps completed.
        ranks: how many took part in the step.
    """

    time: float
    rank: int
    pid: int
    what: str
    step: int
    ranks: int = 0


@dataclass(frozen=True, slots=True)
class Recovery:
    """One fault and what it cost.

    Attributes:
        total_s: from the kill to the end of the first step that was begun after it.
        whole_s: to the first such step of all ranks; differs only where training goes on with fewer.
        phases_s: parts of ``total_s``, in order.
        redone_steps: completed before the fault, and done once more.
    """

    total_s: float
    whole_s: float
    phases_s: dict[str, float] = field(default_factory=dict)
    redone_steps: int = 0


PHASES = {"start": "noticed, killed, started", "import": "imports", "join": "joined", "load": "model and state",
          "step": "first step"}


def read(folder: Path) -> list[Moment]:
    """All moments of all ranks, in order of time; a line that is still being written is left out."""
    found: list[Moment] = []
    for path in folder.glob("timeline-*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        found += [Moment(**json.loads(line)) for line in lines if line.endswith("\n")]
    return sorted(found, key=lambda moment: moment.time)


def newest_pids(moments: Sequence[Moment]) -> dict[int, int]:
    """The running process of each rank."""
    return {moment.rank: moment.pid for moment in moments if moment.what == "start"}


def steps_since_start(moments: Sequence[Moment], world: int) -> int:
    """Steps of all ranks together that rank 0 has done since any rank was last started."""
    started = max((moment.time for moment in moments if moment.what == "start"), default=0.0)
    return sum(moment.what == "step" and moment.rank == 0 and moment.ranks == world and moment.time > started
               for moment in moments)


def recovery(moments: Sequence[Moment], fault: float, world: int) -> Recovery | None:
    """What a restart of all ranks after a fault took, as rank 0 saw it; None while it is not over."""
    before = max((moment.step for moment in moments if moment.time <= fault and moment.what == "step"), default=0)
    after = [moment for moment in moments if moment.time > fault and moment.rank == 0]
    start = next((at for at, moment in enumerate(after) if moment.what == "start"), None)
    if start is None:
        return None
    first: dict[str, Moment] = {}
    for moment in after[start:]:
        first.setdefault(moment.what, moment)
    if "step" not in first or first["step"].ranks != world:
        return None
    phases, last = {}, fault
    for what, name in PHASES.items():
        if what in first:
            phases[name], last = first[what].time - last, first[what].time
    redone = max(0, before - (first["step"].step - 1))
    return Recovery(last - fault, last - fault, phases, redone)


def recovery_by_replicas(moments: Sequence[Moment], fault: float, world: int) -> Recovery | None:
    """What it took where the others go on without the killed one; None until all train together again."""
    steps = [moment for moment in moments if moment.time > fault and moment.what == "step"]
    alone = next((moment for moment in steps if moment.ranks < world), None)
    if alone is None:
        return None
    whole = next((moment for moment in steps if moment.ranks == world and moment.time > alone.time), None)
    if whole is None:
        return None
    return Recovery(alone.time - fault, whole.time - fault, {"others go on": alone.time - fault}, 0)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and ninth decile."""
    if len(values) < 3:
        return statistics.median(values), min(values), max(values)
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), deciles[0], deciles[-1]
