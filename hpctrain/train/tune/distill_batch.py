"""Batches for distillation: rows as they are learned, and their prompts alone (adapter over ``torch``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpctrain.train.tune.distill_rows import last_answer_begins
from hpctrain.train.tune.tokens import IGNORED


class PromptsAndAnswers:
    """Makes a batch of rows with ``input_ids`` and ``labels``, padded on the left, since answers are written at the right.

    Args:
        padding: the number of the token that fills up.
    """

    def __init__(self, padding: int) -> None:
        self._padding = padding

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask``, ``labels``; ``prompts`` and ``prompt_attention_mask`` are what comes before the
        last answer.
        """
        ids = [list(row["input_ids"]) for row in rows]
        labels = [list(row["labels"]) for row in rows]
        prompts = [tokens[: last_answer_begins(marks, IGNORED)] for tokens, marks in zip(ids, labels, strict=True)]
        return {
            "input_ids": _left(ids, self._padding), "attention_mask": _left([[1] * len(tokens) for tokens in ids], 0),
            "labels": _left(labels, IGNORED), "prompts": _left(prompts, self._padding),
            "prompt_attention_mask": _left([[1] * len(tokens) for tokens in prompts], 0),
        }


def _left(rows: Sequence[list[int]], padding: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[padding] * (width - len(row)) + row for row in rows])
