"""Everything that a training keeps comes back bit for bit from memory: tensors of every kind, and what is no tensor."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from hpctrain.checkpoint import capture as capture_module  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint import torch_state  # noqa: E402
from hpctrain.checkpoint.capture import capture  # noqa: E402
from hpctrain.checkpoint.fill import FillPlan  # noqa: E402
from hpctrain.checkpoint.manager_state import Registered  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.ranks import Ranks  # noqa: E402
from hpctrain.checkpoint.restore_search import Search  # noqa: E402
from hpctrain.checkpoint.shards import StoredShard  # noqa: E402
from hpctrain.clock import SystemClock  # noqa: E402
from hpctrain.testing.fake_tiers import FakePart, FakePartTier, FakeStore  # noqa: E402

NAME = CheckpointName(0, 1)


class Held:
    """Registered values; they are replaced by what is given back."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = state


def round_trip(saved: dict[str, Any], fresh: dict[str, Any], *, in_store: bool, rng: bool = False) -> None:
    """Save what is registered in ``saved`` (keywords of ``register``), and restore it into ``fresh``."""
    registered, tier, store = Registered(), FakePartTier("ram"), FakeStore()
    registered.add(saved.pop("model", None), saved.pop("optimizer", None), rng=rng, more=saved)
    captured, own = registered.collect(0, 1)
    share = {"aliases": captured.aliases, "replicated": captured.fingerprint}
    if in_store:
        from tests.unit.checkpoint.restore_world import store_it

        store_it(store, NAME, [FakePart.of(captured.buffers(), own_state=own, share=share)])
    else:
        tier.put(NAME, 0, FakePart.of(captured.buffers(), own_state=own, share=share))
    back = Registered()
    back.add(fresh.pop("model", None), fresh.pop("optimizer", None), rng=rng, more=fresh)
    search = Search(Ranks(), [store], [tier], clock=SystemClock(), tell=lambda *event: None, node="n")
    assert search.restore(back.items, back.rng) is not None


def zoo(filled: bool) -> dict[str, Any]:
    """One tensor of each kind; zeros of the same kinds when not filled."""
    torch.manual_seed(3)
    storage = torch.randn(60)
    values = {
        "float32": torch.randn(5, 4), "transposed": torch.randn(6, 7).t(), "strided": torch.randn(8, 9)[::2, 1::3],
        "expanded": torch.randn(3, 1).expand(3, 4), "flipped": torch.randn(6).flip(0),
        "view 1": storage[:30].view(5, 6), "view 2": storage[20:50], "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3), "empty dim": torch.empty(2, 0, 4), "bool": torch.tensor([True, False, True]),
        "int64": torch.arange(9), "uint8": torch.arange(7, dtype=torch.uint8), "float64": torch.randn(3).double(),
        "bf16": torch.randn(11).bfloat16(), "half": torch.randn(3, 3).half(),
        "fp8 e4m3": torch.randn(13).to(torch.float8_e4m3fn), "fp8 e5m2": torch.randn(4, 5).to(torch.float8_e5m2),
        "complex64": torch.randn(4, dtype=torch.complex64), "conjugated": torch.randn(4, dtype=torch.complex64).conj(),
        "complex128": torch.randn(2, 2, dtype=torch.complex128), "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "negative view": torch.randn(4, dtype=torch.complex64).conj().imag,
    }
    if filled:
        return values
    empty = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in values.items()}
    empty["transposed"] = torch.zeros(6, 7).t()
    empty["strided"] = torch.zeros(8, 9)[::2, 1::3]
    empty["expanded"] = torch.zeros(3, 1).expand(3, 4)
    shared = torch.zeros(60)
    empty["view 1"], empty["view 2"] = shared[:30].view(5, 6), shared[20:50]
    return empty


def bits(tensor: Any) -> bytes:
    return bytes(capture_module.raw_bytes(tensor.resolve_conj().resolve_neg().contiguous()))


@pytest.mark.parametrize("in_store", [False, True])
def test_tensors_of_every_kind(in_store: bool) -> None:
    """Every data type and every memory layout comes back with the same bits, also views that share one storage."""
    saved, fresh = zoo(filled=True), Held(zoo(filled=False))
    round_trip({"zoo": Held(saved)}, {"zoo": fresh}, in_store=in_store)

    for name, value in saved.items():
        back = fresh.values[name]
        assert (value.dtype, value.shape) == (back.dtype, back.shape), name
        assert bits(value) == bits(back), name


