"""Rules about what ranks print: a line that must come, must not come, or brings a number (pure).

A rule looks at the lines of all ranks together. Its deadlines run in *observed* time: no gap between two looks counts for
more than :data:`LONGEST_GAP_S`, so that a paused job misses none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.patterns import LONGEST_LINE, compiled
from hpctrain.detect.settings import RuleSettings, action_of

LONGEST_GAP_S = 5.0

Search = Callable[["re.Pattern[str]", str], "re.Match[str] | None"]
"""Searches a line for a pattern; one that bounds its time gives up with None."""

COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "gt": lambda value, limit: value > limit, "gteq": lambda value, limit: value >= limit,
    "lt": lambda value, limit: value < limit, "lteq": lambda value, limit: value <= limit,
    "eq": lambda value, limit: value == limit,
}
_WORDS = {"gt": "above", "gteq": "at or above", "lt": "below", "lteq": "at or below", "eq": "equal to"}


def plain_search(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Searches without a bound on time; the line's length and the check of the recipe are what bounds it."""
    return pattern.search(text)


class LogRuleDetector:
    """One rule.

    Args:
        rule: the recipe's; its patterns have been checked.
        search: how lines are searched.

    Raises:
        ValueError: a pattern is no regular expression.
    """

    def __init__(self, rule: RuleSettings, search: Search = plain_search) -> None:
        self._rule, self._search = rule, search
        self._pattern = compiled(rule.pattern)
        self._stop = compiled(rule.stop_pattern) if rule.stop_pattern is not None else None
        self._begun = self._looked = 0.0
        self._running_s = 0.0
        self._matched_s: float | None = None
        self._matched_at = 0.0
        self._paused = self._told = False
        self._bad: list[float] = []

    def begin(self, incarnation: int, now: float) -> None:
        """The deadlines start anew."""
        del incarnation
        self._begun = self._looked = now
        self._running_s, self._matched_s, self._matched_at = 0.0, None, 0.0
        self._paused = self._told = False
        self._bad.clear()

    def look(self, beats: Sequence[RankBeat], now: float) -> Sequence[Detection]:
        """Whether a deadline has passed."""
        if self._looked == 0.0:
            self._begun = self._looked = now  # begin() was not called: an agent of the first start
        self._running_s += min(max(0.0, now - self._looked), LONGEST_GAP_S)
        self._looked = now
        rule = self._rule
        if self._told or self._paused or not beats:
            return ()
        if self._matched_s is None:
            if rule.start_cutoff is None or self._running_s < rule.start_cutoff:
                return ()
            text = f"no line has matched /{rule.pattern}/ within {rule.start_cutoff:g} s of the start"
            return self._found(text, self._begun, "hang", {"outcome": "HANGING"}, stacks=True)
        if rule.recurs_within is None or self._running_s - self._matched_s < rule.recurs_within:
            return ()
        text = f"no line has matched /{rule.pattern}/ for {self._running_s - self._matched_s:.0f} s"
        text += f" (it recurs within {rule.recurs_within:g} s)"
        return self._found(text, self._matched_at, "hang", {"outcome": "HANGING"}, stacks=True)

    def line(self, rank: int, node: str, text: str, now: float) -> Sequence[Detection]:
        """What a line tells."""
        rule, text = self._rule, text[:LONGEST_LINE]
        if self._stop is not None and self._search(self._stop, text):
            self._paused = True
            return ()
        match = self._search(self._pattern, text)
        if match is None:
            return ()
        self._matched_s, self._matched_at, self._paused = self._running_s, now, False
        if self._told:
            return ()
        if rule.fault_on_match:
            cause = "node" if rule.action == "swap" else "unknown"
            return self._found(f"rank {rank} on {node} printed: {_shown(text)}", now, cause,
                               {"outcome": "FAULT"}, ranks=(rank,), nodes=(node,))
        return self._judge_number(match, now)

    def _judge_number(self, match: re.Match[str], now: float) -> Sequence[Detection]:
        rule = self._rule
        if rule.metric_threshold is None or rule.operator is None:
            return ()
        value = _number(match)
        if value is None or not COMPARE[rule.operator](value, rule.metric_threshold):
            self._bad.clear()
            return ()
        self._bad.append(value)
        if len(self._bad) < rule.metric_data_points:
            return ()
        word = f"{_WORDS[rule.operator]} {rule.metric_threshold:g}"
        times = f" {len(self._bad)} times in a row" if len(self._bad) > 1 else ""
        return self._found(f"the number in /{rule.pattern}/ was {word}{times}, now {value:g}", now, "unknown",
                           {"outcome": "SLOW", "values": self._bad[-10:]})

    def _found(
        self, text: str, since: float, cause: str, evidence: Mapping[str, object], *, ranks: tuple[int, ...] = (),
        nodes: tuple[str, ...] = (), stacks: bool = False,
    ) -> Sequence[Detection]:
        self._told = True
        return (Detection("log_rule", action_of(self._rule.action), f"log rule {self._rule.name}: {text}", cause, since,
                          ranks=ranks, nodes=nodes, stacks=stacks, evidence={"rule": self._rule.name, **evidence}),)


def _number(match: re.Match[str]) -> float | None:
    """The first group as a number; ``nan`` and ``inf`` are numbers here, thousands may have commas."""
    try:
        return float((match.group(1) or "").replace(",", ""))
    except (ValueError, IndexError):
        return None


def _shown(text: str) -> str:
    clean = "".join(char if char.isprintable() else " " for char in text).strip()
    return clean if len(clean) <= 200 else clean[:197] + "..."
