"""Supervised fine-tuning: answers are learned as they stand in the data (service over trl's SFTTrainer)."""

from __future__ import annotations

from typing import Any

from hpctrain.data.read import resolve_format
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.train.tune.arguments import without_preparation
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.engine import run_trainer
from hpctrain.train.tune.model import load_trained
from hpctrain.train.tune.rows import Encoding, tokenise_rows
from hpctrain.train.tune.tokens import Writer, fit


def run(context: TuneContext) -> int:
    """Fine-tune the recipe's model on its data; return the exit code."""
    tokenise_rows(context, *encoding(context.recipe, context.data, context.tokenizer))
    load_trained(context)
    return run_trainer(context, make)


def encoding(recipe: Recipe, data: Data, tokenizer: Any) -> Encoding:
    """How rows become tokens, and which of these are learned."""
    chat, longest = recipe.chat, data.sequence_length
    writer = Writer.of(tokenizer, learn_all=chat.loss_on == "all", longest=longest)
    form = resolve_format(data, "sft")

    def encode(row: dict[str, Any], where: str) -> dict[str, list[int]] | None:
        if form == "chat":
            return fit(writer.chat(row, where), longest)
        if form == "prompt_completion":
            return fit(writer.pair(row, where), longest)
        return fit(writer.text(row, data.text_field), longest)

    return Encoding(encode, ["sft", form, chat.loss_on, writer.template], longest if chat.packing else 0)


def make(context: TuneContext, common: dict[str, Any], callbacks: list[Any]) -> Any:
    """Trl's trainer, on rows that are tokens already."""
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    arguments = SFTConfig(**common, max_length=context.data.sequence_length, packing=context.recipe.chat.packing)
    return without_preparation(SFTTrainer)(
        model=context.model, args=arguments, train_dataset=context.train_rows, eval_dataset=context.eval_rows,
        processing_class=context.tokenizer, peft_config=context.peft_config, callbacks=callbacks,
    )
