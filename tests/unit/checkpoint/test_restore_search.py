"""What is restored from which mix of tiers, and what is said of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from hpctrain.checkpoint import names  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.restore_threads import Limits  # noqa: E402
from hpctrain.errors import CheckpointError, StorageError  # noqa: E402
from tests.unit.checkpoint.restore_world import TIERS, Box, World, parts_of, store_it  # noqa: E402


def name(step: int, incarnation: int = 0) -> CheckpointName:
    return CheckpointName(incarnation, step)


def in_memory(world: World, step: int, ranks: int = 4, tier: str = "ram") -> list[Any]:
    """Put a whole checkpoint into the memory of the nodes whose ranks saved it."""
    parts = parts_of(step, ranks)
    for rank, part in enumerate(parts):
        world.nodes[rank * len(world.nodes) // ranks][tier].put(name(step), rank, part)
    return parts


def assert_restored(world: World, step: int, **options: Any) -> Any:
    """Every rank has this step, whole, and says the same."""
    results, boxes = world.restore(**options)
    assert [step] * world.ranks == [getattr(result, "step", result) for result in results], results
    assert all(box.equals(step) for box in boxes)
    assert all(result == results[0] for result in results)
    return results[0]


def first_box(part: Any, tensor: str = "box.b") -> Any:
    return next(stored for stored in part.shards if stored.shard.name == tensor)


def part_with(parts: list[Any], tensor: str = "box.b") -> int:
    """A rank that saved some of a tensor."""
    return next(rank for rank, part in enumerate(parts) if any(s.shard.name == tensor for s in part.shards))


# ---------------------------------------------------------------- mixes


def test_mix_of_memory_and_peers_is_taken() -> None:
    """Rank 3's node has lost its memory: its part comes from the peer's node, the others from memory, none from disk."""
    world = World(nodes=4, ranks=4)
    parts = parts_of(7, 4)
    store_it(world.stores[0], name(5), parts_of(5, 4))
    for rank in range(3):
        world.nodes[rank]["ram"].put(name(7), rank, parts[rank])
    world.nodes[2]["peer"].put(name(7), 3, parts[3].copied())
    restored = assert_restored(world, 7)

    assert {"ram": 3, "peer": 1} == restored.tiers
    assert "step 7 from ram (3 parts) and peer (1 part of node n2); 0 steps lost" == restored.line
    assert 0 == world.stores[0].reads


def test_what_is_only_in_a_store_completes_the_mix() -> None:
    """One part is on no node: that one is read from the store, once, and the rest stays in memory."""
    world = World(nodes=4, ranks=4)
    parts = in_memory(world, 7)
    store_it(world.stores[0], name(7), parts)
    lost = part_with(parts)
    world.nodes[lost]["ram"].parts.clear()
    restored = assert_restored(world, 7)

    assert {"ram": 3, "shared": 1} == restored.tiers
    assert sum(stored.size_bytes for stored in parts[lost].shards) == world.stores[0].reads


def test_store_alone_hands_out_each_byte_once() -> None:
    """With nothing on any node, four ranks read the checkpoint from the store exactly once together."""
    world = World(nodes=4, ranks=4)
    parts = parts_of(7, 4)
    store_it(world.stores[0], name(7), parts)
    restored = assert_restored(world, 7)

    assert {"shared": 4} == restored.tiers and ("shared",) == restored.stores
    assert sum(stored.size_bytes for part in parts for stored in part.shards) == world.stores[0].reads


@pytest.mark.parametrize(("saved", "ranks", "nodes"), [(4, 2, 2), (2, 4, 4), (3, 1, 1), (1, 3, 2)])
def test_parts_are_reshared_over_another_number_of_ranks(saved: int, ranks: int, nodes: int) -> None:
    """What so many ranks saved in memory and on peers is restored on another number, each piece read once."""
    world = World(nodes=nodes, ranks=ranks)
    parts = parts_of(7, saved)
    for rank, part in enumerate(parts):
        world.nodes[rank % nodes]["ram" if rank % 2 else "peer"].put(name(7), rank, part)
    assert_restored(world, 7)

    assert all(len(part.reads) == len([s for s in part.shards if s.size_bytes]) for part in parts)


def test_nothing_at_all_is_told_apart_from_nothing_usable() -> None:
    """Empty tiers give None; a store that lists something which cannot be read is an error that names it."""
    world = World(nodes=2, ranks=2)
    assert [None, None] == world.restore()[0]
    store_it(world.stores[0], name(7), parts_of(7, 2))
    world.stores[0].broken.add(names.MANIFEST)
    results, _ = world.restore()

    assert all(isinstance(result, CheckpointError) for result in results), results
    assert "there is 1 checkpoint and none can be used: step-00000007.i000: manifest.json is not the one" in str(results[1])


def test_memory_that_is_incomplete_and_all_there_was_is_no_error() -> None:
    """Two parts of a checkpoint in memory, the others gone for ever: nothing can mend that, training starts again."""
    world = World(nodes=4, ranks=4)
    in_memory(world, 7)
    world.nodes[0]["ram"].parts.clear()
    world.nodes[1]["ram"].parts.clear()
    results, _ = world.restore()

    assert [None] * 4 == results
    assert [("checkpoint.skipped", "step-00000007.i000 is passed over: parts of ranks 0, 1 are nowhere")] == \
        [event[:2] for event in world.events]


@pytest.mark.parametrize("tier", ["local", "peer", "ram"])
def test_parts_on_nodes_that_are_no_whole_checkpoint_hold_nobody_up(tier: str) -> None:
    """Only some ranks had written their part when memory was lost, and no store has one: training starts from step 0."""
    world = World(nodes=2, ranks=4)
    in_memory(world, 7, tier=tier)
    del world.nodes[0][tier].parts[name(7)]
    results, _ = world.restore()

    assert [None] * 4 == results
    assert ["step-00000007.i000 is passed over: parts of ranks 0, 1 are nowhere"] == \
        [text for kind, text, *_ in world.events if kind == "checkpoint.skipped"]


def test_parts_on_nodes_do_not_excuse_a_committed_one() -> None:
    """A newer step is incomplete on the disks and the committed one is damaged: that is an error, not a start from 0."""
    world = World(nodes=2, ranks=2)
    in_memory(world, 9, ranks=2, tier="local")
    world.nodes[1]["local"].parts.clear()
    store_it(world.stores[0], name(7), parts_of(7, 2))
    world.stores[0].broken.add(names.MANIFEST)

    assert all("there are 2 checkpoints and none can be used: step-00000009.i000: part of rank 1 is nowhere; step-00000007"
               in str(result) for result in world.restore()[0])


# ---------------------------------------------------------------- what is passed over


def test_incomplete_newer_step_is_passed_over_with_the_reason() -> None:
    """The newest step of which every part is somewhere is taken; the line and the event say what was lost, and why."""
    world = World(nodes=4, ranks=4)
    for step in (6, 7):
        in_memory(world, step)
    del world.nodes[3]["ram"].parts[name(7)]
    restored = assert_restored(world, 6, reached=9)

    assert "step 6 from ram (4 parts); 3 steps lost; step 7 is passed over: part of rank 3 is nowhere" == restored.line
    kind, reason, evidence = world.events[-1]
    assert "checkpoint.restored" == kind and reason.startswith(restored.line)
    assert {"ram": 4} == evidence["tiers"] and 3 == evidence["steps_lost"]
    assert [{"checkpoint": "step-00000007.i000", "reason": "part of rank 3 is nowhere"}] == evidence["passed_over"]
    assert restored.size_bytes == evidence["size_bytes"] == sum(t.nbytes for k, t in Box(6).tensors.items() if k != "tied")


def test_newer_incarnation_counts_before_a_higher_step() -> None:
    """What a later incarnation saved is the newer one, also at a lower step."""
    world = World(nodes=1, ranks=1)
    world.nodes[0]["ram"].put(name(9), 0, parts_of(9, 1)[0])
    world.nodes[0]["ram"].put(name(7, incarnation=1), 0, parts_of(7, 1)[0])

    assert 0 == assert_restored(world, 7).steps_lost


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("left", ["peer", "local", "shared"])
def test_damaged_piece_comes_from_the_next_place(left: str) -> None:
    """A flipped bit in memory is made good by the same piece on the peer, on the disk or in the store; nothing is lost."""
    world = World(nodes=2, ranks=4)
    parts = in_memory(world, 7)
    good = [part.copied() for part in parts]
    bad = part_with(parts)
    if left == "shared":
        store_it(world.stores[0], name(7), good)
    else:
        world.nodes[1 - world.node_of(bad)][left].put(name(7), bad, good[bad])
    parts[bad].damage(first_box(parts[bad]))
    restored = assert_restored(world, 7)

    assert "has not the xxh3 hash that was committed" in "".join(restored.notes)


def test_damage_everywhere_falls_back_to_the_older_step() -> None:
    """Memory, peer and store are damaged in the same piece: the older step is taken whole, on every rank."""
    world = World(nodes=2, ranks=4)
    in_memory(world, 6)
    parts = in_memory(world, 7)
    bad = part_with(parts)
    peer = parts[bad].copied()
    world.nodes[1 - world.node_of(bad)]["peer"].put(name(7), bad, peer)
    store_it(world.stores[0], name(7), parts)
    for part in (parts[bad], peer):
        part.damage(first_box(part))
    manifest = world.stores[0].committed[name(7)][1]
    stored = next(s for s in manifest.shards if s.file == names.tensor_file(bad) and s.shard.name == "box.b")
    world.stores[0].files[name(7)][stored.file][stored.offset_bytes] ^= 1
    restored = assert_restored(world, 6)

    assert 1 == restored.steps_lost and name(7) == restored.passed_over[0][0]


def test_file_that_cannot_be_read_in_one_store_is_read_in_the_other() -> None:
    """EIO in the shared file system: that file's pieces come from the object store, the rest does not."""
    world = World(nodes=1, ranks=2, stores=2)
    parts = parts_of(7, 2)
    for store in world.stores:
        store_it(store, name(7), parts)
    world.stores[0].broken.add(names.tensor_file(0))
    restored = assert_restored(world, 7)

    assert {"shared": 1, "object": 1} == restored.tiers
    assert "Input/output error" in restored.line


