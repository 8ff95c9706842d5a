"""The batches of a tuning run, from one cursor (service over a data set and a trainer's collator).

transformers' own loader is not used: it finds its place again by counting batches, draws random numbers to do so, reads one
batch ahead, and cannot leave data out. Here the place is one number, as for pretraining (:mod:`hpctrain.train.order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.train.budget import BatchLayout
from hpctrain.train.data import DataCursor
from hpctrain.train.distributed import Place


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """How rows are drawn.

    Attributes:
        rows: different rows that all ranks together draw at once.
        batches: forward passes of a rank that one draw serves. A run continues only where a draw is used up.
        copies: times that each row is given, side by side: answers that are compared with one another.
        whole: each forward pass is given this rank's whole share of the draw, because the trainer cuts it up itself; else
            its part of it.
    """

    rows: int
    batches: int
    copies: int = 1
    whole: bool = False

    @classmethod
    def plain(cls, batch: BatchLayout) -> FeedPlan:
        """Each optimizer step draws its own global batch."""
        return cls(batch.global_batch_size, batch.accumulation)

    def share(self, cursor: DataCursor, rank: int, world_size: int) -> list[int]:
        """This rank's rows of the next draw; the cursor moves on.

        Copies stay side by side over the borders between ranks, as trl's trainers expect when they gather them.
        """
        if self.copies == 1:
            return cursor.next_share(self.rows, rank, world_size)
        drawn = [row for row in cursor.next_share(self.rows, 0, 1) for _ in range(self.copies)]
        each = len(drawn) // world_size
        return drawn[rank * each : (rank + 1) * each]


class Feed:
    """What the Trainer iterates over in place of a loader; one "epoch" of it lasts for the whole run.

    Args:
        rows: the data set.
        collate: makes a batch of rows.
        before_step: called before the rows of an optimizer step are drawn; told whether a draw begins, which is where a run
            can be continued. It may raise, to end the training.
        steps: of the whole run.
    """

    def __init__(
        self, rows: Sequence[Any], collate: Callable[[list[Any]], Any], cursor: DataCursor, place: Place, plan: FeedPlan, *,
        batch: BatchLayout, before_step: Callable[[bool], None], steps: int,
    ) -> None:
        self.dataset = rows
        self._collate, self._cursor, self._place, self._plan = collate, cursor, place, plan
        self._accumulation, self._before_step, self._steps = batch.accumulation, before_step, steps
        self.tokens = 0
        """Tokens of this rank's batches since the number was last taken."""

    def __len__(self) -> int:
        return self._steps * self._accumulation

    def __iter__(self) -> Iterator[Any]:
        plan, given = self._plan, 0
        mine: list[int] = []
        while True:
            turn = given % plan.batches
            if given % self._accumulation == 0:
                self._before_step(turn == 0)
            if turn == 0:
                mine = plan.share(self._cursor, self._place.rank, self._place.world_size)
            size = len(mine) if plan.whole else len(mine) // plan.batches
            first = 0 if plan.whole else turn * size
            batch = self._collate([self.dataset[row] for row in mine[first : first + size]])
            self.tokens += count_tokens(batch)
            given += 1
            yield batch

    def take_tokens(self) -> int:
        """Tokens since the last call."""
        taken, self.tokens = self.tokens, 0
        return taken


def count_tokens(batch: Any) -> int:
    """Tokens of a batch without its padding; 0 where it holds none yet."""
    if not isinstance(batch, dict):
        return 0
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return int(batch["input_ids"].numel()) if "input_ids" in batch else 0
