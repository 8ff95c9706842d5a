"""What makes a transformers Trainer one of our trainers: restore, save, report, judge, stop (service as a callback).

A step is over when the Trainer asks for the rows of the next one: by then it has logged and evaluated, and nothing of the
next step has begun. There, and only there, :meth:`StepKeeper.before_step` reports the step, judges its loss, saves, or ends
the training. So a restored run finds random generators, data and weights exactly where they were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from hpctrain.checkpoint.manager import Checkpointer, SaveResult
from hpctrain.checkpoint.schedule_cost import PLANNED
from hpctrain.recipe.schema_method import REINFORCED
from hpctrain.train.data import DataCursor
from hpctrain.train.distributed import sum_over_ranks
from hpctrain.train.loop import reached_step
from hpctrain.train.loss_policy import LossPolicy
from hpctrain.train.report import StepReport
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.feed import Feed

_OURS = ("loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "step", "total_flos")
"""What the Trainer logs and we count ourselves, or write under our own name."""

_NOT_MEASURED = ("_runtime", "_per_second", "_num_tokens")
"""What the Trainer says of an evaluation that is no measure of the model."""


class Finished(Exception):  # noqa: N818 - nothing failed
    """All steps are done."""


class Stopped(Exception):  # noqa: N818 - nothing failed
    """The ranks were asked to stop, and have saved.

    Attributes:
        step: the completed step.
        save: how saving it went.
    """

    def __init__(self, step: int, save: SaveResult) -> None:
        super().__init__(f"stopped after step {step}")
        self.step, self.save = step, save


class StepKeeper(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """One for each run; :meth:`take` is called once trainer and feed exist."""

    def __init__(
        self, context: TuneContext, checkpointer: Checkpointer, losses: LossPolicy, cursor: DataCursor
    ) -> None:
        self._context, self._checkpointer, self._losses, self._cursor = context, checkpointer, losses, cursor
        self._trainer: Any = None
        self._feed: Feed | None = None
        self._logs: dict[str, float] = {}
        self._validation: dict[str, float] = {}
        self._counted = _Counted()
        self._started = time.monotonic()
        self._stopping = False
        self.step = 0
        """Completed steps."""

    def take(self, trainer: Any, feed: Feed) -> None:
        """Look after this trainer, which gets its batches from this feed."""
        self._trainer, self._feed = trainer, feed

    # ------------------------------------------------------------ what the Trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Everything exists now: continue where the newest complete checkpoint left off."""
        del args, control
        context, checkpointer = self._context, self._checkpointer
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)
        context.heartbeat.beat("load")
        checkpointer.register(model=model, optimizer=optimizer, rng=True, data=self._cursor, counted=self._counted,
                              scheduler=kwargs["lr_scheduler"])
        self.step = self._losses.restore(checkpointer, self._cursor, reached=reached_step(context.run_dir),
                                         resume=context.recipe.checkpoint.resume == "auto")
        # The Trainer counts from here, and takes means over the steps since it last logged.
        state.global_step = self._trainer._globalstep_last_logged = self.step
        context.report.start(self.step, context.steps, describe(context, model))
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for an evaluation where one is due."""
        del args, kwargs
        every, step = self._context.training.evaluate_every_steps, state.global_step
        last = step == self._context.steps
        control.should_evaluate = self._context.eval_rows is not None and (last or (every > 0 and step % every == 0))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what was logged of this step."""
        del args, state, control
        logs: Mapping[str, Any] = kwargs.get("logs") or {}
        if "loss" in logs:
            self._logs = {name: float(value) for name, value in logs.items() if _is_number(value)}
            self._trainer._tr_loss.zero_()  # a loss that was no number would stay in the Trainer's running sum for ever

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation makes progress."""
        del args, state, control, kwargs
        self._context.heartbeat.beat("evaluate")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what was measured after this step."""
        del args, state, control
        measured: Mapping[str, Any] = kwargs.get("metrics") or {}
        self._validation = {
            f"validation_{name.removeprefix('eval_')}": float(value) for name, value in measured.items()
            if _is_number(value) and name.startswith("eval_") and not name.endswith(_NOT_MEASURED)
        }

    # ------------------------------------------------------------ what the feed calls

    def before_step(self, at_draw: bool) -> None:
        """The last step is over; the next may begin.

        Args:
            at_draw: the rows of the last step are used up, so that a run can be continued here.

        Raises:
            Finished, Stopped: there is no next step.
            RewindRequested, DivergedError: the loss went wrong.
        """
        if self._logs:
            self._complete(at_draw)
        if self.step >= self._context.steps:
            raise Finished
        self._context.heartbeat.beat("step", step=self.step)
        self._started = time.monotonic()

    def finish(self) -> None:
        """The Trainer has ended by itself, with the last step."""
        if self._logs:
            self._complete(True)

    def _complete(self, at_draw: bool) -> None:
        context, checkpointer, logs = self._context, self._checkpointer, self._logs
        self._logs = {}
        self._trainer.state.log_history.clear()  # it would grow with every step, and nothing reads it
        self.step += 1
        line, wild = self._measure(logs)
        context.report.step(line)
        self._losses.judge(self.step, self._judged(line.loss), gradient_ok=not wild, consumed=self._cursor.consumed,
                           global_batch=context.batch.global_batch_size)
        if not at_draw:
            return
        last = self.step == context.steps
        if self._stopping or last or checkpointer.is_due(self.step):
            context.heartbeat.beat("save", step=self.step)
        if self._stopping and not last:
            raise Stopped(self.step, checkpointer.save_now(PLANNED[0], step=self.step, metrics=line.metrics))
        if last and context.recipe.checkpoint.save_final:
            checkpointer.save_now("the last step", step=self.step, metrics=line.metrics)
        else:
            checkpointer.step(self.step, line.metrics)

    def _measure(self, logs: Mapping[str, float]) -> tuple[StepReport, bool]:
        """The step in numbers over all ranks, and whether its gradient was no finite number."""
        context, feed = self._context, self._feed
        batch_tokens = feed.take_tokens() if feed is not None else 0
        grad_norm = logs.get("grad_norm", 0.0)
        context.heartbeat.beat("step", detail="waiting for the other ranks")
        own = [float(bool(context.stop.reason)), float(not math.isfinite(grad_norm)), float(batch_tokens)]
        stopping, wild, tokens = sum_over_ranks(own, context.place.device)
        self._stopping = self._stopping or bool(stopping)
        # Trainers that write answers themselves count their tokens; the others' are those of their batches.
        count = round(tokens) or max(0, round(logs.get("num_tokens", 0.0)) - self._counted.seen)
        self._counted.tokens += count
        self._counted.seen = max(self._counted.seen, round(logs.get("num_tokens", 0.0)))
        validation, self._validation = self._validation, {}
        more = {name: value for name, value in logs.items() if name not in _OURS} | validation
        return StepReport(
            self.step, logs["loss"], logs.get("learning_rate", 0.0), grad_norm, self._cursor.epoch, count,
            time.monotonic() - self._started, validation_loss=more.pop("validation_loss", None),
            total_tokens=self._counted.tokens, more=more,
        ), bool(wild)

    def _judged(self, loss: float) -> float:
        """The loss as the policy judges it: that of reinforcement goes up and down by nature, and need only be finite."""
        reinforced = self._context.recipe.method in REINFORCED
        return 0.0 if reinforced and math.isfinite(loss) else loss


class _Counted:
    """Tokens since the beginning of the run, and the trainer's own count when it was last looked at."""

    def __init__(self) -> None:
        self.tokens, self.seen = 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens}

    def load_state_dict(self, state_dict: Any) -> None:
        self.tokens = state_dict["tokens"]


def describe(context: TuneContext, model: Any) -> str:
    """One line about what is trained on what."""
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    adapter = context.recipe.adapter
    how = f"all {every:,} parameters" if trained == every else f"{trained:,} of {every:,} parameters"
    if adapter is not None:
        how += f" ({adapter.kind}, rank {adapter.rank})"
    place, training = context.place, context.training
    return (
        f"{context.recipe.method} of {how}, {place.world_size} ranks on {place.device.type} ({training.parallelism.kind}, "
        f"{training.precision}), {context.batch.global_batch_size} of {len(context.train_rows):,} rows per step"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
