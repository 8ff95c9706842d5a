"""Orders to go back to an older checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hpctrain.detect.loss import LossFinding
from hpctrain.detect.rewind import RewindOrder, next_order
from hpctrain.detect.settings import LossSettings
from hpctrain.errors import HpctrainError
from hpctrain.jobs.layout import RunDir
from hpctrain.train.loss_policy import read_order


def order(previous: RewindOrder | None, step_bad: int, step: int | None = None, **settings: Any) -> RewindOrder | None:
    """For a loss that went wrong, in batches of 10."""
    finding = LossFinding("spike", "rewind", step or step_bad, step_bad, "it rose")
    return next_order(previous, finding, LossSettings(**settings), incarnation=2, time=9.0,
                      consumed=10 * (step or step_bad), global_batch=10)


def test_the_window_reaches_from_the_checkpoint_to_the_end_of_the_trouble() -> None:
    """Checkpoints since the trouble began are not to be used; the data up to its end and a margin is left out."""
    found = order(None, 50, step=53, skip_margin_steps=4, rewind_checkpoints=2)

    assert found is not None
    assert (found.restore_before, found.checkpoints_back, found.skip_to_samples, found.rewinds) == (50, 2, 570, 1)
    assert found.restored_step is None


def test_the_same_trouble_goes_further_back() -> None:
    """Trouble that returns at once was in the checkpoint; trouble much later is another one."""
    first = order(None, 50)
    assert first is not None
    done = replace(first, restored_step=45)
    again, later = order(done, 51), order(done, 90)

    assert again is not None
    assert later is not None
    assert (again.restore_before, again.rewinds) == (45, 2)
    assert later.restore_before == 90


def test_rewinds_are_counted_over_the_run() -> None:
    """After the last one there is no order."""
    first = order(None, 50, max_rewinds=1)

    assert first is not None
    assert order(replace(first, restored_step=40), 90, max_rewinds=1) is None
    assert order(None, 50, max_rewinds=0) is None


def test_an_order_reads_back() -> None:
    """Through JSON; keys of a later version are ignored, and what is no order is none."""
    found = order(None, 50)
    assert found is not None

    assert RewindOrder.from_json(json.loads(json.dumps({**found.to_json(), "new": 1}))) == found
    assert RewindOrder.from_json({"step_bad": 3}) is None


def test_a_broken_file_is_an_error(tmp_path: Any) -> None:
    """Going on without an order that was given would train on the bad data again: a person must say so."""
    run_dir = RunDir(tmp_path)
    assert read_order(run_dir) is None
    run_dir.control.mkdir()
    for text in ("{", "[]", "{}"):
        run_dir.rewind.write_text(text)
        with pytest.raises(HpctrainError, match="not an order"):
            read_order(run_dir)