def test_keeper_that_dies_between_listing_and_reading() -> None:
    """A keeper that has said what it holds, and is gone, does not stop what others hold."""
    world = World(nodes=2, ranks=2)
    parts = in_memory(world, 7, ranks=2)
    world.nodes[0]["peer"].put(name(7), 1, parts[1].copied())
    world.nodes[1]["ram"].unlisted_but_gone = True
    restored = assert_restored(world, 7)

    assert {"ram": 1, "peer": 1} == restored.tiers
    assert "the part of rank 1 in ram of node n1 cannot be used: there is no keeper" in restored.line


def test_sources_that_disagree_are_not_mixed() -> None:
    """Of two different parts under one name, that which the store has committed counts; the other is left out and named."""
    world = World(nodes=2, ranks=2)
    right, wrong = parts_of(7, 2), parts_of(8, 2)
    store_it(world.stores[0], name(7), right)
    world.nodes[0]["ram"].put(name(7), 0, wrong[0])
    world.nodes[1]["ram"].put(name(7), 1, right[1])
    world.nodes[1]["peer"].put(name(7), 0, right[0])
    world.nodes[0]["local"].put(name(7), 0, right[0])
    restored = assert_restored(world, 7)

    assert "the part of rank 0 in ram of node n0 is another one than that in peer of node n1" in restored.line


