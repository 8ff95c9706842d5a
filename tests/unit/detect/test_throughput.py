"""A lasting loss of speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.settings import DetectionSettings
from hpctrain.detect.throughput import ThroughputDetector


class Job:
    """Rank 0 tells its speed with each step."""

    def __init__(self, **throughput: Any) -> None:
        self.detector = ThroughputDetector(DetectionSettings.read({"throughput": throughput}).throughput)
        self.detector.begin(0, 0.0)
        self.now, self.step = 100.0, 0

    def run(self, steps: int, speed: float, step_s: float = 1.0) -> list[Detection]:
        """Take steps; everything that was found."""
        found: list[Detection] = []
        for _ in range(steps):
            self.now, self.step = self.now + step_s, self.step + 1
            found += self.look(speed)
        return found

    def look(self, speed: float) -> Sequence[Detection]:
        """The newest beats."""
        beat = RankBeat(0, "n0", 0, time=self.now, seen=self.now, phase="step", step=self.step, tokens_per_s=speed)
        return self.detector.look([beat, RankBeat(1, "n0", 0)], self.now)


def test_a_collapse_is_told_once_after_its_patience() -> None:
    """Half the median speed for five minutes is an alarm; one, until the speed has recovered."""
    job = Job(patience=300)

    assert job.run(100, 1000) == []
    assert job.run(290, 400) == []
    found = job.run(200, 400)
    assert [one.action for one in found] == ["alert"]
    assert "400 instead of 1,000 tokens/s" in found[0].reason
    assert job.run(50, 900) == []
    assert len(job.run(400, 400)) == 1


def test_short_dips_and_slow_starts_are_none() -> None:
    """A dip that recovers and the first steps of a start raise no alarm."""
    job = Job(patience=60)
    job.run(100, 1000)

    assert job.run(50, 100) == []
    assert job.run(5, 1000) == []
    assert job.run(50, 100) == []
    job.run(1, 1000)
    job.detector.begin(1, job.now)
    assert job.run(19, 100, step_s=10) == []


def test_the_median_is_kept_over_restarts() -> None:
    """A job that comes back slower, on a worse node, is found although all its new steps are slow."""
    job = Job(patience=60)
    job.run(100, 1000)
    job.detector.begin(1, job.now)

    assert len(job.run(200, 300)) == 1


def test_a_pause_is_no_slowness() -> None:
    """A job that was stopped for an hour and goes on at its old speed is not slow."""
    job = Job(patience=300)
    job.run(100, 1000)
    job.now += 3600

    assert job.run(1, 20) == []
    assert job.run(100, 1000) == []


def test_no_step_is_no_speed() -> None:
    """The same step seen again says nothing: that steps do not come is a hang."""
    job = Job(patience=10)
    job.run(100, 1000)
    for _ in range(100):
        job.now += 1
        assert not job.look(10)
