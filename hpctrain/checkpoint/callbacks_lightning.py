"""Tiered checkpoints for Lightning's ``Trainer`` (adapter over ``lightning``).

::

    trainer = Trainer(..., callbacks=[CheckpointCallback()], enable_checkpointing=False)
    trainer.fit(module, loader)

Model, optimizers, schedulers, Lightning's own loops and random generators are saved and restored. Where a loader stands is
Lightning's to save: give it one with ``state_dict`` and ``load_state_dict`` (such as torchdata's StatefulDataLoader), or
a run that continues in the middle of an epoch sees the first batches of that epoch again; Lightning warns of it. Not
covered: DeepSpeed, and the loss scaler of fp16.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.checkpoint.late_random import LateRandomState
from hpctrain.checkpoint.manager import Checkpointer
from hpctrain.checkpoint.torch_state import OptimizerState


class CheckpointCallback(Callback):  # type: ignore[misc,unused-ignore]  # without lightning it is of no known type
    """Saves after every optimizer step that is due, and restores when fitting begins.

    Args:
        config: where, when, how many; None reads the environment.
        options: further arguments of :class:`~hpctrain.checkpoint.manager.Checkpointer`, such as ``notify``.
    """

    def __init__(self, config: CheckpointConfig | None = None, **options: Any) -> None:
        self._config, self._options = config, options
        self._checkpointer: Checkpointer | None = None
        self._rng = LateRandomState()
        self._seen = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore, once the strategy has wrapped the module and made the optimizers."""
        checkpointer = Checkpointer(self._config, **self._options)
        items: dict[str, Any] = {f"optimizer_{index}": OptimizerState(pl_module, optimizer)
                                 for index, optimizer in enumerate(trainer.optimizers)}
        items.update({f"scheduler_{index}": found.scheduler for index, found in enumerate(trainer.lr_scheduler_configs)})
        loops = _Loops(trainer)
        checkpointer.register(model=pl_module, loops=loops, random=self._rng, **items)
        self._seen = checkpointer.restore()
        if self._seen:
            loops.apply()
            self._rng.wait()
        self._checkpointer = checkpointer

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Continue the random numbers once the first batch is there, because fetching it draws some."""
        del trainer, pl_module, batch, batch_idx
        self._rng.apply()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if an optimizer step is complete, and due."""
        del pl_module, outputs, batch, batch_idx
        if self._checkpointer is not None and trainer.global_step > self._seen:
            self._seen = trainer.global_step
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._checkpointer.step(trainer.global_step, metrics)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last saves."""
        del trainer, pl_module
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None


class _Loops:
    """Where Lightning is: epochs, batches, steps, and its loaders' positions."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loaded: Any = None

    def state_dict(self) -> dict[str, Any]:
        return dict(self._trainer.fit_loop.state_dict())

    def load_state_dict(self, state_dict: Any) -> None:
        self._loaded = state_dict

    def apply(self) -> None:
        """Only now: a restore that falls back to another checkpoint must not leave traces of the first."""
        if self._loaded is not None:
            self._trainer.fit_loop.load_state_dict(self._loaded)
