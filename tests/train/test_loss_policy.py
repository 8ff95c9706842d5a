"""A loss that goes wrong: the run goes back, leaves the data out, and ends as if it had never seen it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.train.environment import EXIT_DIVERGED, EXIT_REWIND
from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, make_recipe, metric_lines

RANKS = 2
POISONED = "tests.train.targets:train_on_poison"
LEAVING_OUT = "tests.train.targets:train_and_leave_out"
BATCH = 16


def recipe(**loss: Any) -> dict[str, Any]:
    """Twelve steps, a checkpoint every three and nowhere else; all of them are kept."""
    return make_recipe(detection__loss=loss, checkpoint__keep_last=10, checkpoint__ram={"enabled": False})


def order(run_dir: Path) -> dict[str, Any]:
    """The newest order to rewind."""
    return dict(json.loads((run_dir / "control/rewind.json").read_text()))


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """All events of one kind."""
    lines = [line for path in (run_dir / "events").glob("*.jsonl") for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


@pytest.mark.slow
def test_a_rewind_ends_byte_equal_to_a_run_without_the_bad_data(trainers: WarmRanks, tmp_path: Path) -> None:
    """NaN at step 8: step 6 is restored, the samples up to one batch behind the bad one are left out, and the weights end
    as those of a run that was never shown them; also when the start that went back is killed before it has saved.
    """
    bad, clean, values = tmp_path / "bad", tmp_path / "clean", recipe()
    poison = {"target": POISONED, "TEST_POISON": str(7 * BATCH + 3)}

    assert [EXIT_REWIND] * RANKS == trainers.finish(bad, values, RANKS, **poison), logs(bad)
    assert (order(bad)["step_bad"], order(bad)["skip_to_samples"], order(bad)["restored_step"]) == (8, 9 * BATCH, None)
    assert 0 not in trainers.finish(bad, values, RANKS, **poison, TEST_DIE_AT_STEP="2")
    assert order(bad)["restored_step"] == 6
    assert [0] * RANKS == trainers.finish(bad, values, RANKS, **poison), logs(bad)

    leap = {"target": LEAVING_OUT, "TEST_LEAVE_OUT_AT": "6", "TEST_LEAVE_OUT_TO": str(9 * BATCH)}
    assert [0] * RANKS == trainers.finish(clean, values, RANKS, **leap), logs(clean)
    assert final_weights(bad) == final_weights(clean)
    last = {line["step"]: line["loss"] for line in metric_lines(bad)}
    assert last == {line["step"]: line["loss"] for line in metric_lines(clean)}
    assert [event["step"] for event in events(bad, "loss.bad")] == [8]
    assert [event["evidence"]["samples"] for event in events(bad, "data.skipped")] == [3 * BATCH, 3 * BATCH]


@pytest.mark.slow
def test_trouble_that_comes_back_goes_further_back_and_ends(trainers: WarmRanks, tmp_path: Path) -> None:
    """Each rewind for the same trouble takes an older checkpoint; when the budget is used up the run ends with a verdict,
    and no checkpoint has ever held what was spoilt. A rewind that finds nothing older ends it, too.
    """
    values = recipe(max_rewinds=2)
    everything_bad = " ".join(str(sample) for sample in range(7 * BATCH, 40 * BATCH))
    poison = {"target": POISONED, "TEST_POISON": everything_bad}

    assert [EXIT_REWIND] * RANKS == trainers.finish(tmp_path / "run", values, RANKS, **poison)
    assert (order(tmp_path / "run")["restore_before"], order(tmp_path / "run")["rewinds"]) == (8, 1)
    assert [EXIT_REWIND] * RANKS == trainers.finish(tmp_path / "run", values, RANKS, **poison)
    assert (order(tmp_path / "run")["restore_before"], order(tmp_path / "run")["rewinds"]) == (6, 2)
    codes = trainers.finish(tmp_path / "run", values, RANKS, **poison)

    assert [EXIT_DIVERGED] * RANKS == codes, logs(tmp_path / "run")
    assert "the run has had its 2 rewinds" in (tmp_path / "run/log-0").read_text()
    assert "the run has had its 2 rewinds" in (tmp_path / "run/error-0.json").read_text()
    saved = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert [name.split(".")[0] for name in saved if "abandoned" not in name][:1] == ["step-00000003"]
    assert not any(name.startswith(("step-00000008", "step-00000009")) for name in saved)

    left = order(tmp_path / "run") | {"restore_before": 2, "restored_step": None}
    (tmp_path / "run/control/rewind.json").write_text(json.dumps(left))
    assert [EXIT_DIVERGED] * RANKS == trainers.finish(tmp_path / "run", values, RANKS)
    assert "there is no checkpoint before step 2" in (tmp_path / "run/log-0").read_text()


@pytest.mark.slow
def test_policies_that_stop_or_tell(trainers: WarmRanks, tmp_path: Path) -> None:
    """``stop`` ends with a verdict in the bad step; ``alert`` tells and goes on; a spike is told where it began."""
    poison = {"target": POISONED, "TEST_POISON": str(4 * BATCH)}

    assert [EXIT_DIVERGED] * RANKS == trainers.finish(tmp_path / "stop", recipe(action="stop"), RANKS, **poison), logs(
        tmp_path / "stop")
    assert "the loss of step 5 is no number; the recipe ends the run then" in (tmp_path / "stop/log-0").read_text()
    assert [0] * RANKS == trainers.finish(tmp_path / "alert", recipe(action="alert"), RANKS, **poison)
    assert event_kinds(tmp_path / "alert").count("loss.bad") == 1
