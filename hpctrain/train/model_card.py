"""Leaves a model card and the run's record in a finished model directory (service)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import StorageError
from hpctrain.files import read_json_object, write_atomic
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage_write import model_saved
from hpctrain.recipe.schema import Recipe
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.lineage_log import gather_now
from hpctrain.train.model_card_text import render

CARD = "README.md"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def card_writer(recipe: Recipe, run_dir: RunDir, heartbeat: Heartbeat) -> Callable[[Path], None]:
    """:func:`write_model_card` for the run's final model: give it the directory that holds the weights."""
    return partial(write_model_card, recipe=recipe, run_dir=run_dir,
                   progress=lambda _: heartbeat.beat("finish", detail="hashing the model"))


def write_model_card(
    folder: Path, recipe: Recipe | None, run_dir: RunDir, *, checkpoint: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None, clock: Clock | None = None,
) -> None:
    """Write ``README.md`` and ``hpctrain_lineage.json`` beside the weights, before the model gets its name; on one rank.

    Call it again when there is more to say, as after an evaluation: what is there is replaced, and nothing is hashed twice.

    Args:
        folder: holds the weights.
        recipe: of the run, whose record is completed first; None takes the record as it is.
        checkpoint: ``step`` and ``name`` of the checkpoint that they were exported from; None for a run's final model.
        progress: told the number of bytes of each piece that was hashed, from several threads.

    Raises:
        StorageError: there is no space for them. Any other trouble costs the card, not the model, and is said.
    """
    try:
        if recipe is not None:
            gather_now(recipe, run_dir, clock=clock)
        now = (clock or SystemClock()).time()
        record = model_saved(folder, run_dir, time_s=now, checkpoint=checkpoint, progress=progress)
        is_adapter = (folder / "adapter_config.json").is_file()
        has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
        text = render(record, read_json_object(folder / "config.json"), is_adapter=is_adapter, has_tokenizer=has_tokenizer)
        write_atomic(folder / CARD, text, durable=False)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - a model that took weeks is worth more than its card
        print(f"warning: no model card was written: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
