"""Which slot is filled next, and that no order of events loses what all ranks have in common."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.checkpoint.keeper_slots import BusyError, OvertakenError, RefusedError, SlotTable
from hpctrain.checkpoint.keeper_tasks import ATTEMPTS, Task, TaskBoard
from hpctrain.checkpoint.names import CheckpointName


def name(step: int, incarnation: int = 0) -> CheckpointName:
    return CheckpointName(incarnation, step)


def save(table: SlotTable, connection: int, step: int, incarnation: int = 0) -> int:
    slot = table.lease(connection)
    table.commit(connection, slot.index, name(step, incarnation))
    return slot.index


def order(step: int, tier: str = "shared") -> Task:
    return Task(tier, 0, name(step), {})


def table_of(ranks: int = 1, slots: int = 2) -> SlotTable:
    table = SlotTable()
    for rank in range(ranks):
        table.join(rank, rank, 0, slots)
    return table


def test_slots_take_turns() -> None:
    """The older of two complete checkpoints is overwritten."""
    table = table_of()
    assert [0, 1, 0, 1] == [save(table, 0, step) for step in range(4)]
    assert {0: [name(2), name(3)]} == table.holdings()


def test_killed_writer_loses_only_its_own_attempt() -> None:
    """A process that dies with a lease leaves an empty slot and the checkpoint before."""
    table = table_of()
    save(table, 0, 1)
    save(table, 0, 2)
    table.lease(0)
    table.leave(0)

    assert {0: [name(2)]} == table.holdings()
    table.join(9, 0, 1, 2)
    assert save(table, 9, 3, 1) == 0


def test_what_is_to_be_kept_counts_for_more_than_what_this_node_has_in_common() -> None:
    """A save that failed on another node is overwritten by the next, even where memory is for two checkpoints only."""
    table = table_of(ranks=2)
    for rank in (0, 1):
        save(table, rank, 1)
        save(table, rank, 2)  # another node's ranks have not got this one
    slot = table.lease(0, [name(1)])
    table.commit(0, slot.index, name(3))

    assert [name(1), name(3)] == table.holdings()[0]


def test_common_checkpoint_is_never_overwritten() -> None:
    """While one rank lags, the other overwrites its own newer checkpoints, never the last one that both have."""
    table = table_of(ranks=2)
    save(table, 0, 1)
    save(table, 1, 1)
    for step in range(2, 9):
        save(table, 0, step)
        assert name(1) == table.newest_common()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60), st.integers(2, 4))
def test_no_order_of_saves_and_deaths_loses_the_common_step(events: list[tuple[int, bool]], slots: int) -> None:
    """Ranks save steps in any order of progress and die at any point of a save: the newest common step only ever rises."""
    table = table_of(ranks=3, slots=slots)
    step = dict.fromkeys(range(3), 0)
    connection = {rank: rank for rank in range(3)}
    best = name(-1)
    for number, (rank, dies) in enumerate(events):
        step[rank] += 1
        slot = table.lease(connection[rank])
        if dies:
            table.leave(connection[rank])
            connection[rank] = 100 + number
            table.join(connection[rank], rank, 0, slots)
        else:
            table.commit(connection[rank], slot.index, name(step[rank]))
        common = table.newest_common() or name(-1)
        assert common >= best
        best = common


def test_what_the_caller_keeps_stays() -> None:
    """A slot that is to be kept is not chosen; if no other is left, the save has to wait, and the message says why."""
    table = table_of(slots=3)
    for step in (1, 2, 3):
        save(table, 0, step)

    assert table.lease(0, keep=[name(1)]).index == 1
    table.leave(0)
    table.join(1, 0, 0, 3)
    table.find(0, name(1)).pins += 1
    save(table, 1, 4)
    with pytest.raises(BusyError, match=r"all 3 slots of rank 0 are needed: step-00000001.i000 being read, .*kept"):
        table.lease(1, keep=[name(3), name(4)])


def test_old_incarnation_is_fenced() -> None:
    """Once a newer incarnation has been here, an older one can neither join, lease, nor commit what it has leased."""
    table = table_of()
    save(table, 0, 1)
    slot = table.lease(0)
    slot.generation = 5

    assert [5] == table.join(7, 0, 1, 2)
    with pytest.raises(OvertakenError, match="may no longer save"):
        table.commit(0, slot.index, name(2))
    with pytest.raises(OvertakenError):
        table.lease(0)
    with pytest.raises(OvertakenError, match="incarnation 1 has taken over; incarnation 0"):
        table.join(8, 0, 0, 2)
    assert {0: [name(1)]} == table.holdings()


def test_memory_of_an_overtaken_lease_is_not_reused() -> None:
    """A slot that an overtaken process may still be writing to gets new memory before it is filled again."""
    table = table_of()
    save(table, 0, 1)
    slot = table.lease(0)
    slot.generation = 5
    table.join(7, 0, 1, 2)

    assert table.lease(7) is slot
    assert slot.generation == 0


def test_only_the_holder_of_a_lease_commits() -> None:
    """A commit without a lease, to another's slot, or to one that does not exist, changes nothing."""
    table = table_of(ranks=2)
    table.lease(0)
    for connection, index in ((1, 0), (0, 1), (0, 7), (0, -1)):
        with pytest.raises(RefusedError, match="not leased"):
            table.commit(connection, index, name(1))
    assert {0: [], 1: []} == table.holdings()


