"""Runs any of trl's trainers to its end, with everything that a run of ours has (service).

A method says which trainer, which configuration and which columns; this is the rest::

    def run(context: TuneContext) -> int:
        tokenise_rows(context, ...)           # or keep_rows(context)
        load_trained(context)
        return run_trainer(context, make)

    def make(context, common, callbacks):
        return SomeTrainer(
            model=context.model, args=SomeConfig(**common, beta=...), train_dataset=context.train_rows,
            eval_dataset=context.eval_rows, processing_class=context.tokenizer, peft_config=context.peft_config,
            callbacks=callbacks)

Data order, learning rate, clipping, checkpoints, resuming, metrics, heartbeat, the policy for bad losses and the final model
are the engine's; they are the same as for pretraining.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from hpctrain.errors import MissingDependencyError
from hpctrain.train.budget import total_steps
from hpctrain.train.data import DataCursor
from hpctrain.train.evaluation import evaluate_at_end
from hpctrain.train.loop import after_bad_loss, after_stop, leave, loss_settings, open_checkpointer
from hpctrain.train.loss_policy import DivergedError, LossPolicy, RewindRequested
from hpctrain.train.optim import build_optimizer, clip_gradient
from hpctrain.train.order import SampleOrder
from hpctrain.train.randomness import seed_all
from hpctrain.train.schedule import learning_rate
from hpctrain.train.tune.arguments import common_arguments
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.export import save_tuned
from hpctrain.train.tune.feed import Feed, FeedPlan
from hpctrain.train.tune.keeper import Finished, StepKeeper, Stopped

Make = Callable[[TuneContext, dict[str, Any], list[Any]], Any]
"""Builds a trainer from the context, the common arguments of its configuration, and the callbacks to give it."""

_NEEDED = (
    "get_train_dataloader", "create_optimizer", "create_scheduler", "_clip_grad_norm", "_inner_training_loop",
    "callback_handler", "data_collator", "train_dataset",
)
"""What a Trainer must have for the engine to take its place."""


def run_trainer(
    context: TuneContext, make: Make, plan: FeedPlan | None = None, *, let_go: Callable[[], None] = lambda: None
) -> int:
    """Train to the end, or until it is time to stop; return the exit code. Called by every rank.

    Args:
        context: with rows and model.
        make: see :data:`Make`.
        plan: how rows are drawn; None: each optimizer step draws its own global batch.
        let_go: called when the model is saved, before it is measured: to free what only training needs.

    Raises:
        HpctrainError: what the user or the site can mend; on every rank, with the same exit code.
    """
    recipe, report, heartbeat, ranks = context.recipe, context.report, context.heartbeat, context.ranks
    plan = plan or FeedPlan.plain(context.batch)
    context.steps = _steps(context, plan)
    checkpointer = open_checkpointer(recipe, context.run_dir, ranks=ranks, report=report, heartbeat=heartbeat)
    losses = LossPolicy(loss_settings(recipe), context.run_dir, ranks=ranks, report=report,
                        incarnation=checkpointer.incarnation)
    order = SampleOrder(len(context.train_rows), context.training.seed)
    cursor = DataCursor(order, context.fingerprint, context.data.sequence_length)

    heartbeat.beat("init", total_steps=context.steps, detail="building the trainer")
    keeper = StepKeeper(context, checkpointer, losses, cursor)
    trainer = make(context, common_arguments(context), [keeper])
    _take_over(context, trainer, keeper, cursor, plan)
    seed_all(context.training.seed + 1 + context.place.rank)  # from here on each rank draws its own dropout
    try:
        trainer.train()
        keeper.finish()
    except Finished:
        pass
    except Stopped as stopped:
        return after_stop(stopped.step, stopped.save, checkpointer, report)
    except (RewindRequested, DivergedError) as bad:
        return after_bad_loss(bad, checkpointer, report)

    report.event("trainer.finished", f"all {context.steps} steps are done", keeper.step)
    heartbeat.beat("finish", step=keeper.step, detail="saving the model")
    save_tuned(context, trainer)
    report.event("model.saved", f"{context.run_dir.model}", keeper.step)
    checkpointer.close(flush=recipe.checkpoint.save_final)
    del trainer, keeper, checkpointer, losses  # their memory is for the models that are measured
    context.model = None
    let_go()
    code = evaluate_at_end(recipe, context.run_dir, context.environment, ranks=ranks, report=report, heartbeat=heartbeat,
                           stop=context.stop)
    leave(report)
    return code


def _steps(context: TuneContext, plan: FeedPlan) -> int:
    """Optimizer steps of the run; a "sample" is a row that is drawn."""
    rows_per_step = max(1, plan.rows * context.batch.accumulation // plan.batches)
    training = context.training.model_copy(update={"global_batch_size": rows_per_step})
    return total_steps(training, len(context.train_rows), context.data.sequence_length)


def _take_over(context: TuneContext, trainer: Any, keeper: StepKeeper, cursor: DataCursor, plan: FeedPlan) -> None:
    """Give the trainer our data, optimizer, learning rate and clipping."""
    missing = next((name for name in _NEEDED if not hasattr(trainer, name)), None)
    if missing:
        raise MissingDependencyError(f"this version of transformers has no Trainer.{missing}",
                                     hint="use the versions that constraints.txt names")
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    feed = Feed(trainer.train_dataset, trainer.data_collator, cursor, context.place, plan, batch=context.batch,
                before_step=keeper.before_step, steps=context.steps)
    keeper.take(trainer, feed)
    training = context.training

    def create_optimizer(own: Any, model: Any = None) -> Any:
        own.optimizer = build_optimizer(own.model if model is None else model, training.optimizer)
        return own.optimizer

    def create_scheduler(own: Any, num_training_steps: int, optimizer: Any = None) -> Any:
        del num_training_steps
        peak = training.optimizer.learning_rate
        own.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            own.optimizer if optimizer is None else optimizer,
            lambda done: learning_rate(done + 1, context.steps, peak, training.schedule) / peak)
        own._created_lr_scheduler = True
        return own.lr_scheduler

    def clip(own: Any, model: Any) -> Any:
        del own
        return clip_gradient((value for value in model.parameters() if value.grad is not None), training.clip_grad_norm)

    trainer.get_train_dataloader = lambda: feed
    trainer.create_optimizer = types.MethodType(create_optimizer, trainer)
    trainer.create_scheduler = types.MethodType(create_scheduler, trainer)
    trainer._clip_grad_norm = types.MethodType(clip, trainer)
    if context.mesh is not None:
        from hpctrain.train.tune.sharded import defer_reduction

        trainer._defer_fsdp_gradient_reduction = types.MethodType(defer_reduction, trainer)
