"""Rules about lines, and patterns that may not stall anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hpctrain.agent.bounded_search import BoundedSearch, LineFilter
from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.build import build_detectors, line_patterns
from hpctrain.detect.log_rules import LogRuleDetector
from hpctrain.detect.patterns import LONGEST_LINE, compiled, why_dangerous
from hpctrain.detect.settings import DetectionSettings

BEATS = [RankBeat(0, "n0", 0), RankBeat(1, "n1", 0)]


class Watched:
    """One rule over the output of two ranks."""

    def __init__(self, pattern: str = "loss=([0-9.a-z]+)", **rule: Any) -> None:
        section = {"log_rules": [{"name": "r", "pattern": pattern, **rule}]}
        self.detector = LogRuleDetector(DetectionSettings.read(section).log_rules[0])
        self.now = 500.0
        self.detector.begin(0, self.now)

    def wait(self, seconds: float) -> list[Detection]:
        """Let time pass."""
        found: list[Detection] = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            found += self.detector.look(BEATS, self.now)
        return found

    def print(self, text: str, rank: int = 0) -> Sequence[Detection]:
        """A rank prints a line."""
        return self.detector.line(rank, f"n{rank}", text, self.now)


def test_the_first_line_has_a_deadline() -> None:
    """Without a match within start_cutoff the job hangs; with one it does not."""
    late, early = Watched(start_cutoff=120), Watched(start_cutoff=120)
    early.wait(119)
    early.print("loss=2.5")

    assert late.wait(119) == []
    found = late.wait(5)
    assert [(one.cause, one.action, one.stacks) for one in found] == [("hang", "restart", True)]
    assert "log rule r" in found[0].reason
    assert early.wait(500) == []


def test_lines_must_recur() -> None:
    """After a match the next must come in time; the deadline runs from the newest."""
    rule = Watched(recurs_within=300)

    assert rule.wait(1000) == []
    rule.print("loss=2.5")
    assert rule.wait(299) == []
    rule.print("loss=2.4", rank=1)
    assert rule.wait(299) == []
    found = rule.wait(5)
    assert len(found) == 1
    assert found[0].fault_time == pytest.approx(rule.now - 305, abs=6)
    assert rule.wait(1000) == []


def test_a_stop_pattern_suspends_the_rule() -> None:
    """In a phase that is announced silence is normal, until the pattern matches again."""
    rule = Watched(recurs_within=60, start_cutoff=60, stop_pattern="^evaluating")
    rule.print("evaluating 1000 samples")
    assert rule.wait(500) == []
    rule.print("loss=2.5")
    rule.print("evaluating")
    assert rule.wait(500) == []
    rule.print("loss=2.5")
    assert len(rule.wait(62)) == 1


@pytest.mark.parametrize(("operator", "bad", "good"), [
    ("gt", "11", "10"), ("gteq", "10", "9"), ("lt", "9", "10"), ("lteq", "10", "11"), ("eq", "10", "9"),
])
def test_numbers_are_compared(operator: str, bad: str, good: str) -> None:
    """So many bad numbers in a row are trouble; a good one in between begins the count anew."""
    rule = Watched(metric_threshold=10, operator=operator, metric_data_points=2)

    assert not rule.print(f"loss={bad}")
    assert not rule.print(f"loss={good}")
    assert not rule.print(f"loss={bad}")
    found = rule.print(f"loss={bad}")
    assert [one.evidence["outcome"] for one in found] == ["SLOW"]
    assert not rule.print(f"loss={bad}")


def test_what_is_no_number_is_no_data_point() -> None:
    """A group that is no number is passed over."""
    rule = Watched(metric_threshold=10, operator="gt")

    assert not rule.print("loss=abc")
    assert not rule.print("loss=nan")


def test_a_line_that_must_not_come() -> None:
    """fault_on_match tells rank, node and line, and can cost the node."""
    rule = Watched(pattern="CUDA error", fault_on_match=True, action="swap")

    found = rule.print("RuntimeError: CUDA error: unspecified launch failure\x1b[0m", rank=1)

    assert [(one.action, one.cause, one.ranks, one.nodes) for one in found] == [("swap", "node", (1,), ("n1",))]
    assert "\x1b" not in found[0].reason


def test_a_paused_job_misses_no_deadline() -> None:
    """Time in which nobody looked does not count."""
    rule = Watched(recurs_within=60)
    rule.print("loss=1")
    rule.wait(10)
    rule.now += 3600

    assert rule.wait(30) == []


def test_a_start_begins_anew() -> None:
    """Deadlines and what was told belong to an incarnation."""
    rule = Watched(start_cutoff=10)
    assert len(rule.wait(20)) == 1
    rule.detector.begin(1, rule.now)
    assert rule.wait(9) == []
    assert len(rule.wait(5)) == 1


@pytest.mark.parametrize("pattern", [
    "(a+)+$", "(a|ab|b)*$", "(x?)*y", "((ab){1,5})+", ".*.*.*.*x", r"(\d+,?)+;", "(?:(?=a+)b)*",
])
def test_dangerous_patterns_are_known(pattern: str) -> None:
    """What can take exponential time is refused, with the reason."""
    assert why_dangerous(pattern)


@pytest.mark.parametrize("pattern", [
    r"step (\d+)/(\d+)", r"loss[:=]\s*([-+0-9.eE]+).*lr", "CUDA error|NCCL WARN", r"^\[rank\d+\]: .* timed out",
    "(?:(?:ab)+c)?d", r"(?i)out of memory", r"\bnan\b", r"(?P<value>[0-9]+) tokens/s",
])
def test_usual_patterns_are_allowed(pattern: str) -> None:
    """What people write for logs passes."""
    assert why_dangerous(pattern) == ""


def test_a_search_gives_up() -> None:
    """A pattern that takes too long is switched off and named; the others go on."""
    search = BoundedSearch()

    assert search(compiled(".*.*.*=$"), "a" * LONGEST_LINE) is None
    assert search.slow == [".*.*.*=$"]
    assert search(compiled(".*.*.*=$"), "=") is None
    assert search(compiled("a+"), "xaax") is not None


def test_agents_pass_on_what_a_rule_asks_for() -> None:
    """Only matching lines go to the coordinator, cut to a bounded length, and no more wait than can be held."""
    chosen = LineFilter(line_patterns({"log_rules": [{"name": "a", "pattern": "loss=", "stop_pattern": "^eval"}]}))
    for line in (b"loss=2", b"hello", b"evaluating", b"\xff loss= " + b"x" * 100_000):
        chosen.offer(3, line)

    found = chosen.take()

    assert [(rank, text[:7]) for rank, text in found] == [(3, "loss=2"), (3, "evaluat"), (3, "\ufffd loss=")]
    assert max(len(text) for _, text in found) == LONGEST_LINE
    for _ in range(20_000):
        chosen.offer(0, b"x")
    assert chosen.dropped == 10_000


def test_without_rules_no_line_is_kept() -> None:
    """A job without rules pays nothing for them."""
    chosen = LineFilter(line_patterns({}))
    chosen.offer(0, b"x")

    assert chosen.take() == []


def test_the_plan_makes_the_detectors() -> None:
    """Our trainer judges its losses itself; what is off is not there."""
    rules = {"log_rules": [{"name": "a", "pattern": "x", "fault_on_match": True}]}
    off = {"hang": {"action": "off"}, "throughput": {"action": "off"}, "node": {"fault": "off", "drained": "off"}}

    def kinds(section: dict[str, Any], *, is_trainer: bool) -> list[str]:
        return [type(one).__name__ for one in build_detectors(section, is_trainer=is_trainer)]

    assert kinds({}, is_trainer=True) == ["HangDetector", "ThroughputDetector", "NodeHealthDetector"]
    assert kinds(rules, is_trainer=False) == [
        "HangDetector", "LossDetector", "ThroughputDetector", "NodeHealthDetector", "LogRuleDetector"]
    assert kinds(off, is_trainer=True) == []
