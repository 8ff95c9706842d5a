"""Learning from rewards of what the model itself writes: GRPO and its variants, RLOO (service over trl's trainers).

A *draw* is a set of prompts with ``completions_per_prompt`` answers each: one global batch, learned from in
``updates_per_generation`` optimizer steps. Checkpoints are taken where a draw is used up, since the answers of one that is
not are not saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpctrain.errors import EndpointError, RecipeError
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.rewards.build import NamedReward, Surroundings, build_rewards, check_columns, close_rewards
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.engine import run_trainer
from hpctrain.train.tune.feed import FeedPlan
from hpctrain.train.tune.model import load_trained
from hpctrain.train.tune.rl_arguments import config_arguments
from hpctrain.train.tune.rl_engine import generation_arguments, wait_for_server
from hpctrain.train.tune.rl_samples import SampleLog
from hpctrain.train.tune.rows import keep_rows
from hpctrain.train.tune.tokenizer import need_chat_template

_NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments")
"""What trl hands to reward functions beside the rows' own keys."""


def run(context: TuneContext) -> int:
    """Train to the end; return the exit code. Called by every rank.

    Raises:
        HpctrainError: what the user or the site can mend. Rewards are made, and a server of answers is looked for, before
            the model is loaded.
    """
    keep_rows(context)
    check_columns(context.recipe, set(context.train_rows.column_names))
    _fit_prompts(context)
    context.heartbeat.beat("init", detail="preparing the rewards")
    rewards = build_rewards(context.recipe, _surroundings(context))
    try:
        wait_for_server(context)
        load_trained(context)
        return run_trainer(context, _maker(rewards), feed_plan(context), let_go=lambda: close_rewards(rewards))
    finally:
        close_rewards(rewards)


def feed_plan(context: TuneContext) -> FeedPlan:
    """How prompts are drawn: a global batch of answers at once, each prompt as often as it is answered."""
    generation, batch = context.recipe.generation, context.batch
    return FeedPlan(
        rows=batch.global_batch_size // generation.completions_per_prompt,
        batches=batch.accumulation * generation.updates_per_generation,
        copies=generation.completions_per_prompt, whole=True,
    )


def _maker(rewards: list[NamedReward]) -> Callable[[TuneContext, dict[str, Any], list[Any]], Any]:
    def make(context: TuneContext, common: dict[str, Any], callbacks: list[Any]) -> Any:
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer
        from trl.trainer.rloo_config import RLOOConfig
        from trl.trainer.rloo_trainer import RLOOTrainer

        generation = context.recipe.generation
        own = config_arguments(generation) | generation_arguments(context)
        own["reward_weights"] = [reward.weight for reward in rewards]
        is_rloo = generation.algorithm == "rloo"
        trainer, config = (RLOOTrainer, RLOOConfig) if is_rloo else (GRPOTrainer, GRPOConfig)
        if context.mesh is not None:
            context.model._is_fsdp_managed_module = True  # ranks then write as many tokens as the longest answer needs
        # trl loads the model that the distance is measured to by this name: the one we start from, adapters included.
        context.model.config._name_or_path = context.source.path
        samples = SampleLog(context.run_dir.path / "completions.jsonl", [reward.name for reward in rewards],
                            speaks=context.place.rank == 0)
        return _without_policy_loss(trainer)(
            model=context.model, args=config(**common | own),
            reward_funcs=[_function(reward, context, samples) for reward in rewards],
            train_dataset=context.train_rows, eval_dataset=context.eval_rows, processing_class=context.tokenizer,
            peft_config=context.peft_config, callbacks=callbacks,
        )
    return make


def _function(reward: NamedReward, context: TuneContext, samples: SampleLog) -> Callable[..., list[float | None]]:
    """A reward as trl calls it."""
    def function(
        prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **rows: Any
    ) -> list[float | None]:
        context.heartbeat.beat("step", detail=f"judging answers: {reward.name}")
        state = rows.get("trainer_state")
        columns = {name: values for name, values in rows.items() if name not in _NOT_COLUMNS}
        batch = Batch(prompts, completions, columns, [len(ids) for ids in completion_ids])
        try:
            scores = reward.score(batch)
        except EndpointError as error:
            raise EndpointError(error.message, where=error.where, hint=error.advice or (
                "start it again, and then the run, which goes on from its newest checkpoint: "
                f"sbatch {context.run_dir.path}/sbatch.sh")) from None
        samples.add(getattr(state, "global_step", 0), reward.name, batch, scores)
        context.heartbeat.beat("step", detail="waiting for the other ranks' rewards")
        return scores

    function.__name__ = reward.name  # its name in trl's metrics
    return function


def _surroundings(context: TuneContext) -> Surroundings:
    bf16 = context.training.precision == "bf16" and context.place.device.type != "cpu"
    return Surroundings(
        device=str(context.place.device), dtype="bfloat16" if bf16 else "float32", marks=context.run_dir.cache / "marks",
        writer=f"rank-{context.place.rank:05d}", notify=context.report.say, share=context.environment.local_world_size,
        beat=lambda detail: context.heartbeat.beat("step", detail=detail),
    )


def _fit_prompts(context: TuneContext) -> None:
    """Leave out prompts that fill the sequence before the answer has its room.

    Raises:
        RecipeError: none is short enough, or conversations have no chat template.
    """
    room = context.data.sequence_length - context.recipe.generation.max_new_tokens
    tokenizer = context.tokenizer
    if not isinstance(context.train_rows[0]["prompt"], str):
        need_chat_template(tokenizer)

    def fits(row: dict[str, Any]) -> bool:
        prompt = row["prompt"]
        if isinstance(prompt, str):
            return bool(len(tokenizer(prompt)["input_ids"]) <= room)
        tokens = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
        return bool(len(tokens["input_ids"]) <= room)

    before = len(context.train_rows)
    context.train_rows = _only(context.train_rows, fits)
    if not len(context.train_rows):
        raise RecipeError(
            f"no prompt leaves room for an answer: none has at most {room} tokens, which are data.sequence_length "
            f"{context.data.sequence_length} less generation.max_new_tokens {context.recipe.generation.max_new_tokens}",
            where="data.sequence_length")
    if len(context.train_rows) < before:
        context.report.say(
            f"{before - len(context.train_rows)} of {before} prompts have more than {room} tokens and are left out")
    if context.eval_rows is not None:
        kept = _only(context.eval_rows, fits)
        context.eval_rows = kept if len(kept) else None


def _only(rows: Any, fits: Callable[[dict[str, Any]], bool]) -> Any:
    kept = [index for index, row in enumerate(rows) if fits(row)]
    return rows if len(kept) == len(rows) else rows.select(kept)


def _without_policy_loss(trainer: Any) -> Any:
    """A trainer that measures rewards on held-out prompts, and not the loss, which says nothing about them."""
    def evaluation_loop(own: Any, *arguments: Any, **options: Any) -> Any:
        output = trainer.evaluation_loop(own, *arguments, **options)
        for name in [name for name in output.metrics if name.endswith("_loss")]:
            del output.metrics[name]
        return output

    return type(trainer.__name__, (trainer,), {"evaluation_loop": evaluation_loop})
