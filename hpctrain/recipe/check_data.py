"""Which data a method can learn from, and how it may be read (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.recipe.schema_method import REINFORCED, TUNING

FORMATS: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("text",), "cpt": ("text",),
    "sft": ("chat", "prompt_completion", "text"),
    "dpo": ("preference",), "reward": ("preference",),
    **dict.fromkeys(REINFORCED, ("prompts",)),
    "distill": ("prompts", "chat", "prompt_completion"),
}
"""What a row may be for each method; the first is its own format."""

PREPARED = ("pretrain", "cpt", "sft", "dpo", "reward")
"""Methods whose data is tokens before training begins; the others write and judge answers while they train."""

MADE: Mapping[str, tuple[str, ...]] = {
    "python-docs": ("text",),
    "docstring-questions": ("text", "chat", "prompt_completion", "preference", "prompts"),
    "arithmetic": ("text", "chat", "prompt_completion", "preference", "prompts"),
}
"""What the sources without a file are made as."""


def check_data(recipe: Recipe) -> Iterator[Problem]:
    """Formats that the method cannot learn from, sources that have no such rows, modes that it cannot read in."""
    data, method = recipe.data, recipe.method
    if data is None or method is None:
        return
    can = FORMATS[method]
    if data.format != "auto" and data.format not in can:
        yield Problem(("data", "format"), f"method '{method}' learns from {_or(can)}, not from '{data.format}'")
    made = MADE.get(data.source)
    wanted = can[0] if data.format == "auto" else data.format
    if made is not None and wanted not in made and wanted in can:
        yield Problem(("data", "source"), f"'{data.source}' is {_or(made)} only, and the format here is '{wanted}'")
    if data.largest_number != Data.model_fields["largest_number"].default and data.source != "arithmetic":
        yield Problem(("data", "largest_number"), f"belongs to source 'arithmetic', but data.source is '{data.source}'")
    if data.mode == "stream":
        yield from _stream(recipe, data)
    if data.copy_to is not None and (data.mode != "copy" or not data.copy_to.startswith("/")):
        yield Problem(("data", "copy_to"), "needs data.mode 'copy', and an absolute path")


def _stream(recipe: Recipe, data: Data) -> Iterator[Problem]:
    if recipe.method in TUNING:
        yield Problem(("data", "mode"), (
            f"'stream' is for text (pretrain, cpt); method '{recipe.method}' reads all rows before it begins: take 'shared' "
            "or 'copy'"))
    if data.source in MADE:
        yield Problem(("data", "mode"), f"'{data.source}' is made in memory and not streamed: take 'shared'")
    if data.rows is not None:
        yield Problem(("data", "rows"), "a stream is read on and on: say training.steps or training.tokens instead")
    if data.validation_fraction:
        yield Problem(("data", "validation_fraction"), (
            "a stream has no known end to take a share from: take mode 'shared' for it"))
    if recipe.training.epochs is not None:
        yield Problem(("training", "epochs"), "a stream has no known length: say training.steps or training.tokens")


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in names)
