"""The tokenizer of a tuning run, with its chat template (adapter over ``transformers``)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.hub import load_error
from hpctrain.recipe.schema import Recipe
from hpctrain.train.byte_tokenizer import byte_tokenizer

BYTES_MARK = "hpctrain_tokenizer.json"
"""The file that says that a model directory of ours was trained on bytes."""


def load_tokenizer(recipe: Recipe) -> Any:
    """The recipe's tokenizer; ``auto`` takes the model's own, and its chat template with it.

    Raises:
        NotFoundError: it, or the recipe's chat template, cannot be loaded.
        RecipeError: it has no end-of-text token.
    """
    section, model = recipe.tokenizer, recipe.model.path if recipe.model and recipe.model.path else ""
    path = section.path or model
    if section.kind == "bytes" or not path or _is_bytes_without_files(Path(path)):
        tokenizer = byte_tokenizer()
    else:
        tokenizer = _load(path, "tokenizer.path" if section.path else "model.path")
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"the tokenizer {path!r} has no end-of-text token", where="tokenizer.path")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if recipe.chat.template:
        tokenizer.chat_template = _read_template(Path(recipe.chat.template))
    return tokenizer


def need_chat_template(tokenizer: Any) -> None:
    """Make sure that conversations can become tokens.

    Raises:
        RecipeError: there is no chat template.
    """
    if not tokenizer.chat_template:
        raise RecipeError(
            "the tokenizer has no chat template, and the data holds conversations", where="chat.template",
            hint="set chat.template to a jinja file, or start from a model that was tuned for chat",
        )


def identity(tokenizer: Any) -> str:
    """Changes when the numbers it makes of a conversation would."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.init_kwargs, default=str, sort_keys=True)
    templates = json.dumps(tokenizer.chat_template, sort_keys=True)
    return hashlib.sha256(f"{rules}\0{templates}\0{tokenizer.eos_token}".encode()).hexdigest()


def save_tokenizer(tokenizer: Any, folder: Path, recipe: Recipe) -> None:
    """Put it beside the weights, in transformers' format; also the mark of a model on bytes, for our own trainer."""
    tokenizer.save_pretrained(folder)
    source = Path(recipe.model.path) if recipe.model and recipe.model.path else None
    is_models_own = source is not None and not recipe.tokenizer.path
    if recipe.tokenizer.kind == "bytes" or (source is not None and is_models_own and (source / BYTES_MARK).is_file()):
        from hpctrain.train.tokenizers import ByteTokenizer

        ByteTokenizer().mark(folder)


def _load(path: str, where: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except Exception as error:  # noqa: BLE001 - transformers and the hub raise many classes for "not there"
        raise load_error(error, "tokenizer", path, where=where, env=os.environ) from None


def _is_bytes_without_files(folder: Path) -> bool:
    """A model directory of an older version of ours, which described its tokenizer and did not write it."""
    return (folder / BYTES_MARK).is_file() and not (folder / "tokenizer.json").is_file()


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise NotFoundError(f"the chat template {path} cannot be read: {reason}", where="chat.template") from None
