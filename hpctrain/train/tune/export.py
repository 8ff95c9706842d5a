"""The model that a tuning run leaves behind: whole, or an adapter beside the name of the model it belongs to (adapter over
``transformers`` and ``peft``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hpctrain.checkpoint.torch_state import bare
from hpctrain.files import write_json_atomic
from hpctrain.train.export import stored_as, write_folder
from hpctrain.train.hugging_face import dtype_option
from hpctrain.train.model_card import card_writer
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.model import ADAPTER_FILE, load_for_use
from hpctrain.train.tune.tokenizer import save_tokenizer


def save_tuned(context: TuneContext, trainer: Any) -> None:
    """Write ``<run>/model``; all ranks together. The directory appears whole or not at all, in place of an older one.

    Raises:
        StorageError: it cannot be written.
    """
    dtype = torch.bfloat16 if context.training.precision == "bf16" else torch.float32
    adapter = context.recipe.adapter
    if adapter is None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(bare(trainer.model), options=options)
        context.ranks.on_first(lambda: _write(context, lambda folder: _save_whole(trainer.model, weights, folder, dtype)))
        return

    def save(folder: Path) -> None:
        _save_adapter(context, trainer.model, folder)
        if adapter.merge:
            _merge(folder, dtype, reward=context.recipe.method == "reward")

    context.ranks.on_first(lambda: _write(context, save))


def _write(context: TuneContext, save: Callable[[Path], None]) -> None:
    def fill(partial: Path) -> None:
        save(partial)
        save_tokenizer(context.tokenizer, partial, context.recipe)
        card_writer(context.recipe, context.run_dir, context.heartbeat)(partial)

    write_folder(context.run_dir.model, fill)


def _save_whole(model: Any, weights: dict[str, Any], folder: Path, dtype: torch.dtype) -> None:
    """Through a model of the same class without memory: the trained one has been wrapped and patched."""
    model.config.use_cache = True
    with torch.device("meta"):
        empty = type(model)._from_config(model.config, **dtype_option(dtype))
    if getattr(model, "generation_config", None) is not None:
        empty.generation_config = model.generation_config
    empty.save_pretrained(folder, state_dict=stored_as(weights, dtype))


def _save_adapter(context: TuneContext, model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    settings = json.loads((folder / ADAPTER_FILE).read_bytes())
    # What this run started from, which may itself be an adapter; peft would name the model below it.
    settings["base_model_name_or_path"] = context.source.path
    settings.pop("auto_mapping", None)
    write_json_atomic(folder / ADAPTER_FILE, settings)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form; ours comes with what is known


def _merge(folder: Path, dtype: torch.dtype, *, reward: bool) -> None:
    """A whole model in the adapter's place."""
    model = load_for_use(str(folder), dtype=dtype, reward=reward)
    for file in list(folder.iterdir()):
        file.unlink()
    model.save_pretrained(folder)
