"""Recipes that work, to be broken on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.recipe.schema import Recipe

GOOD: dict[str, Any] = {
    "version": 1, "name": "t", "method": "pretrain",
    "model": {"config": {"model_type": "llama", "vocab_size": 258, "hidden_size": 64, "intermediate_size": 128,
                         "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}},
    "data": {"source": "python-docs", "sequence_length": 64},
    "training": {"steps": 10, "global_batch_size": 8},
}


@pytest.fixture
def make() -> Callable[..., Recipe]:
    """A good recipe with some values replaced: ``make(training__steps=5)``."""

    def build(**changes: Any) -> Recipe:
        values = copy.deepcopy(GOOD)
        for key, value in changes.items():
            *sections, last = key.split("__")
            target = values
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = value
        return Recipe.model_validate(values)

    return build


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe file and return its path: ``write("training: ...", name="a.yaml")``."""

    def build(text: str, name: str = "r.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return build


MINIMAL = """\
version: 1
name: t
method: pretrain
model:
  config: {model_type: llama, vocab_size: 258, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
data:
  source: python-docs
  sequence_length: 64
training:
  steps: 10
  global_batch_size: 8
"""


@pytest.fixture
def minimal() -> str:
    """The text of a small recipe that works."""
    return MINIMAL