def test_whole_means_every_rank_that_saved() -> None:
    """A checkpoint is whole when all ranks that saved it have their part here, however many ranks there are now."""
    table = table_of(ranks=3)
    for rank, steps in enumerate([(1, 2), (1, 2), (1,)]):
        for step in steps:
            table.commit(rank, table.lease(rank).index, name(step), 2 if step == 2 else 4)
    assert [name(2)] == table.whole()


def test_copies_stay_as_the_caller_says() -> None:
    """Copies come rank by rank, so what is common to all is what the sender names; without a word, the newest stays."""
    table = SlotTable(of_copies=True)
    table.join(1, 3, 0, 2)
    save(table, 1, 1)
    save(table, 1, 2)
    assert 1 == table.lease(1, keep=[name(1)]).index
    table.commit(1, 1, name(3))
    assert 0 == table.lease(1).index


def test_spare_slots_come_last() -> None:
    """A spare slot is empty until no other slot can be had; once it has memory, it takes its turn."""
    table = SlotTable()
    table.join(0, 0, 0, 2, 1)
    for slot in table.all():
        slot.generation = 0 if slot.is_spare else 1
    assert [0, 1, 0] == [save(table, 0, step) for step in (1, 2, 3)]
    table.slots[0][1].pins += 1
    assert 2 == save(table, 0, 4)


def test_history_keeps_the_last_k() -> None:
    """With k + 1 slots, the last k steps are there while the next one is being written."""
    table = table_of(slots=5)
    for step in range(1, 9):
        save(table, 0, step)
    table.lease(0)
    assert {0: [name(step) for step in (5, 6, 7, 8)]} == table.holdings()


def test_newest_order_wins() -> None:
    """One order is in work, one waits; a newer one replaces the one that waits, and the result names what was written."""
    board = TaskBoard()
    assert board.post(order(1)) is None
    task = board.take(5, "shared")
    assert task is not None and board.post(order(2)) is None
    assert name(2) == board.post(order(3))
    assert board.take(6, "shared") is None and not board.has_work("shared")
    with pytest.raises(RefusedError, match="nothing of rank 0"):
        board.finish(6, "shared", 0, {})
    board.finish(5, "shared", 0, {"files": []})
    assert {"waiting": [0, 3], "working": None, "result": {"name": [0, 1], "files": []}} == board.report(0, "shared")


def test_tiers_do_not_wait_for_each_other() -> None:
    """An order of one tier is taken while another tier's is in work for the same rank, and each has its own report."""
    board = TaskBoard()
    board.post(order(1))
    board.post(order(2, "peer"))
    assert board.take(5, "shared") is not None and not board.has_work("shared")
    task = board.take(6, "peer")
    assert task is not None and ("peer", name(2)) == (task.tier, task.name)
    with pytest.raises(RefusedError, match="tier shared by this process"):
        board.finish(6, "shared", 0, {})
    board.finish(6, "peer", 0, {})
    assert {"peer": (None, [0, 2]), "shared": ([0, 1], None)} == {
        tier: (report["working"], report["result"] and report["result"]["name"]) for tier, report in board.reports(0).items()
    }
    assert {} == board.reports(1)


def test_work_of_a_dead_writer_is_done_again() -> None:
    """An order outlives its writer, but not any number of them."""
    board = TaskBoard()
    board.post(order(1))
    for writer in range(ATTEMPTS):
        assert board.take(writer, "shared") is not None
        board.leave(writer)
    assert board.take(9, "shared") is None
    assert "3 writer processes died" in board.report(0, "shared")["result"]["error"]
