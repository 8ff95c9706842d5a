"""SageMaker HyperPod's recipes to ours (pure).

Read are the composed recipes of aws/sagemaker-hyperpod-recipes for open models: those of its own fine-tuning engine
(``model_type: llm_finetuning_aws``: SFT and DPO) and those of VERL (``model_type: verl``: GRPO). Keys were taken from that
repository's ``recipes_collection/recipes`` at version 2.2. A recipe that only names others under ``defaults`` says little by
itself: its launcher composes it, and the composed file is the one to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RecipeError
from hpctrain.recipe.compose import ORDER, yaml_lines
from hpctrain.recipe.import_llmft import from_llmft
from hpctrain.recipe.import_reader import Reader
from hpctrain.recipe.import_verl import from_verl
from hpctrain.recipe.node import Node
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.problem import dotted

KINDS: Mapping[str, Callable[[Reader], dict[str, Any]]] = {"llm_finetuning_aws": from_llmft, "verl": from_verl}
WANTED = "give a composed recipe of aws/sagemaker-hyperpod-recipes: a YAML file with the sections run and training_config"
"""What to do where a file is something else."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A key that was not carried over.

    Attributes:
        where: ``file:line``.
    """

    key: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A recipe of ours.

    Attributes:
        text: as YAML.
        carried: the keys of theirs that it holds.
        left_out: the keys of theirs that say something and that it does not hold.
        notes: what was assumed, and what is the user's to set.
    """

    text: str
    values: Mapping[str, Any]
    carried: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``-o json``."""
        return {
            "recipe": dict(self.values), "text": self.text, "carried": list(self.carried), "notes": list(self.notes),
            "not_carried": [{"key": item.key, "where": item.where, "reason": item.reason} for item in self.left_out],
        }


def import_recipe(text: str, label: str) -> Imported:
    """A recipe of theirs as one of ours.

    Args:
        label: how messages name the file.

    Raises:
        RecipeError: it is no YAML, or no recipe of a kind that can be carried over.
    """
    root = _document(text, label)
    reader = Reader(root)
    kind = str(reader.take("run.model_type") or "")
    if kind not in KINDS:
        known = " or ".join(KINDS)
        wrong = f"run.model_type is '{kind}', and" if kind else "there is no run.model_type, as HyperPod's recipes have one;"
        hint = "compose it first: their launcher writes the whole recipe into its results directory" if _leaf(root) else (
            WANTED if not kind else "their own engines (Nova, NeMo, checkpointless) and evaluation have no open counterpart")
        raise RecipeError(f"{wrong} only {known} can be carried over", where=label, hint=hint)
    values = KINDS[kind](reader)
    ordered = {key: values[key] for key in ORDER if values.get(key) not in ({}, None)}
    heading = f"# Imported from {label.rsplit('/', 1)[-1]}, a SageMaker HyperPod recipe."
    body = "\n".join(yaml_lines(ordered, reader.comments))
    left = tuple(LeftOut(dotted(path), node.origin, reason) for path, node, reason in reader.left_out())
    return Imported(f"{heading}\n\n{body}\n", ordered, tuple(sorted(reader.carried)), left, tuple(reader.notes))


def _document(text: str, label: str) -> Node:
    if not text.strip():
        raise RecipeError("the file is empty", where=label, hint=WANTED)
    try:
        return parse_document(text, label)
    except RecipeError as error:  # whose hint is for recipes of ours
        raise RecipeError(error.message, where=error.where, hint=WANTED) from None


def _leaf(root: Node) -> bool:
    return root.child("defaults") is not None
