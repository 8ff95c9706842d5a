"""Tiered checkpoints for the Hugging Face ``Trainer`` (adapter over ``transformers``).

::

    callback = CheckpointCallback()
    trainer = Trainer(model, TrainingArguments(..., save_strategy="no"), train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=callback.resume(trainer))

A run that was killed and started again ends with the bytes of one that was not. The Trainer itself moves on to the right
epoch and batch; model, optimizer, scheduler and random generators come from our checkpoint. Of a model with a peft
adapter only what is trained is saved. Not covered: DeepSpeed, the loss scaler of fp16, and data that draws random numbers
while it is collated in the training process.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.checkpoint.late_random import LateRandomState
from hpctrain.checkpoint.manager import Checkpointer
from hpctrain.errors import CheckpointError, MissingDependencyError

_LOADS = ("_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_rng_state")
"""What the Trainer does with a checkpoint directory of its own; ours holds nothing for them."""


class CheckpointCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Saves at every optimizer step that is due, and restores.

    Args:
        config: where, when, how many; None reads the environment.
        options: further arguments of :class:`~hpctrain.checkpoint.manager.Checkpointer`, such as ``notify``.
    """

    def __init__(self, config: CheckpointConfig | None = None, **options: Any) -> None:
        self._config, self._options = config, options
        self._checkpointer: Checkpointer | None = None
        self._progress = _Progress()
        self._rng = LateRandomState()
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def resume(self, trainer: Any) -> str | None:
        """What to pass to ``trainer.train(resume_from_checkpoint=...)``: None starts from the beginning.

        Raises:
            MissingDependencyError: this version of transformers works in another way.
            CheckpointError, UsageError, StorageError: see :class:`~hpctrain.checkpoint.manager.Checkpointer`.
        """
        missing = [name for name in _LOADS if not hasattr(trainer, name)]
        if missing:
            raise MissingDependencyError(f"this version of transformers has no Trainer.{missing[0]}",
                                         hint="use a version that is named in docs/checkpoint-library.md")
        checkpointer = Checkpointer(self._config, **self._options)
        self._checkpointer = checkpointer
        # First only how far training was: the Trainer builds model and optimizer later.
        checkpointer.register(trainer=self._progress)
        if not checkpointer.restore():
            return None
        for name in _LOADS:
            setattr(trainer, name, _nothing)
        self._place = tempfile.TemporaryDirectory(prefix="hpctrain-resume-")
        (Path(self._place.name) / "trainer_state.json").write_text(json.dumps(self._progress.values))
        return self._place.name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore what the Trainer has built by now."""
        del args, control
        checkpointer = self._checkpointer
        if checkpointer is None:
            raise CheckpointError("training begins without a look at its checkpoints",
                                  hint="call trainer.train(resume_from_checkpoint=callback.resume(trainer))")
        self._progress.state = state
        optimizer = kwargs["optimizer"]
        checkpointer.register(model=kwargs["model"], optimizer=getattr(optimizer, "optimizer", optimizer), random=self._rng,
                              scheduler=kwargs["lr_scheduler"], trainer=self._progress)
        if state.global_step:
            step = checkpointer.restore()
            if step != state.global_step:
                raise CheckpointError(f"step {state.global_step} could not be restored, only step {step}",
                                      hint="start again: training then continues from there")
            self._rng.wait()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the step that is complete by now, with its log lines and evaluation.

        Not before the next batch is fetched, so that random numbers continue from here.
        """
        del args, control, kwargs
        if self._rng.apply():
            return
        if state.global_step and self._checkpointer is not None:
            self._checkpointer.step(state.global_step, _metrics(state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the last step and finish."""
        del args, control, kwargs
        if self._checkpointer is not None:
            self._checkpointer.save_now("training ended", step=state.global_step, metrics=_metrics(state))
            self._checkpointer.close()
            self._checkpointer = None
        if self._place is not None:
            self._place.cleanup()


class _Progress:
    """How far the Trainer is, as it writes it into its own checkpoints."""

    def __init__(self) -> None:
        self.state: Any = None
        self.values: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        if self.state is None:
            return dict(self.values)
        names = {field.name for field in fields(self.state)}
        return {name: getattr(self.state, name) for name in sorted(names)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.values = dict(state_dict)


def _metrics(state: Any) -> dict[str, Any]:
    """Numbers that were logged for this step."""
    found: dict[str, Any] = {}
    for line in reversed(state.log_history or []):
        if line.get("step") != state.global_step:
            break
        found.update({name: value for name, value in line.items() if isinstance(value, (int, float)) and name != "step"})
    return found


def _nothing(*_arguments: Any, **_options: Any) -> None:
    """The Trainer finds nothing to load."""
