"""Losses that are no numbers, and spikes."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from hpctrain.detect.beat import RankBeat
from hpctrain.detect.loss import LossDetector, LossWatch
from hpctrain.detect.settings import DetectionSettings, LossSettings


def settings(**loss: Any) -> LossSettings:
    """The recipe's section, with what is missing as it is by default."""
    return DetectionSettings.read({"loss": loss}).loss


def curve(steps: int, seed: int = 0) -> list[float]:
    """A loss that falls from 10 to about 2 with noise."""
    noise = random.Random(seed)
    return [2 + 8 * math.exp(-step / 150) + noise.gauss(0, 0.08) for step in range(steps)]


@pytest.mark.parametrize("seed", range(8))
def test_an_ordinary_curve_has_no_spike(seed: int) -> None:
    """A noisy falling loss raises no alarm in thousands of steps."""
    watch = LossWatch(settings(spike={"warmup_steps": 0, "patience": 1}))

    assert [found for step, loss in enumerate(curve(2000, seed), 1) if (found := watch.add(step, loss))] == []


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_no_number_is_told_at_once(loss: float) -> None:
    """Also in the first step; and once, not at each step that follows."""
    watch = LossWatch(settings())

    found = watch.add(1, loss)

    assert found is not None
    assert (found.kind, found.action, found.step_bad) == ("not_a_number", "rewind", 1)
    assert watch.add(2, loss) is None
    assert watch.add(3, 2.0) is None
    assert watch.add(4, loss) is not None


def test_a_wild_gradient_is_told_before_the_loss_shows_it() -> None:
    """The weights are spoilt by the step whose gradient is no number, and so is every checkpoint after it."""
    found = LossWatch(settings(action="stop")).add(7, 2.5, gradient_ok=False)

    assert found is not None
    assert (found.action, found.step_bad) == ("stop", 7)
    assert "gradient" in found.reason


def test_a_spike_needs_patience() -> None:
    """Fewer high steps than the patience recover on their own; the first of enough is where it began."""
    watch = LossWatch(settings(spike={"action": "rewind", "patience": 3}))
    step = 0
    for step, loss in enumerate(curve(500), 1):
        assert watch.add(step, loss) is None
    assert watch.add(step + 1, 9.0) is None
    assert watch.add(step + 2, 9.0) is None
    assert watch.add(step + 3, 2.3) is None
    assert watch.add(step + 4, 9.0) is None
    assert watch.add(step + 5, 12.0) is None

    found = watch.add(step + 6, 9.0)

    assert found is not None
    assert (found.kind, found.action, found.step_bad, found.step) == ("spike", "rewind", step + 4, step + 6)
    assert found.evidence["loss"] == 12.0


def test_a_new_level_is_told_once() -> None:
    """If training goes on at the higher level, that level is the new normal."""
    watch = LossWatch(settings())
    found = [watch.add(step, loss) for step, loss in enumerate(curve(600) + [9.0] * 300, 1)]

    assert sum(one is not None for one in found) == 1


def test_nothing_is_a_spike_before_the_warm_up_is_over() -> None:
    """Early steps are wild; only what is no number counts there."""
    watch = LossWatch(settings(spike={"warmup_steps": 1000, "patience": 1}))

    assert all(watch.add(step, loss) is None for step, loss in enumerate([*curve(300), 50.0, 60.0], 1))


def test_a_calm_curve_has_a_floor() -> None:
    """Where all losses are alike, the smallest rise is many deviations: it is no spike below the floor."""
    watch = LossWatch(settings(spike={"warmup_steps": 0, "patience": 1, "at_least": 0.5}))
    for step in range(1, 200):
        watch.add(step, 2.0)

    assert watch.add(200, 2.4) is None
    assert watch.add(201, 2.6) is not None


def test_each_kind_can_be_switched_off() -> None:
    """``off`` finds nothing of its kind."""
    watch = LossWatch(settings(action="off", spike={"action": "off", "warmup_steps": 0}))

    assert all(watch.add(step, loss) is None for step, loss in enumerate([*curve(200), math.nan, 99.0, 99.0, 99.0, 99.0], 1))


def test_scripts_are_judged_by_their_heartbeats() -> None:
    """The loss that a script writes is judged once per step; its rewind is a restart."""
    detector = LossDetector(settings())
    detector.begin(0, 1.0)
    beats = [RankBeat(rank, "n0", 0, time=5.0, seen=5.0, step=3, loss=math.nan if rank == 0 else None) for rank in range(2)]

    found = detector.look(beats, 5.0)

    assert [(one.action, one.step, one.cause) for one in found] == [("restart", 3, "loss")]
    assert not detector.look(beats, 6.0)
    detector.begin(1, 7.0)
    assert detector.look(beats, 8.0)
