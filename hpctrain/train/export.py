"""The final weights in Hugging Face format (adapter over ``transformers``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.weights import sync_file
from hpctrain.files import make_private_dir, storage_errors, sync_dir
from hpctrain.train.hugging_face import dtype_option
from hpctrain.train.model import Network
from hpctrain.train.tokenizers import Tokenizer


def save_model(
    network: Network, tokenizer: Tokenizer | None, folder: Path, *, dtype: torch.dtype, ranks: Ranks,
    complete: Callable[[Path], None] | None = None,
) -> None:
    """Gather the weights on rank 0 and write them; all ranks together.

    The directory appears whole or not at all, in place of an older one.

    Args:
        dtype: of the stored weights.
        complete: puts what belongs beside weights and tokenizer into the directory, before it gets its name.

    Raises:
        StorageError: it cannot be written.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(network.model, options=options)
    ranks.on_first(lambda: _write(weights, network.config, tokenizer, folder, dtype=dtype, complete=complete))


def _write(
    weights: dict[str, Any], config: Any, tokenizer: Tokenizer | None, folder: Path, *, dtype: torch.dtype,
    complete: Callable[[Path], None] | None,
) -> None:
    def fill(partial: Path) -> None:
        _bare_model(config, dtype).save_pretrained(partial, state_dict=stored_as(weights, dtype))
        if tokenizer is not None:
            tokenizer.save(partial)
        if complete is not None:
            complete(partial)

    write_folder(folder, fill)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """A directory that appears whole or not at all, in place of an older one.

    Args:
        fill: puts the files into the empty directory that it is given.

    Raises:
        StorageError: it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with storage_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        make_private_dir(partial)
        try:
            fill(partial)
            for file in partial.rglob("*"):
                if file.is_file():
                    sync_file(file)
            _put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _bare_model(config: Any, dtype: torch.dtype) -> Any:
    """The unwrapped class, without memory: it knows how its weights are named, tied and split into files."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, **dtype_option(dtype))  # type: ignore[no-untyped-call,unused-ignore]


def stored_as(weights: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Weights as they are written: floating-point ones of one type."""
    return {name: (value.to(dtype) if value.is_floating_point() else value).contiguous() for name, value in weights.items()}


def _put_in_place(partial: Path, folder: Path) -> None:
    """Give a finished directory its name, in place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    sync_dir(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
