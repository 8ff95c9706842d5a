"""Ranks that live and make no progress (pure).

Progress is a changed heartbeat; for a script without heartbeats it is output or CPU work. A rank's *silence* is the time
for which its agent has been seen to report the same. It is added up from look to look, and no single gap counts for more
than :data:`LONGEST_GAP_S`: when the coordinator, an agent or the whole job was stopped for an hour, nobody was silent.

Ranks of one job wait for each other. So the job hangs when *all* of them are silent for longer than what the slowest of
their phases may take; a single one that is silent while the others go on is given :data:`ALONE_FACTOR` times that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.learned import Times
from hpctrain.detect.settings import AUTO, OFF, HangSettings, Limit, action_of

LONGEST_GAP_S = 5.0
STALE_S = 10.0
"""A rank of which no agent has told for so long, while agents tell of others, is not judged."""
ALONE_FACTOR = 2.5
UNKNOWN_LIMIT_S = 1800.0
"""Of what is to be learned and is not yet."""
SCRIPT_LIMIT_S = 600.0
WORK_SHARE = 0.02
"""A script works as long as it uses this share of one CPU; waiting ranks with their idle threads use less."""
WORK_WINDOW_S = 5.0
WAITING = "waiting"
"""A heartbeat whose detail begins so tells that its rank waits for others: it is not the one that lags."""

COPY = "copy"
"""The part of a save that only copies into memory, as it happens after nearly every step: a heartbeat in the phase ``save``
that says no more. When ranks write files, or wait for that, they say so."""
DEFAULTS: Mapping[str, Limit] = {
    "init": 1800.0, "data": 3600.0, "load": 1800.0, "first_step": AUTO, "step": AUTO, "save": AUTO, "evaluate": AUTO,
    "finish": 1800.0, "script": AUTO, COPY: AUTO,
}
_TOGETHER = {"step", "first_step", "save", COPY, "evaluate"}
"""In these phases every rank moves on by itself; in the others, most wait for one that tokenises or restores."""


@dataclass(slots=True)
class _Rank:
    """What is remembered of one rank.

    Attributes:
        key: which limit counts.
        silence_s: observed time since its last progress.
        since: when that was, seconds since the epoch.
        first: completed steps when it was first seen training, None before.
    """

    beat: RankBeat
    key: str
    since: float
    silence_s: float = 0.0
    first: int | None = None
    work_from: float = 0.0
    work_cpu_s: float = 0.0


class HangDetector:
    """Finds hangs; see the module.

    Args:
        settings: the recipe's.
        is_trainer: ranks write heartbeats; one that has written none is still starting.
    """

    def __init__(self, settings: HangSettings, *, is_trainer: bool) -> None:
        self._settings, self._is_trainer = settings, is_trainer
        self._times: dict[str, Times] = {key: Times() for key in DEFAULTS}
        self._ranks: dict[int, _Rank] = {}
        self._quiet = False
        self._output: tuple[int, float, float] | None = None  # bytes of all ranks, silence, time seen

    def begin(self, incarnation: int, now: float) -> None:
        """Forget the old ranks; what was learned of times stays."""
        del incarnation, now
        self._ranks, self._quiet, self._output = {}, False, None

    def line(self, rank: int, node: str, text: str, now: float) -> Sequence[Detection]:
        """Nothing: lines are counted by the agents."""
        del rank, node, text, now
        return ()

    def look(self, beats: Sequence[RankBeat], now: float) -> Sequence[Detection]:
        """At most one hang; told again only after there was progress in between."""
        moved = [self._note(beat, now) for beat in beats]
        if any(moved):
            self._quiet = False
        if self._settings.action == OFF or not beats or self._quiet:
            return ()
        found = next((hang for hang in (self._all_silent(), self._some_silent(), self._mute(beats)) if hang), None)
        self._quiet = found is not None
        return () if found is None else (found,)

    # --- progress -------------------------------------------------------------------------------------------------

    def _note(self, beat: RankBeat, now: float) -> bool:
        """Take a beat; True when its rank has made progress."""
        seen = beat.seen or now
        rank = self._ranks.get(beat.rank)
        if rank is None:
            rank = self._ranks[beat.rank] = _Rank(beat, "init", seen, work_from=seen, work_cpu_s=beat.cpu_s)
            rank.key = self._key(rank, beat)
            return True
        passed_s = min(max(0.0, seen - (rank.beat.seen or seen)), LONGEST_GAP_S)
        moved = self._has_moved(rank, beat, seen)
        if moved:
            if not self._quiet:  # what was told as a hang is no example of a slow step
                self._learn(rank, beat, rank.silence_s + passed_s)
            rank.silence_s, rank.since = 0.0, seen
        else:
            rank.silence_s += passed_s
        rank.beat, rank.key = beat, self._key(rank, beat)
        return moved

    def _has_moved(self, rank: _Rank, beat: RankBeat, seen: float) -> bool:
        old = rank.beat
        if beat.time > 0 or self._is_trainer:
            return (beat.time, beat.phase, beat.step, beat.detail) != (old.time, old.phase, old.step, old.detail)
        worked = False
        if seen - rank.work_from >= WORK_WINDOW_S:
            worked = beat.cpu_s - rank.work_cpu_s >= WORK_SHARE * (seen - rank.work_from)
            rank.work_from, rank.work_cpu_s = seen, beat.cpu_s
        return worked or beat.output_bytes != old.output_bytes

    def _key(self, rank: _Rank, beat: RankBeat) -> str:
        if beat.time <= 0:
            return "init" if self._is_trainer else "script"
        if beat.phase == "step" and rank.first is None:
            rank.first = beat.step or 0
        if rank.first is not None and beat.phase in ("step", "data", ""):
            return "first_step" if (beat.step or 0) <= rank.first else "step"
        if beat.phase == "save" and not beat.detail:
            return COPY
        return beat.phase if beat.phase in DEFAULTS else "step" if beat.phase == "" else "init"

    def _learn(self, rank: _Rank, beat: RankBeat, silence_s: float) -> None:
        # The nodes' own clock is finer than our looks; but nothing longer than what was observed, should that clock jump.
        by_clock_s = beat.time - rank.beat.time if rank.beat.time > 0 else silence_s
        seconds = min(by_clock_s, silence_s + 1.0)
        steps = (beat.step or 0) - (rank.beat.step or 0)
        self._times[rank.key].add(seconds / max(1, steps) if rank.key == "step" else seconds)

    # --- limits ---------------------------------------------------------------------------------------------------

    def limit_s(self, key: str) -> float:
        """Longest silence of a phase, as far as it is known now."""
        settings, times = self._settings, self._times[key]
        given = settings.limits.get("save" if key == COPY else key, DEFAULTS[key])
        if given != AUTO:
            return float(given)
        if key in ("save", "script"):
            least = UNKNOWN_LIMIT_S if key == "save" else SCRIPT_LIMIT_S
            return max(least, settings.factor * times.longest())
        if key == "first_step":
            known = times.longest() > 0
            return max(settings.at_least, settings.factor * times.longest(), self._step_s()) if known else UNKNOWN_LIMIT_S
        return max(settings.at_least, settings.factor * times.high()) if times.known else UNKNOWN_LIMIT_S

    def _step_s(self) -> float:
        return self._settings.factor * self._times["step"].high()

    # --- verdicts -------------------------------------------------------------------------------------------------

    @property
    def _told_of(self) -> dict[int, _Rank]:
        """The ranks that agents still tell of; one that has ended well is not waited for by those that finish later."""
        newest = max(rank.beat.seen for rank in self._ranks.values())
        return {number: rank for number, rank in self._ranks.items() if rank.beat.seen >= newest - STALE_S}

    def _all_silent(self) -> Detection | None:
        limit_s = self._longest_limit()
        silence_s = min(rank.silence_s for rank in self._told_of.values())
        return self._hang(sorted(_lagging(self._told_of)), silence_s, limit_s) if silence_s >= limit_s else None

    def _some_silent(self) -> Detection | None:
        if any(rank.key not in _TOGETHER for rank in self._told_of.values()):
            return None
        limit_s = ALONE_FACTOR * self._longest_limit()
        stuck = sorted(number for number, rank in self._told_of.items() if rank.silence_s >= limit_s)
        if not stuck or len(stuck) == len(self._told_of):
            return None
        return self._hang(stuck, min(self._ranks[number].silence_s for number in stuck), limit_s, alone=True)

    def _mute(self, beats: Sequence[RankBeat]) -> Detection | None:
        """Scripts that work, but have printed nothing for too long."""
        limit_s = self._settings.output_limit
        if limit_s is None or any(rank.key != "script" for rank in self._ranks.values()):
            return None
        printed, seen = sum(beat.output_bytes for beat in beats), max(beat.seen for beat in beats)
        old = self._output or (printed, 0.0, seen)
        passed_s = min(max(0.0, seen - old[2]), LONGEST_GAP_S)
        silence_s = old[1] + passed_s if printed == old[0] else 0.0
        self._output = (printed, silence_s, seen)
        if silence_s < limit_s:
            return None
        reason = f"no rank has printed anything for {silence_s:.0f} s (limit {limit_s:g} s), although they use CPU time"
        return Detection("hang", action_of(self._settings.action), reason, "hang", seen - silence_s, stacks=True,
                         evidence={"silent_s": round(silence_s, 1), "limit_s": limit_s, "phase": "script"})

    def _longest_limit(self) -> float:
        return max(self.limit_s(key) for key in {rank.key for rank in self._told_of.values()})

    def _hang(self, blamed: list[int], silence_s: float, limit_s: float, *, alone: bool = False) -> Detection:
        ranks = self._told_of
        step = min((rank.beat.step for rank in ranks.values() if rank.beat.step is not None), default=None)
        key = max(sorted({rank.key for rank in ranks.values()}), key=self.limit_s)
        phase = "save" if key == COPY else key
        who = _names(blamed, ranks)
        if alone:
            reason = f"{who} made no progress for {silence_s:.0f} s while other ranks did"
        else:
            reason = f"no rank has made progress for {silence_s:.0f} s"
        reason += f" (phase {phase.replace('_', ' ')}" + (f" after step {step}" if step is not None else "")
        reason += f"; limit {limit_s:g} s{self._why(key)})"
        if blamed and not alone:
            reason += f"; {who} {'lags' if len(blamed) == 1 else 'lag'} behind"
        evidence = {
            "silent_s": round(silence_s, 1), "limit_s": round(limit_s, 1), "phase": phase,
            "phases": {str(number): rank.beat.phase for number, rank in sorted(ranks.items())},
            "steps": {str(number): rank.beat.step for number, rank in sorted(ranks.items())},
        }
        return Detection(
            "hang", action_of(self._settings.action), reason, "hang",
            fault_time=max(rank.since for number, rank in ranks.items() if not alone or number in blamed),
            ranks=tuple(blamed), nodes=tuple(sorted({ranks[number].beat.node for number in blamed})), step=step, stacks=True,
            evidence=evidence,
        )

    def _why(self, key: str) -> str:
        times = self._times[key]
        if self._settings.limits.get("save" if key == COPY else key, DEFAULTS[key]) != AUTO:
            return ""
        slow_s = times.high() if key in ("step", "evaluate") else times.longest()
        if slow_s * self._settings.factor <= self.limit_s(key) == self._settings.at_least:
            return ", as detection.hang.at_least says"
        return f", learned: {self._settings.factor:g} x {slow_s:.2f} s" if slow_s * self._settings.factor > 0 else ""


def _lagging(ranks: Mapping[int, _Rank]) -> Iterator[int]:
    """Whom the others wait for, where heartbeats show it; nobody where all look alike."""
    steps = {number: rank.beat.step or 0 for number, rank in ranks.items()}
    usual = median_low(steps.values())
    behind = [number for number, step in steps.items() if step < usual]
    if not behind:
        waiting = {number for number, rank in ranks.items() if rank.beat.detail.startswith(WAITING)}
        behind = [number for number in ranks if number not in waiting] if waiting else []
    if len(behind) < len(ranks):
        yield from behind


def _names(numbers: Sequence[int], ranks: Mapping[int, _Rank]) -> str:
    """``rank 3 on n2``, or ``ranks 1, 3``."""
    if len(numbers) == 1:
        return f"rank {numbers[0]} on {ranks[numbers[0]].beat.node}"
    shown = ", ".join(str(number) for number in numbers[:8])
    return f"ranks {shown}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