def test_committed_part_outvotes_the_nodes() -> None:
    """Where a store has to be asked, its word counts against all nodes."""
    world = World(nodes=3, ranks=3)
    right, wrong = parts_of(7, 3), parts_of(8, 3)
    store_it(world.stores[0], name(7), right)
    for node in world.nodes[:2]:
        node["ram"].put(name(7), 0, wrong[0])
    world.nodes[1]["peer"].put(name(7), 1, right[1])  # and nobody has that of rank 2
    restored = assert_restored(world, 7)

    assert {"shared": 2, "peer": 1} == restored.tiers
    assert "is another one than the committed one" in restored.line


# ---------------------------------------------------------------- hangs


def test_hanging_disk_is_given_up_and_the_store_taken() -> None:
    """A node's disk hangs in a read: that read is given up, the piece is read from the store, no rank waits on."""
    world = World(nodes=2, ranks=2)
    world.limits = Limits(list_s=5, open_s=5, read_s=0.5, round_s=5, ranks_s=20)
    parts = in_memory(world, 7, ranks=2, tier="local")
    store_it(world.stores[0], name(7), parts)
    slow = part_with(parts)
    read = parts[slow].read_into

    def hang(stored: Any, target: memoryview) -> None:
        if stored.shard.name == "box.b":
            time.sleep(3)
        read(stored, target)

    parts[slow].read_into = hang
    started = time.monotonic()
    restored = assert_restored(world, 7)

    assert time.monotonic() - started < 2.9
    assert "does not answer for" in restored.line
    assert world.progress, "nobody was told that the ranks are alive"


