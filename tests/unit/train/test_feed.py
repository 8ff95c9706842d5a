"""Batches of tuning runs."""

from __future__ import annotations

import torch

from hpctrain.train.budget import BatchLayout
from hpctrain.train.data import DataCursor
from hpctrain.train.distributed import Place
from hpctrain.train.order import SampleOrder
from hpctrain.train.tune.feed import Feed, FeedPlan


def feeds(world: int, plan: FeedPlan, batch: BatchLayout, *, rows: int = 24, consumed: int = 0) -> list[Feed]:
    """One feed for each rank; a batch is the list of its rows."""
    made = []
    for rank in range(world):
        cursor = DataCursor(SampleOrder(rows, 7), "data", 1)
        cursor.consumed = consumed
        place = Place(torch.device("cpu"), rank, world)
        made.append(Feed(list(range(rows)), list, cursor, place, plan, batch=batch, before_step=lambda _: None, steps=99))
    return made


def take(feed: Feed, count: int) -> list[list[int]]:
    """The next batches."""
    source = iter(feed)
    return [next(source) for _ in range(count)]


def test_an_epoch_gives_each_row_once() -> None:
    """All ranks together see each row of an epoch exactly once, and another number of ranks sees the same steps."""
    batch = BatchLayout(8, 2, 2)
    found = [take(feed, 6) for feed in feeds(2, FeedPlan.plain(batch), batch)]
    assert list(range(24)) == sorted(row for rank in found for rows in rank for row in rows)
    layout = BatchLayout(8, 4, 2)
    alone = take(feeds(1, FeedPlan.plain(layout), layout)[0], 2)
    both = [row for rank in found for rows in rank[:2] for row in rows]
    assert sorted(row for rows in alone for row in rows) == sorted(both)


def test_a_feed_continues_where_a_cursor_stands() -> None:
    """A feed whose cursor was restored goes on with exactly the rows that were next."""
    batch = BatchLayout(8, 4, 1)
    whole = take(feeds(2, FeedPlan.plain(batch), batch)[1], 5)
    assert whole[3:] == take(feeds(2, FeedPlan.plain(batch), batch, consumed=24)[1], 2)


def test_copies_stay_side_by_side() -> None:
    """Answers to one prompt are neighbours when the ranks' shares are put together, and each pass gets its whole share."""
    plan, batch = FeedPlan(rows=3, batches=4, copies=4, whole=True), BatchLayout(12, 3, 2)
    ranks = [take(feed, 4) for feed in feeds(2, plan, batch)]
    assert all(rank[0] == share for rank in ranks for share in rank)
    together = ranks[0][0] + ranks[1][0]
    assert 12 == len(together)
    assert all(len(set(together[at : at + 4])) == 1 for at in (0, 4, 8))


def test_steps_are_told_where_they_can_be_continued() -> None:
    """Before each optimizer step the feed says whether the rows before it are used up."""
    told: list[bool] = []
    cursor = DataCursor(SampleOrder(24, 7), "data", 1)
    plan, batch = FeedPlan(rows=2, batches=4, copies=2, whole=True), BatchLayout(4, 2, 2)
    feed = Feed(list(range(24)), list, cursor, Place(torch.device("cpu"), 0, 1), plan, batch=batch,
                before_step=told.append, steps=99)
    take(feed, 7)
    assert [True, False, True, False] == told
