"""Was a promise kept? (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from hpctrain.drill.catalogue import UNHARMED, Promise
from hpctrain.jobs.incident import CANCELLED, OPEN, OVERTAKEN, RECOVERED, STOPPED, Incident
from hpctrain.jobs.incident_text import kept, phases, seconds

MEASURE_S = 5.0
"""The coordinator writes its measure of a recovery down so soon after the first step, if it lives."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened after a fault.

    Attributes:
        caused: when the fault was caused, seconds since the epoch.
        incidents: those that came after it, in order of time.
        kinds: of all events since then.
        steps: completed steps since then that had never been completed before, None where steps are not known.
        state: of the run, in plain words, at the end.
        waited_s: how long was watched.
        notes: what the drill itself saw, in sentences.
    """

    caused: float
    incidents: Sequence[Incident] = ()
    kinds: AbstractSet[str] = frozenset()
    steps: int | None = None
    state: str = "running"
    waited_s: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer.

    Attributes:
        kept: the promise was kept, apart from its time.
        late: it took longer than promised.
        happened: what happened, as a sentence.
        problems: what was not as promised.
        rung: that brought the job back, "" for none.
        total_s: from the fault to the first new step, Slurm's queue not counted; None where there was no restart.
    """

    kept: bool
    late: bool
    happened: str
    problems: tuple[str, ...] = ()
    rung: str = ""
    total_s: float | None = None
    queue_s: float = 0.0
    incident: Incident | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "kept": self.kept, "late": self.late, "happened": self.happened, "problems": list(self.problems),
            "rung": self.rung, "total_s": None if self.total_s is None else round(self.total_s, 4),
            "queue_s": round(self.queue_s, 4), "incident": self.incident.to_json() if self.incident else None,
        }


def settled(promise: Promise, seen: Seen, *, steps_wanted: int) -> bool:
    """Nothing more has to be waited for: it is over, in whatever way."""
    last = seen.incidents[-1] if seen.incidents else None
    if seen.state in ("failed", "cancelled", "finished"):
        return True
    if promise.outcome == CANCELLED:
        return False
    if last is None:
        unharmed = promise.outcome == UNHARMED and set(promise.expects) <= seen.kinds
        return unharmed and (seen.steps is None or seen.steps >= steps_wanted)
    if last.outcome == RECOVERED and last.measured and "recovery.finished" not in seen.kinds:
        # The coordinator's own measure comes a moment after the trainer's word of the first step.
        return seen.waited_s > (last.mended_time or seen.caused) - seen.caused + MEASURE_S
    return last.outcome in (RECOVERED, STOPPED, CANCELLED)


def judge(promise: Promise, seen: Seen) -> Judgement:
    """Compare what happened with what was promised."""
    last = seen.incidents[-1] if seen.incidents else None
    problems = [f"no event {kind!r} was written" for kind in promise.expects if kind not in seen.kinds]
    if promise.outcome == CANCELLED:
        return _cancelled(seen, problems)
    if promise.outcome == UNHARMED:
        return _unharmed(seen, last, problems)
    return _recovered(promise, seen, last, problems)


def _cancelled(seen: Seen, problems: list[str]) -> Judgement:
    if seen.state != "cancelled":
        problems.append(f"the job is {seen.state}")
    return Judgement(not problems, False, f"the job is {seen.state}", tuple(problems))


def _unharmed(seen: Seen, last: Incident | None, problems: list[str]) -> Judgement:
    steps = "" if seen.steps is None else f" and did {seen.steps} new steps in {seconds(seen.waited_s)}"
    if last is not None:
        problems.append(f"the job was disturbed: {last.reason or last.cause} ({last.rung or last.outcome})")
        return Judgement(False, False, "the job did not go on undisturbed", tuple(problems), last.rung, _total(seen, last),
                         last.queue_s, last)
    if seen.state in ("failed", "cancelled"):
        problems.append(f"the job is {seen.state}")
    elif seen.steps == 0:
        problems.append(f"no new step was done in {seconds(seen.waited_s)}")
    return Judgement(not problems, False, f"the job went on{steps}", tuple(problems))


def _recovered(promise: Promise, seen: Seen, last: Incident | None, problems: list[str]) -> Judgement:
    if last is None:
        problems.append(f"nothing of it was recorded within {seconds(seen.waited_s)}")
        return Judgement(False, False, f"nothing was noticed; the job is {seen.state}", tuple(problems))
    if last.outcome != RECOVERED:
        what = {OPEN: f"it has not come back within {seconds(seen.waited_s)}", STOPPED: "it was stopped",
                CANCELLED: "it was cancelled", OVERTAKEN: "the next failure came first"}[last.outcome]
        problems.append(f"{what}: {last.action or last.reason or last.cause}")
    highest = max(promise.rungs)
    if last.rung > highest:
        problems.append(f"{last.rung} was needed, {' or '.join(promise.rungs)} was promised")
    causes = {one.cause for one in seen.incidents}
    if promise.causes and not causes & set(promise.causes):
        problems.append(f"it was recorded as '{', '.join(sorted(causes))}', not as '{' or '.join(promise.causes)}'")
    total = _total(seen, last)
    late = total is not None and promise.within_s is not None and total > promise.within_s
    parts = [part for part in (phases(last), kept(last)) if part]
    took = f" in {seconds(total)}" if total is not None else ""
    queue = f" (and {seconds(last.queue_s)} in the queue)" if last.queue_s >= 0.05 else ""
    happened = f"{last.outcome} on {last.rung or 'no rung'}{took}{queue}" + (f": {'; '.join(parts)}" if parts else "")
    return Judgement(not problems, late, happened, tuple(problems), last.rung, total, last.queue_s, last)


def _total(seen: Seen, last: Incident) -> float | None:
    """By the drill's own clock, which knows when the fault was caused; the queue is Slurm's."""
    return None if last.mended_time is None else max(0.0, last.mended_time - seen.caused - last.queue_s)