def test_read_that_comes_to_itself_late_changes_nothing() -> None:
    """A read that was given up and ends much later does not write into the restored tensors."""
    world = World(nodes=1, ranks=1)
    world.limits = Limits(list_s=5, open_s=5, read_s=0.3, round_s=5, ranks_s=20)
    (part,) = in_memory(world, 7, ranks=1, tier="local")
    store_it(world.stores[0], name(7), [part])
    begun, late = [], []
    read = part.read_into

    def hang(stored: Any, target: memoryview) -> None:
        if stored.shard.name != "box.b":  # whose bytes lie in the tensor as they are stored
            read(stored, target)
            return
        begun.append(stored)
        time.sleep(1)
        target[:] = b"\xff" * len(target)
        late.append(stored)

    part.read_into = hang
    results, boxes = world.restore()
    deadline = time.monotonic() + 10
    while len(late) < len(begun) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert late and len(late) == len(begun) and 7 == results[0].step
    assert boxes[0].equals(7)


def test_store_that_hangs_does_not_keep_memory_from_being_restored() -> None:
    """The shared file system is dead: what is in memory is restored, after the time that a listing may take."""
    world = World(nodes=2, ranks=2)
    world.limits = Limits(list_s=0.3, open_s=0.3, read_s=5, round_s=5, ranks_s=20)
    in_memory(world, 7, ranks=2)
    world.stores[0].hangs.set()
    assert_restored(world, 7)
    for node in world.nodes:
        node["ram"].parts.clear()
    results, _ = world.restore()
    world.stores[0].hangs.clear()

    assert all("it cannot be told whether there is a checkpoint: shared does not answer for 0.3 s" in str(result)
               for result in results), results


def test_store_that_cannot_be_listed_is_an_error_when_nothing_else_is_left() -> None:
    """EIO on listing never reads as 'there is nothing': that would start a long run from step 0."""
    world = World(nodes=1, ranks=1)
    world.stores[0].error = OSError(5, "Input/output error")

    assert "shared cannot be listed" in str(world.restore()[0][0])


# ---------------------------------------------------------------- rewinding


def rewindable() -> World:
    world = World(nodes=2, ranks=2)
    for step in (4, 5, 6):
        parts = in_memory(world, step, ranks=2)
        store_it(world.stores[0], name(step), parts)
    world.stores[0].write_file(name(6), names.PIN, b"{}")
    return world


