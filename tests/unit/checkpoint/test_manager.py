"""Saving and restoring in one process, and everything that can go wrong on the way."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import CheckpointError, StorageError
from hpctrain.testing.fake_clock import FakeClock

torch = pytest.importorskip("torch")

from hpctrain.checkpoint import catalogue, tier_shared  # noqa: E402 - after the check that torch is there
from hpctrain.checkpoint.config import CheckpointConfig  # noqa: E402
from hpctrain.checkpoint.manager import Checkpointer  # noqa: E402
from hpctrain.checkpoint.manifest import Manifest  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.retention import Retention  # noqa: E402
from hpctrain.checkpoint.schedule import TierSchedule  # noqa: E402
from hpctrain.checkpoint.tier_shared import SharedTier  # noqa: E402


class Counter:
    """Something of the user's own with a state."""

    def __init__(self) -> None:
        self.value: Any = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class Session:
    """A model in training, with its checkpointer."""

    def __init__(self, root: Path, **config: Any) -> None:
        torch.manual_seed(0)
        random.seed(0)
        self.events: list[tuple[str, str]] = []
        self.clock = FakeClock()
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
        self.model[2].weight = torch.nn.Parameter(self.model[2].weight.detach().clone())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.counter = Counter()
        options = {"schedule": TierSchedule(every_steps=1), **config}
        self.checkpointer = Checkpointer(CheckpointConfig(root, **options), clock=self.clock, notify=self._note)
        self.checkpointer.register(model=self.model, optimizer=self.optimizer, counter=self.counter, rng=True)

    def _note(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        self.events.append((kind, reason))

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.model(torch.randn(3, 4)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.counter.value = (step, random.random())
            self.checkpointer.step(step)

    def weights(self) -> list[Any]:
        return [parameter.tolist() for parameter in self.model.parameters()]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def test_everything_comes_back(tmp_path: Path) -> None:
    """After a restore, training continues exactly as it would have: weights, optimizer, random numbers and own state."""
    straight = Session(tmp_path / "a")
    straight.train(1, 6)
    first = Session(tmp_path / "b")
    first.train(1, 3)
    random.seed(99)
    second = Session(tmp_path / "b")
    step = second.checkpointer.restore()
    second.train(step + 1, 6)

    assert 3 == step
    assert straight.weights() == second.weights()
    assert straight.counter.value == second.counter.value


def test_nothing_to_restore_is_step_zero(tmp_path: Path) -> None:
    """A new directory restores nothing and changes nothing."""
    session = Session(tmp_path)
    before = copy.deepcopy(session.weights())

    assert 0 == session.checkpointer.restore()
    assert before == session.weights()


def test_old_checkpoints_go(tmp_path: Path) -> None:
    """Only the newest two and the milestones stay, and everything in the directory is private."""
    session = Session(tmp_path / "c", retention=Retention(2, keep_every_steps=3))
    session.train(1, 7)

    assert [f"step-0000000{step}.i000" for step in (3, 6, 7)] == names(tmp_path / "c")
    assert all(path.stat().st_mode & 0o077 == 0 for path in [tmp_path / "c", *(tmp_path / "c").rglob("*")])


def test_directory_without_commit_record_does_not_exist(tmp_path: Path) -> None:
    """A save that was cut off before its commit record is not restored, and its remains are removed at the next start."""
    Session(tmp_path).train(1, 2)
    (tmp_path / "step-00000002.i000" / "commit.json").unlink()
    session = Session(tmp_path)

    assert 1 == session.checkpointer.restore()
    assert ["step-00000001.i000"] == names(tmp_path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit in the tensors": lambda folder: flip_tensor(folder, 7),
    "a bit in the rank's state": lambda folder: flip(folder / "rank-00000.json", 50),
    "a bit in the manifest": lambda folder: flip(folder / "manifest.json", 50),
    "a torn commit record": lambda folder: (folder / "commit.json").write_text('{"version": 1, "st'),
    "a missing file": lambda folder: (folder / "__0_0.distcp").unlink(),
    "a short file": lambda folder: os.truncate(folder / "__0_0.distcp", 10),
    "a file that others can write": lambda folder: (folder / ".metadata").chmod(0o666),
    "a directory that others can write": lambda folder: folder.chmod(0o777),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, what: str) -> None:
    """Whatever is wrong with the newest checkpoint, the one before it is restored, and an event says why."""
    writer = Session(tmp_path)
    writer.train(1, 1)
    expected = writer.weights()
    writer.train(2, 2)
    DAMAGE[what](tmp_path / "step-00000002.i000")
    session = Session(tmp_path)

    assert 1 == session.checkpointer.restore()
    assert expected == session.weights()
    assert ["checkpoint.skipped", "checkpoint.restored"] == session.kinds()
    assert session.events[0][1].startswith("step-00000002.i000 is passed over: ")


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    """If none can be used, training does not silently begin again: the error gives every reason."""
    Session(tmp_path).train(1, 2)
    for step in (1, 2):
        flip_tensor(tmp_path / f"step-0000000{step}.i000", 3)

    with pytest.raises(CheckpointError, match=r"2 checkpoints and none can be used: .*i000: .*damaged.*i000: .*damaged"):
        Session(tmp_path).checkpointer.restore()


def test_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Who can write the root could swap checkpoints; nothing in it is opened."""
    Session(tmp_path / "c").train(1, 1)
    session = Session(tmp_path / "c")
    (tmp_path / "c").chmod(0o770)

    with pytest.raises(CheckpointError, match="can be written by others"):
        session.checkpointer.restore()


def test_other_model_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    """A checkpoint of another shape is an error that names the tensor, and the model stays as it was."""
    Session(tmp_path).train(1, 1)
    session = Session(tmp_path)
    wider = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    before = [parameter.tolist() for parameter in wider.parameters()]
    session.checkpointer.register(model=wider, optimizer=torch.optim.AdamW(wider.parameters()))

    with pytest.raises(CheckpointError, match=r"model\.0\.weight has shape \(8, 4\), the checkpoint's has \(4, 4\)"):
        session.checkpointer.restore()
    assert before == [parameter.tolist() for parameter in wider.parameters()]


def test_older_incarnation_is_fenced(tmp_path: Path) -> None:
    """Once a newer incarnation has claimed the directory, an old writer neither commits nor prunes: it ends."""
    old = Session(tmp_path, incarnation=1, retention=Retention(1))
    old.train(1, 1)
    Session(tmp_path, incarnation=2)

    with pytest.raises(CheckpointError, match="incarnation 2 has taken over"):
        old.train(2, 2)
    assert ["step-00000001.i001"] == names(tmp_path)
    with pytest.raises(CheckpointError, match="incarnation 2 has taken over"):
        Session(tmp_path, incarnation=1)


def test_fence_holds_up_to_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is overtaken while it writes its tensors does not commit them."""
    old = Session(tmp_path, incarnation=1)
    original = tier_shared.SharedTier.write_file

    def overtaken(self: Any, name: Any, file: str, data: bytes) -> Any:
        entry = original(self, name, file, data)
        Session(tmp_path, incarnation=2)
        return entry

    monkeypatch.setattr(tier_shared.SharedTier, "write_file", overtaken)
    with pytest.raises(CheckpointError, match="incarnation 2 has taken over"):
        old.train(1, 1)
    assert not list(tmp_path.glob("step-*/commit.json"))


def test_starts_are_counted_where_nobody_else_does(tmp_path: Path) -> None:
    """Without an agent each start takes the next incarnation."""
    assert [0, 1, 2] == [Session(tmp_path).checkpointer.incarnation for _ in range(3)]


def test_failed_save_does_not_fail_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs the checkpoint and nothing else: an event, no remains, and another try at the next step."""
    session = Session(tmp_path, schedule=TierSchedule(every_steps=2))
    session.train(1, 2)

    def no_space(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "f")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_space)
        session.train(3, 4)
    failed = names(tmp_path)
    session.train(5, 5)  # not a multiple of 2: this is the retry

    assert ["checkpoint.saved", "checkpoint.failed", "checkpoint.saved"] == session.kinds()
    assert "No space left on device" in session.events[1][1]
    assert ["step-00000002.i000"] == failed
    assert ["step-00000002.i000", "step-00000005.i000"] == names(tmp_path)


def test_state_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    """An object that would need pickle fails the save with its name, not the training."""
    session = Session(tmp_path)
    session.counter.value = object()

    result = session.checkpointer.save_now("test", step=1)

    assert "counter.value is a object" in result.error
    assert [] == names(tmp_path)


def test_time_schedule_uses_the_clock(tmp_path: Path) -> None:
    """By time, a step is saved once the interval has passed since the last save."""
    session = Session(tmp_path, schedule=TierSchedule(every_s=60))
    session.train(1, 1)
    session.clock.advance(60)
    session.train(2, 3)

    assert ["step-00000002.i000"] == names(tmp_path)


def test_same_step_is_saved_once(tmp_path: Path) -> None:
    """Asking again for a step that is saved, or was restored, does nothing and says that it is safe."""
    session = Session(tmp_path)
    session.train(1, 1)
    stamp = (tmp_path / "step-00000001.i000" / "commit.json").stat().st_mtime_ns

    assert session.checkpointer.save_now("again").ok
    assert stamp == (tmp_path / "step-00000001.i000" / "commit.json").stat().st_mtime_ns


def test_commit_record_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the commit record is written, every other file is there, whole, and already flushed."""
    order: list[str] = []
    original = os.fsync

    def spy(handle: int) -> None:
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        original(handle)

    monkeypatch.setattr(os, "fsync", spy)
    Session(tmp_path).train(1, 1)

    place = next(index for index, name in enumerate(order) if name.startswith(".commit.json"))
    before = order[:place]
    for part in ("__0_0.distcp", ".metadata", "manifest.json", "rank-00000.json", "step-00000001.i000", tmp_path.name):
        assert any(name.startswith((part, f".{part}")) for name in before), (part, order)


def test_stock_torch_reads_the_tensors(tmp_path: Path) -> None:
    """PyTorch's own dcp.load reads model and optimizer tensors without any code of ours."""
    import torch.distributed.checkpoint as dcp

    session = Session(tmp_path)
    session.train(1, 2)
    empty = {f"model.{name}": torch.zeros_like(value) for name, value in session.model.state_dict().items()}
    empty["optimizer.state.0.weight.exp_avg"] = torch.zeros(4, 4)
    dcp.load(empty, checkpoint_id=tmp_path / "step-00000002.i000")

    for name, value in session.model.state_dict().items():
        assert torch.equal(value, empty[f"model.{name}"])
    state = session.optimizer.state[session.model[0].weight]
    assert torch.equal(state["exp_avg"], empty["optimizer.state.0.weight.exp_avg"])


def test_odd_tensors_survive(tmp_path: Path) -> None:
    """Empty, 0-dim, bf16, complex and bool tensors in a state of the user's own come back bit for bit."""
    session = Session(tmp_path)
    session.counter.value = odd = {
        "empty": torch.empty(0, 3), "scalar": torch.tensor(7), "bf16": torch.tensor([1.5, -0.0]).bfloat16(),
        "complex": torch.tensor([1 + 2j]), "bool": torch.tensor([True, False]), "list": [torch.ones(2), (3, "x")],
    }
    session.checkpointer.save_now("test", step=1)
    restored = Session(tmp_path)
    restored.checkpointer.restore()

    back = restored.counter.value
    assert {name: (value.dtype, value.shape) for name, value in odd.items() if name != "list"} == {
        name: (value.dtype, value.shape) for name, value in back.items() if name != "list"
    }
    assert all(torch.equal(value, back[name]) for name, value in odd.items() if name != "list")
    assert torch.equal(odd["list"][0], back["list"][0])
    assert (3, "x") == back["list"][1]


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    """Two names of one tensor are still one tensor after a restore."""

    def tied() -> Any:
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    first, session = tied(), Session(tmp_path)
    session.checkpointer.register(model=first, optimizer=torch.optim.AdamW(first.parameters()))
    session.checkpointer.save_now("test", step=1)
    second, session = tied(), Session(tmp_path)
    session.checkpointer.register(model=second, optimizer=torch.optim.AdamW(second.parameters()))
    session.checkpointer.restore()

    assert second["a"].weight is second["b"].weight
    assert torch.equal(first["a"].weight, second["b"].weight)


def test_register_refuses_what_has_no_state(tmp_path: Path) -> None:
    """An object without state_dict is refused when it is registered, not when it is saved."""
    session = Session(tmp_path)

    with pytest.raises(TypeError, match=r"register\(data=\.\.\.\): a list has no state_dict"):
        session.checkpointer.register(data=[])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs model"):
        session.checkpointer.register(optimizer=session.optimizer)


def test_record_explains_itself(tmp_path: Path) -> None:
    """The commit record says step, incarnation, why it was saved and by how many ranks."""
    Session(tmp_path, world={"parallelism": "ddp"}).train(1, 1)
    record = json.loads((tmp_path / "step-00000001.i000" / "commit.json").read_text())

    assert (1, 0, "every step") == (record["step"], record["incarnation"], record["reason"])
    assert {"world_size": 1, "parallelism": "ddp", "run": {"failures": 0, "seconds": 0.0}} == record["world"]


def flip_tensor(folder: Path, byte: int) -> None:
    """Change one bit of a weight."""
    table = Manifest.from_bytes((folder / "manifest.json").read_bytes()).table()
    stored = table["model.0.weight"][0]
    flip(folder / stored.file, stored.offset_bytes + byte)


def test_damaged_index_costs_nothing(tmp_path: Path) -> None:
    """Our restore opens no pickle, so DCP's own index may be broken; a look at every byte finds it."""
    Session(tmp_path).train(1, 2)
    flip(tmp_path / "step-00000002.i000" / ".metadata", 50)
    session = Session(tmp_path)

    assert 2 == session.checkpointer.restore()
    assert catalogue.verify(SharedTier(tmp_path), CheckpointName(0, 2)).problems


def flip(path: Path, offset: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_relative_directory_is_the_same_for_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is told where the directory is, not how it is reached from the training's own working directory."""
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "here" == Checkpointer(CheckpointConfig(Path("here"))).config.root


def test_events_are_printed_where_nobody_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program without an event log reads on its standard error what was saved, and what was restored from where."""
    for _ in range(2):
        checkpointer = Checkpointer(CheckpointConfig(tmp_path, TierSchedule(every_steps=1)))
        checkpointer.register(counter=Counter())
        checkpointer.step(checkpointer.restore() + 1)
        checkpointer.close()
    told = capsys.readouterr().err.splitlines()

    assert told[0].startswith("checkpoint.saved: step-00000001.i000 ")
    assert told[1].startswith("checkpoint.restored: step 1 from shared")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused_at_once(tmp_path: Path) -> None:
    """What a restore would not trust is not saved in the first place, and that user's directory stays as it is."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    os.chown(tmp_path / "theirs", 1234, -1)
    with pytest.raises(StorageError, match="belongs to user id 1234"):
        Checkpointer(CheckpointConfig(tmp_path / "theirs"))
    assert 0o777 == (tmp_path / "theirs").stat().st_mode & 0o777
