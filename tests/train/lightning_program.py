"""A small Lightning training that kills itself: ``python -m tests.train.lightning_program PLACE STEP``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from hpctrain.checkpoint.callbacks_lightning import CheckpointCallback

BATCHES = 10


class Loader:
    """A loader that knows where it is, as Lightning asks for."""

    def __init__(self) -> None:
        self._at = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[torch.Tensor]:
        self._at %= BATCHES
        while self._at < BATCHES:
            self._at += 1
            yield torch.randn(4, 8, generator=torch.Generator().manual_seed(self._at))

    def state_dict(self) -> dict[str, int]:
        return {"at": self._at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._at = state_dict["at"]


class Module(LightningModule):
    """A small network with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Killer(Callback):
    """SIGKILL after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(place: Path, kill_at: int) -> None:
    torch.set_num_threads(1)
    seed_everything(1)
    module = Module()
    callback = CheckpointCallback(notify=lambda kind, reason, step, evidence: print(kind, reason, flush=True))
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[callback, Killer(kill_at)], default_root_dir=str(place), accumulate_grad_batches=2,
    )
    trainer.fit(module, Loader())
    (place / "weights").write_bytes(b"".join(value.numpy().tobytes() for value in module.state_dict().values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