def test_rewind_makes_newer_ones_exist_no_more() -> None:
    """restore(before=6) takes step 5; step 6 is gone from store and memory, pinned or not; a second call says the same."""
    world = rewindable()
    restored = assert_restored(world, 5, before=6)

    assert (name(6),) == restored.abandoned == restored.pinned
    assert "step 5 from ram (2 parts); 1 step lost; abandoned: step 6 (pinned: step 6)" == restored.line
    assert [name(4), name(5)] == world.stores[0].checkpoints(committed=True)
    assert all({name(4), name(5)} == set(node["ram"].parts) for node in world.nodes)
    assert () == assert_restored(world, 5, before=6).abandoned
    assert_restored(world, 5)


def test_rewind_goes_further_back() -> None:
    """back=2 takes the one before the newest that is old enough, and the oldest where there are fewer."""
    assert_restored(rewindable(), 4, before=6, back=2)
    assert_restored(rewindable(), 4, before=6, back=9)
    assert_restored(rewindable(), 5, before=7, back=2)


def test_rewind_gives_nothing_up_for_a_damaged_one() -> None:
    """The only older one turns out to be damaged: an error, and what is newer is still there, and still the state."""
    world = World(nodes=1, ranks=1)
    old, new = parts_of(4, 1)[0], parts_of(6, 1)[0]
    store_it(world.stores[0], name(4), [old])
    store_it(world.stores[0], name(6), [new])
    world.stores[0].broken.add(names.tensor_file(0))
    results, boxes = world.restore(before=6)

    assert "none can be used: step-00000004.i000: shared: __0_0.distcp cannot be read" in str(results[0])
    assert boxes[0].equals(-1), "the state was touched"
    world.stores[0].broken.clear()
    assert_restored(world, 6)


def test_rewind_that_cannot_abandon_touches_nothing() -> None:
    """A read-only store would bring the newer one back: the rewind fails on every rank before the state is touched."""
    world = rewindable()

    def refuse(_name: CheckpointName) -> None:
        raise StorageError("read-only file system", where="memory:shared")

    world.stores[0].abandon = refuse
    results, boxes = world.restore(before=6)

    assert all("read-only file system" in str(result) for result in results)
    assert all(box.equals(-1) for box in boxes)
    assert all(name(6) in node["ram"].parts for node in world.nodes)


def test_rewind_beyond_the_oldest_is_refused() -> None:
    """No checkpoint before step 4: an error that names the oldest, and nothing is abandoned."""
    world = rewindable()

    assert all("no checkpoint before step 4; the oldest is step-00000004" in str(result) for result in
               world.restore(before=4)[0])
    assert 3 == len(world.stores[0].checkpoints(committed=True))


# ---------------------------------------------------------------- anything


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_placement_restores_the_newest_that_is_whole(data: st.DataObject) -> None:
    """Parts of three steps lie anywhere, some damaged: the newest step whose every part is good somewhere is restored."""
    saved, nodes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    ranks = nodes * data.draw(st.integers(1, 2))
    world = World(nodes, ranks)
    best = None
    for step in (1, 2, 3):
        parts = parts_of(step, saved)
        good: set[int] = set()
        for rank, part in enumerate(parts):
            for node in range(nodes):
                for tier in TIERS:
                    what = data.draw(st.sampled_from(["none", "none", "none", "good", "damaged"]))
                    if what == "none":
                        continue
                    held = part.copied()
                    world.nodes[node][tier].put(name(step), rank, held)
                    boxes = [stored for stored in held.shards if stored.size_bytes]
                    if what == "good" or not boxes:
                        good.add(rank)
                    else:
                        for stored in boxes:
                            held.damage(stored)
        stored = data.draw(st.sampled_from(["no", "no", "good", "damaged"]))
        if stored != "no":
            store_it(world.stores[0], name(step), parts)
            if stored == "damaged":
                for content in (names.tensor_file(rank) for rank in range(saved)):
                    world.stores[0].files[name(step)][content][:] = bytes(len(world.stores[0].files[name(step)][content]))
        if stored == "good" or len(good) == saved:
            best = step
    if best is not None:
        assert_restored(world, best)
    else:
        results, _ = world.restore()
        assert all(result is None or isinstance(result, CheckpointError) for result in results), results
