"""A model that marks answers, learned from pairs of a better and a worse one (service over trl's RewardTrainer)."""

from __future__ import annotations

from typing import Any

from hpctrain.recipe.schema import Data, Recipe
from hpctrain.train.tune.arguments import without_preparation
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.engine import run_trainer
from hpctrain.train.tune.model import load_trained
from hpctrain.train.tune.rows import Encoding, tokenise_rows
from hpctrain.train.tune.tokens import Writer


def run(context: TuneContext) -> int:
    """Train a reward model on the recipe's preferences; return the exit code."""
    tokenise_rows(context, *encoding(context.recipe, context.data, context.tokenizer))
    load_trained(context, reward=True)
    # The mark is read at the last token that is not padding.
    context.model.config.pad_token_id = context.tokenizer.pad_token_id
    return run_trainer(context, make)


def encoding(recipe: Recipe, data: Data, tokenizer: Any) -> Encoding:
    """How pairs become tokens; a pair that is too long is left out."""
    del recipe
    longest = data.sequence_length
    writer = Writer.of(tokenizer, learn_all=True, longest=longest)

    def encode(row: dict[str, Any], where: str) -> dict[str, list[int]] | None:
        _, chosen = writer.question_and_answer(row, row["chosen"], where)
        _, rejected = writer.question_and_answer(row, row["rejected"], where)
        return {"chosen_ids": chosen, "rejected_ids": rejected} if max(len(chosen), len(rejected)) <= longest else None

    return Encoding(encode, ["reward"])


def make(context: TuneContext, common: dict[str, Any], callbacks: list[Any]) -> Any:
    """Trl's trainer, on pairs that are tokens already."""
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    arguments = RewardConfig(**common, max_length=context.data.sequence_length)
    return without_preparation(RewardTrainer)(
        model=context.model, args=arguments, train_dataset=context.train_rows, eval_dataset=context.eval_rows,
        processing_class=context.tokenizer, peft_config=context.peft_config, callbacks=callbacks,
    )
