"""Direct preference optimisation: the better of two answers is made likelier (service over trl's DPOTrainer)."""

from __future__ import annotations

from typing import Any

from hpctrain.recipe.schema import Data, Recipe
from hpctrain.train.tune.arguments import without_preparation
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.engine import run_trainer
from hpctrain.train.tune.model import load_model, load_trained
from hpctrain.train.tune.rows import Encoding, tokenise_rows
from hpctrain.train.tune.tokens import Writer


def run(context: TuneContext) -> int:
    """Learn the recipe's preferences; return the exit code."""
    tokenise_rows(context, *encoding(context.recipe, context.data, context.tokenizer))
    load_trained(context)
    return run_trainer(context, make)


def encoding(recipe: Recipe, data: Data, tokenizer: Any) -> Encoding:
    """How pairs become tokens."""
    del recipe
    writer = Writer.of(tokenizer, learn_all=True, longest=data.sequence_length)

    def encode(row: dict[str, Any], where: str) -> dict[str, list[int]] | None:
        return preference_columns(writer, row, where)

    return Encoding(encode, ["dpo"])


def preference_columns(writer: Writer, row: dict[str, Any], where: str) -> dict[str, list[int]] | None:
    """``prompt_ids``, ``chosen_ids`` and ``rejected_ids``; None for a pair that is too long: cut answers cannot be compared.

    The prompt is what both answers begin with.
    """
    prompt, chosen = writer.question_and_answer(row, row["chosen"], where)
    other, rejected = writer.question_and_answer(row, row["rejected"], where)
    shared = min(len(prompt), len(other))
    if max(len(chosen), len(rejected)) > writer.longest:
        return None
    return {"prompt_ids": chosen[:shared], "chosen_ids": chosen[shared:], "rejected_ids": rejected[shared:]}


def make(context: TuneContext, common: dict[str, Any], callbacks: list[Any]) -> Any:
    """Trl's trainer, on pairs that are tokens already.

    The model that the trained one is compared with is the one it starts from: without its adapter, or a frozen copy.
    """
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    section = context.recipe.preference
    arguments = DPOConfig(
        **common, max_length=context.data.sequence_length, loss_type=[section.loss], beta=section.beta,
        label_smoothing=section.label_smoothing,
    )
    reference = load_model(context, context.source, frozen=True).eval() if context.peft_config is None else None
    return without_preparation(DPOTrainer)(
        model=context.model, ref_model=reference, args=arguments, train_dataset=context.train_rows,
        eval_dataset=context.eval_rows, processing_class=context.tokenizer, peft_config=context.peft_config,
        callbacks=callbacks,
    )
