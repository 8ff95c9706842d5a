"""When ranks meet to save, and what is due then (pure).

Rank 0 holds the agenda. Between two meetings nobody communicates: each meeting fixes the step of the next one. Intervals in
steps are exact. For intervals in seconds the number of steps is estimated from the time that steps took; a save that is far
off gets a meeting half-way there, to estimate again, so that steps which get up to twice as slow make no save late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hpctrain.checkpoint.schedule import LONGEST_AUTO_S, Decision, Interval, TierSchedule, retry_delay_s
from hpctrain.checkpoint.schedule_cost import Cost, CostMeter, FailureRate

CLOSE_S = 10.0
"""A save that is nearer than this is fixed for a step without another look."""

_BUSY_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Meeting:
    """The next step after which all ranks meet.

    Attributes:
        certain: something is saved then, so that nobody needs to ask rank 0 first.
        reason: why, if it is certain.
    """

    step: int
    certain: bool = False
    reason: str = ""


@dataclass(slots=True)
class Turn:
    """One tier's turn: what was saved last, what that cost, and what holds up the next save.

    Attributes:
        step, time_s: of the last save, or of the start.
        busy: a save is still on its way to the tier: the next one must wait.
        failures: saves in a row that failed.
        not_before_s: no save before this time,
        insists: except at the multiples of an interval in steps, which are tried in any case.
        longest_s: that ``auto`` waits.
    """

    tier: str
    schedule: TierSchedule
    step: int = 0
    time_s: float = 0.0
    meter: CostMeter = field(default_factory=CostMeter)
    busy: bool = False
    failures: int = 0
    not_before_s: float = float("-inf")
    insists: bool = False
    longest_s: float = LONGEST_AUTO_S

    def saved(self, step: int, now_s: float) -> None:
        """A save of this step has begun, and nothing is wrong so far."""
        self.step, self.time_s = step, now_s

    def succeeded(self) -> bool:
        """It is safe; returns whether the tier had failed before."""
        recovered, self.failures, self.not_before_s = self.failures > 0, 0, float("-inf")
        return recovered

    def failed(self, now_s: float) -> bool:
        """It is not; returns whether the tier was well before."""
        self.failures += 1
        self.not_before_s = now_s + retry_delay_s(self.failures)
        return self.failures == 1

    def postponed(self, now_s: float) -> None:
        """The save before is not through, on some rank: ask again in a moment, not at every step."""
        self.not_before_s = now_s + _BUSY_AGAIN_S

    def remaining_s(self, interval: Interval, now_s: float) -> float:
        """Seconds until the next save, by time; negative when it is late."""
        due_s = float("-inf") if self.failures else self.time_s + interval.seconds
        return max(due_s, self.not_before_s) - now_s

    def due(self, interval: Interval, step: int, now_s: float, step_s: float) -> Decision:
        """Whether to save after ``step`` completed steps."""
        if self.busy or step <= 0:
            return Decision(False)
        if self.insists and interval.steps is not None and step % interval.steps == 0 and step > self.step:
            return Decision(True, interval.reason)
        if now_s < self.not_before_s:
            return Decision(False)
        if self.failures:
            return Decision(True, "the last save failed")
        if interval.steps is not None:
            return Decision(step // interval.steps * interval.steps > self.step, interval.reason)
        # The step boundary that is nearest to the wanted time.
        return Decision(step > self.step and self.remaining_s(interval, now_s) <= step_s / 2, interval.reason)

    def meeting(self, interval: Interval, step: int, now_s: float, step_s: float) -> Meeting:
        """When to look at this tier again."""
        if self.busy:
            # To hear soon how it went, but of a long write not too often.
            pause_s = max(_BUSY_AGAIN_S, (now_s - self.time_s) / 4)
            pause = max(1, round(pause_s / step_s)) if step_s > 0 else 1
            return Meeting(step + (pause if interval.steps is None else min(pause, interval.steps - step % interval.steps)))
        waits = self.failures > 0 or self.not_before_s > now_s
        multiple = None if interval.steps is None else (step // interval.steps + 1) * interval.steps
        if multiple is not None and not waits:
            return Meeting(multiple, certain=True, reason=interval.reason)
        if step_s <= 0:
            return Meeting(step + 1)
        left_s = self.remaining_s(interval, now_s)
        steps = left_s / step_s
        if left_s <= CLOSE_S:
            at = Meeting(step + max(1, round(steps)), certain=not waits, reason=interval.reason)
        else:
            at = Meeting(step + max(1, int(steps / 2)))
        return Meeting(multiple) if self.insists and multiple is not None and multiple <= at.step else at


class Agenda:
    """All tiers' turns, and the time that steps take.

    Args:
        turns: of the tiers that are configured.
        rate: how often the job fails.
        overhead_cap: share of training time that ``auto`` lets each tier cost.
        step, now_s: of the start.
    """

    def __init__(
        self, turns: Iterable[Turn], rate: FailureRate, overhead_cap: float, *, step: int = 0, now_s: float = 0.0
    ) -> None:
        self.turns = {turn.tier: turn for turn in turns}
        self.rate, self._cap = rate, overhead_cap
        self._pace = _Pace(step, now_s)
        for turn in self.turns.values():
            turn.saved(step, now_s)

    def restart(self, step: int, now_s: float) -> None:
        """Count from here, with what was learned so far."""
        for turn in self.turns.values():
            turn.saved(step, now_s)
        self._pace.jump(step, now_s)

    def intervals(self) -> dict[str, Interval]:
        """How far the saves of each tier are apart now, and why."""
        return {tier: self._interval(turn) for tier, turn in self.turns.items()}

    def arrive(self, step: int, now_s: float) -> None:
        """Ranks meet after ``step``: learn how long steps take, and how much longer while something is written."""
        self._pace.observe(step, now_s, busy=any(turn.busy for turn in self.turns.values()))

    def leave(self, now_s: float) -> None:
        """The meeting is over; what it took is no part of a step."""
        self._pace.resume(now_s)

    def due(self, step: int, now_s: float, among: Collection[str] | None = None) -> dict[str, str]:
        """The tiers that are due after ``step``, each with the reason."""
        found = {}
        for tier, turn in self.turns.items():
            if among is None or tier in among:
                decision = turn.due(self._interval(turn), step, now_s, self._pace.step_s)
                if decision.save:
                    found[tier] = decision.reason
        return found

    def missed(self, step: int) -> str:
        """Why ``step`` was to be saved somewhere, in a tier that is still being written; "" if it was not."""
        for turn in self.turns.values():
            interval = self._interval(turn)
            if turn.busy and interval.steps is not None and step % interval.steps == 0:
                return interval.reason
        return ""

    def next_meeting(self, step: int, now_s: float) -> Meeting:
        """The earliest meeting that any tier needs; far away when there is no tier."""
        meetings = [turn.meeting(self._interval(turn), step, now_s, self._pace.step_s) for turn in self.turns.values()]
        if not meetings:
            return Meeting(step + 2**40)
        earliest = min(meeting.step for meeting in meetings)
        then = [meeting for meeting in meetings if meeting.step == earliest]
        return next((meeting for meeting in then if meeting.certain), then[0])

    def _interval(self, turn: Turn) -> Interval:
        cost = turn.meter.cost()
        if cost is not None and turn.schedule.is_auto:
            # Training also pays for what is written beside it, in steps that take longer.
            cost = Cost(cost.stall_s + self._pace.inflation * cost.persist_s, cost.persist_s)
        return turn.schedule.interval(cost, self.rate.mean_time_s(), self._cap, turn.longest_s)


class _Pace:
    """The time of a step, from what lay between meetings."""

    def __init__(self, step: int, now_s: float) -> None:
        self._step, self._now_s = step, now_s
        self._last: deque[float] = deque(maxlen=1)
        self._quiet: deque[float] = deque(maxlen=9)
        self._busy: deque[float] = deque(maxlen=9)

    @property
    def step_s(self) -> float:
        """Newest estimate; 0 before there is one."""
        return self._last[-1] if self._last else 0.0

    @property
    def inflation(self) -> float:
        """Share by which a step takes longer while a tier is written; 0 until there is enough to compare."""
        if len(self._quiet) < 3 or len(self._busy) < 3:
            return 0.0
        quiet, busy = sorted(self._quiet)[len(self._quiet) // 2], sorted(self._busy)[len(self._busy) // 2]
        return max(0.0, busy / quiet - 1) if quiet > 0 else 0.0

    def observe(self, step: int, now_s: float, *, busy: bool) -> None:
        if step > self._step:
            self._last.append(max(0.0, now_s - self._now_s) / (step - self._step))
            (self._busy if busy else self._quiet).append(self._last[-1])
        self._step = step

    def resume(self, now_s: float) -> None:
        self._now_s = now_s

    def jump(self, step: int, now_s: float) -> None:
        self._step, self._now_s = step, now_s