def test_what_is_no_tensor() -> None:
    """Nested containers, numbers that JSON lacks, bytes and keys that are no text come back equal and of the same type."""
    saved = {"nested": {"list": [1, (2.5, None, "text"), {3: "three", (4, 5): b"\x00\xff"}], "flags": (True, False)},
             "inf": float("inf"), "complex": 1 - 2j, "big": 2**90, "$odd": {"$tensor": "not one"},
             "tensors inside": [torch.ones(2), {"deep": (torch.zeros(3, dtype=torch.int8),)}]}
    fresh = Held({"tensors inside": []})
    round_trip({"state": Held(saved)}, {"state": fresh}, in_store=False)
    tensors, back = saved.pop("tensors inside"), dict(fresh.values)
    restored = back.pop("tensors inside")

    assert saved == back and tuple is type(back["nested"]["list"][1])
    assert torch.equal(tensors[0], restored[0]) and torch.equal(tensors[1]["deep"][0], restored[1]["deep"][0])


def training(steps: int) -> dict[str, Any]:
    """A model with tied weights and a buffer, and all that goes with it, after some steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 6))
    model[2].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, amsgrad=True)
    schedulers = torch.optim.lr_scheduler
    scheduler = schedulers.OneCycleLR(optimizer, 1.0, total_steps=50)
    chained = schedulers.SequentialLR(
        optimizer, [schedulers.ConstantLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)], [2])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(steps):
        scaler.scale(model(torch.randn(4, 6)).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scheduler.step()
        chained.step()
        ema.update_parameters(model)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "chained": chained, "scaler": scaler, "ema": ema}


def assert_same(expected: Any, found: Any, what: str) -> None:
    """Equal trees with equal bits in the tensors."""
    tensors: list[dict[str, Any]] = [{}, {}]
    trees = [torch_state.split(value, what, into) for value, into in zip((expected, found), tensors, strict=True)]
    assert trees[0] == trees[1], what
    for name, tensor in tensors[0].items():
        assert bits(tensor) == bits(tensors[1][name]), name


def test_everything_around_a_model() -> None:
    """Model, optimizer, two schedulers, GradScaler and EMA of a fresh start continue exactly as the old ones would."""
    old, new = training(5), training(0)
    expected = {key: copy.deepcopy(value.state_dict()) for key, value in old.items()}
    round_trip(dict(old), dict(new), in_store=False)

    for key, value in expected.items():
        assert_same(value, new[key].state_dict(), key)
    assert new["model"][0].weight is new["model"][2].weight, "the tie is torn"


def test_random_generators_continue() -> None:
    """Python's, NumPy's and torch's generators draw after a restore what they would have drawn."""
    def draw() -> tuple[Any, ...]:
        return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(2).tolist()

    draw()
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draw()
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
    registered, tier = Registered(), FakePartTier("ram")
    registered.add(None, None, rng=True, more={})
    captured, own = registered.collect(0, 1)
    tier.put(NAME, 0, FakePart.of(captured.buffers(), own_state=own, share={"aliases": {}, "replicated": ""}))
    draw()
    search = Search(Ranks(), [FakeStore()], [tier], clock=SystemClock(), tell=lambda *event: None, node="n")

    assert search.restore({}, registered.rng) is not None
    assert expected == draw()


def test_offsets_beyond_4_gib() -> None:
    """The elements of the last piece of a tensor of 5 GiB (one byte, repeated: it costs no memory) are found."""
    large = torch.zeros(1, dtype=torch.uint8).expand(5 << 30)
    shard = capture_module.locate("large", large, (0,))
    assert shard is not None
    found = capture_module.pieces(shard.shard)

    assert 80 == len(found) and (5 << 30) - (64 << 20) == found[-1].offsets[0]
    assert (5 << 30) - (64 << 20) == capture_module.start_in(shard.shard, found[-1])


@pytest.mark.long
def test_tensor_over_2_gib() -> None:
    """A tensor of 2.2 GiB is saved without a copy and restored, its last elements too."""
    count = int(2.2 * (1 << 30))
    large = torch.zeros(count, dtype=torch.uint8)
    large[-3:] = torch.tensor([1, 2, 3])
    captured = capture({"large": large}, 0, 1)

    assert count == captured.size_bytes and 36 == len(captured.pieces)
    shard, last = captured.pieces[-1]
    assert last.data_ptr() == large.data_ptr() + shard.offsets[0], "it was copied"
    assert b"\x01\x02\x03" == bytes(capture_module.raw_bytes(last)[-3:])
    place = 64 * 35 * 1024 * 1024
    stored = StoredShard(shard, "0", place, shard.nbytes, "")
    before = [StoredShard(piece, "0", piece.offsets[0], piece.nbytes, "") for piece, _ in captured.pieces[:-1]]
    plan = FillPlan({"large": large}, {"large": [*before, stored]}, 1)
    own = plan.in_place(stored)
    assert own is not None and own.data_ptr() == last.data_ptr(), "it is not restored in place"
