"""Samples and where training stands among them (service over the token file)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hpctrain.errors import CheckpointError
from hpctrain.train.order import SampleOrder
from hpctrain.train.tokenizers import Tokens


class Samples:
    """The token array cut into blocks.

    Sample i holds tokens i x length .. (i + 1) x length, both ends included: neighbours share one token, so that every
    token but the very first is predicted exactly once.

    Args:
        tokens: all of them.
        length: predicted tokens per sample.
        validation_fraction: share of the samples that is kept out of training, taken from the end.
    """

    def __init__(self, tokens: Tokens, length: int, validation_fraction: float = 0.0) -> None:
        self._tokens = tokens
        self.length = length
        count = max(0, (len(tokens) - 1) // length)
        self.validation = max(1, round(count * validation_fraction)) if validation_fraction and count > 1 else 0
        self.training = count - self.validation

    def batch(self, indices: list[int], device: torch.device) -> torch.Tensor:
        """Some samples, as (samples, length + 1) of int64."""
        rows = [self._tokens[index * self.length : (index + 1) * self.length + 1] for index in indices]
        return torch.from_numpy(np.stack(rows).astype(np.int64)).to(device)

    def validation_share(self, rank: int, world_size: int) -> list[int | None]:
        """The validation samples of one rank; None fills up, so that every rank makes the same number of passes."""
        rounds = -(-self.validation // world_size)
        indices = [position * world_size + rank for position in range(rounds)]
        return [self.training + index if index < self.validation else None for index in indices]


class DataCursor:
    """How many samples all ranks together have consumed: the whole state of the data.

    Args:
        order: which sample comes when.
        fingerprint: of the tokens, so that a checkpoint is not continued on other data.
        length: tokens per sample.
    """

    def __init__(self, order: SampleOrder, fingerprint: str, length: int) -> None:
        self.order = order
        self.consumed = 0
        self._same = {"fingerprint": fingerprint, "samples": order.size, "sequence_length": length, "seed": order.seed}

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.consumed / self.order.size

    def next_share(self, global_batch_size: int, rank: int, world_size: int) -> list[int]:
        """This rank's samples of the next global batch; the cursor moves on."""
        share = self.order.share(self.consumed, global_batch_size, rank, world_size)
        self.consumed += global_batch_size
        return share

    def skip(self, samples: int) -> None:
        """Leave out the next samples of all ranks together, such as those that made the loss jump.

        Raises:
            ValueError: the number is negative.
        """
        if samples < 0:
            raise ValueError(f"only samples that are still to come can be skipped, not {samples}")
        self.consumed += samples

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {"consumed": self.consumed, **self._same}

    def load_state_dict(self, state_dict: Any) -> None:
        """Jump to a saved place.

        Raises:
            CheckpointError: the data, its blocks or the seed are not those of the checkpoint.
        """
        changed = [name for name, value in self._same.items() if state_dict[name] != value]
        if changed:
            was, is_now = state_dict[changed[0]], self._same[changed[0]]
            raise CheckpointError(
                f"the data is not what the checkpoint was trained on: {changed[0].replace('_', ' ')} was {was}, is {is_now}",
                hint="restore the data, or start a new run",
            )
        self.consumed = state_dict["consumed"]
