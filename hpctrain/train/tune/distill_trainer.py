"""trl's GKDTrainer with what it leaves open: softened distributions, and weights that do not depend on the number of ranks
(adapter over ``trl``).
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # its page says so; a warning on every rank says it no better
from trl.experimental import gkd


def distiller() -> Any:
    """The class of the trainer.

    Both changes hold for trl 1.16: its loss is called without the temperature, and divides by the tokens of all ranks
    although DDP takes the mean over ranks. Where students or teachers write the answers, the tokens of a step are not known
    beforehand: then each forward pass counts alike.
    """
    base: Any = gkd.GKDTrainer

    class Distiller(base):  # type: ignore[misc,unused-ignore]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.generalized_jsd_loss = partial(base.generalized_jsd_loss, temperature=self.temperature)
            if self.generation_config.eos_token_id is None:  # answers would never end
                self.generation_config.eos_token_id = self.processing_class.eos_token_id

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            writes = self.lmbda > 0 or self.seq_kd
            if writes:
                num_items_in_batch = None
                # Answers are written without dropout, and alike in the first step of a start and behind an evaluation.
                model.eval()
            elif num_items_in_batch is not None:
                num_items_in_batch = num_items_in_batch / self.accelerator.num_processes
            return super().training_step(model, inputs, num_items_in_batch)

    return Distiller
