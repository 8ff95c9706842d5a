"""Rows as the tokens that a method learns from, in words again (service)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpctrain.data.files import Row
from hpctrain.recipe.schema import Recipe
from hpctrain.train.tune.prepare import encoding_of
from hpctrain.train.tune.tokenizer import load_tokenizer
from hpctrain.train.tune.tokens import IGNORED


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring tokens of a row with one purpose.

    Attributes:
        purpose: ``learned`` or ``read`` for answers that are learned, else the name of the column, such as ``chosen_ids``.
    """

    purpose: str
    tokens: int
    text: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"purpose": self.purpose, "tokens": self.tokens, "text": self.text}


def as_tokens(recipe: Recipe, found: list[Row]) -> list[list[Part]]:
    """The parts of each row, none for one that is left out since it is too long.

    Raises:
        RecipeError: the method has no rows of tokens, the tokenizer lacks a chat template, or that refuses a row.
        NotFoundError: the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(recipe)
    encode = encoding_of(recipe, tokenizer).encode
    return [parts_of(encode(row.values, row.where) or {}, tokenizer) for row in found]


def parts_of(columns: dict[str, list[int]], tokenizer: Any) -> list[Part]:
    """Columns of a row as parts; ``input_ids`` is cut where ``labels`` begin and cease to be learned."""
    if "input_ids" not in columns:
        return [Part(name, len(ids), tokenizer.decode(ids)) for name, ids in columns.items()]
    parts: list[tuple[str, list[int]]] = []
    for token, label in zip(columns["input_ids"], columns["labels"], strict=True):
        purpose = "read" if label == IGNORED else "learned"
        if not parts or parts[-1][0] != purpose:
            parts.append((purpose, []))
        parts[-1][1].append(token)
    return [Part(purpose, len(ids), tokenizer.decode(ids)) for purpose, ids in parts]
