"""Text to numbers (adapter over ``transformers``' tokenizers; the byte tokenizer needs nothing)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpctrain.errors import RecipeError
from hpctrain.files import write_json_atomic
from hpctrain.hub import load_error
from hpctrain.recipe import schema
from hpctrain.train.byte_tokenizer import byte_tokenizer

Tokens = np.ndarray[Any, Any]
_BATCH = 256


class Tokenizer(Protocol):
    """What preparing data needs of a tokenizer."""

    vocab_size: int
    """Numbers are below this."""
    end_of_text: int
    """The number that closes a document."""
    identity: Any
    """Plain JSON that changes when the numbers would."""

    def encode(self, documents: Iterable[str]) -> Iterator[Tokens]:
        """The tokens of each document, end-of-text included."""

    def save(self, folder: Path) -> None:
        """Put what a user of the final model needs beside its weights."""


class ByteTokenizer:
    """One token per UTF-8 byte, then end-of-text; nothing to download, nothing unknown."""

    vocab_size = 258
    end_of_text = 256
    padding = 257
    identity: Any = ("bytes", 1)

    def encode(self, documents: Iterable[str]) -> Iterator[Tokens]:
        """The tokens of each document, end-of-text included."""
        for document in documents:
            data = np.frombuffer(document.encode("utf-8", errors="surrogatepass"), dtype=np.uint8)
            tokens = np.empty(len(data) + 1, dtype=np.uint16)
            tokens[:-1] = data
            tokens[-1] = self.end_of_text
            yield tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Text again; special tokens are left out, broken UTF-8 is replaced."""
        return bytes(token for token in tokens if token < self.end_of_text).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Describe the numbers, and write the same as a tokenizer that transformers loads."""
        self.mark(folder)
        byte_tokenizer().save_pretrained(folder)

    def mark(self, folder: Path) -> None:
        """Describe the numbers, for people and for our own trainer."""
        write_json_atomic(folder / "hpctrain_tokenizer.json", {
            "kind": "bytes", "vocab_size": self.vocab_size, "end_of_text_id": self.end_of_text, "padding_id": self.padding,
            "note": "token = UTF-8 byte; encode: list(text.encode()); decode: bytes(t for t in tokens if t < 256).decode()",
        })


class PretrainedTokenizer:
    """A transformers tokenizer from a directory or the hub.

    Raises:
        NotFoundError: it cannot be loaded.
        RecipeError: it has no end-of-text token.
    """

    def __init__(self, path: str) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path)
        except Exception as error:  # noqa: BLE001 - transformers and the hub raise many classes for "not there"
            raise load_error(error, "tokenizer", path, where="tokenizer.path", env=os.environ) from None
        if self._tokenizer.eos_token_id is None:
            raise RecipeError(f"the tokenizer {path!r} has no end-of-text token", where="tokenizer.path")
        self.end_of_text: int = self._tokenizer.eos_token_id
        self.vocab_size: int = len(self._tokenizer)
        settings = json.dumps(self._tokenizer.init_kwargs, default=str, sort_keys=True)
        self.identity: Any = ("pretrained", path, self.vocab_size, settings)

    def encode(self, documents: Iterable[str]) -> Iterator[Tokens]:
        """The tokens of each document, end-of-text included."""
        source = iter(documents)
        while batch := list(islice(source, _BATCH)):
            encoded = self._tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
            for ids in encoded["input_ids"]:
                yield np.asarray([*ids, self.end_of_text], dtype=np.uint32)

    def save(self, folder: Path) -> None:
        """Save it in Hugging Face format."""
        self._tokenizer.save_pretrained(folder)


def build_tokenizer(recipe: schema.Tokenizer, model_path: str | None = None) -> Tokenizer:
    """The tokenizer of a recipe.

    Args:
        model_path: of the model that is trained further; ``auto`` takes its tokenizer.

    Raises:
        NotFoundError, RecipeError: see :class:`PretrainedTokenizer`.
    """
    if recipe.kind == "auto" and not recipe.path and model_path and not _has_byte_tokenizer(Path(model_path)):
        return PretrainedTokenizer(model_path)
    if recipe.kind == "bytes" or (recipe.kind == "auto" and not recipe.path):
        return ByteTokenizer()
    if not recipe.path:
        raise RecipeError("a pretrained tokenizer needs a path", where="tokenizer.path")
    return PretrainedTokenizer(recipe.path)


def _has_byte_tokenizer(folder: Path) -> bool:
    """A model directory of ours that was trained on bytes."""
    return (folder / "hpctrain_tokenizer.json").is_file()
