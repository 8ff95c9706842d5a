"""The Checkpointer with its RAM tier switched on: what a training loop sees of it."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.testing.fake_clock import FakeClock

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from hpctrain.checkpoint.commit import FencedError  # noqa: E402
from hpctrain.checkpoint.config import CheckpointConfig, RamConfig  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint.keeper_client import shared_secret, start_keeper  # noqa: E402
from hpctrain.checkpoint.manager import Checkpointer  # noqa: E402
from hpctrain.checkpoint.schedule import TierSchedule  # noqa: E402


class Session:
    """A model in training whose checkpoints go to memory at every step, and to disk every ``durable`` steps."""

    def __init__(self, root: Path, durable: int = 100) -> None:
        torch.manual_seed(0)
        self.events: list[tuple[str, str]] = []
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        self.model[1].weight = self.model[0].weight  # tied
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.clock = FakeClock()
        config = CheckpointConfig(root, TierSchedule(every_steps=durable), ram=RamConfig(TierSchedule(every_steps=1)))
        self.checkpointer = Checkpointer(config, clock=self.clock, notify=self._note)
        self.checkpointer.register(model=self.model, optimizer=self.optimizer, rng=True)

    def _note(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        self.events.append((kind, reason))

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.model(torch.randn(3, 4)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.checkpointer.step(step)
            self.clock.sleep(100)

    def state(self) -> list[Any]:
        return [copy.deepcopy(value.tolist()) for value in self.model.state_dict().values()]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


class Agent:
    """Stands for the node's agent: holds a keeper and says so in the environment."""

    def __init__(self, folder: Path) -> None:
        self.secret_file = folder / "keeper.secret"
        self.secret = shared_secret(self.secret_file)
        self.keeper = start_keeper(self.secret, until_pid=os.getpid())

    def kill(self) -> None:
        self.keeper.send_signal(signal.SIGKILL)
        self.keeper.wait()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    running = Agent(tmp_path)
    monkeypatch.setenv("HPCTRAIN_KEEPER_SECRET_FILE", str(running.secret_file))
    yield running
    process.kill_group(running.keeper)
    running.keeper.wait()


def test_training_continues_from_memory(agent: Agent, tmp_path: Path) -> None:
    """A new start continues from the newest step in memory, exactly, though the newest on disk is older."""
    straight = Session(tmp_path / "a")
    straight.train(1, 8)
    straight.checkpointer.close()
    agent.kill()
    agent.keeper = start_keeper(agent.secret, until_pid=os.getpid())
    first = Session(tmp_path / "b", durable=3)
    first.train(1, 5)
    second = Session(tmp_path / "b", durable=3)

    assert 5 == second.checkpointer.restore()
    assert second.events[-1] == ("checkpoint.restored", "step-00000005.i000 from memory, saved because every step")
    second.train(6, 8)
    assert straight.state() == second.state()
    assert second.model[0].weight is second.model[1].weight


def test_step_restored_from_memory_is_still_saved_on_request(agent: Agent, tmp_path: Path) -> None:
    """A step that only memory holds is not taken for one that is on disk."""
    Session(tmp_path).train(1, 2)
    second = Session(tmp_path)
    assert 2 == second.checkpointer.restore()
    assert second.checkpointer.save_now("to be sure").ok
    assert (tmp_path / "step-00000002.i001" / "commit.json").exists()


def test_without_memory_the_disk_is_enough(agent: Agent, tmp_path: Path) -> None:
    """When the keeper dies, training goes on and says so once; a restore takes what is on disk; then memory is back."""
    first = Session(tmp_path, durable=2)
    first.train(1, 3)
    agent.kill()
    first.train(4, 5)
    assert first.kinds() == ["checkpoint.saved", "checkpoint.degraded", "checkpoint.saved"]

    second = Session(tmp_path, durable=2)
    assert 4 == second.checkpointer.restore()
    second.train(5, 5)
    agent.keeper = start_keeper(agent.secret, until_pid=os.getpid())
    second.train(6, 8)
    assert "checkpoint.recovered" in second.kinds()
    assert 8 == Session(tmp_path).checkpointer.restore()


def test_damaged_memory_falls_back(agent: Agent, tmp_path: Path) -> None:
    """A bit that flipped in memory is noticed while loading: the same step is taken from disk, with the reason told."""
    first = Session(tmp_path, durable=4)
    first.train(1, 4)
    expected = first.state()
    first.train(5, 5)
    memory = Session(tmp_path).checkpointer._ram
    assert memory is not None
    for name in memory.complete_everywhere():
        opened, _ = memory.open(name)  # which waits until the keeper has hashed it
        assert opened is not None
        place = opened._parts[0].shards[0].offset_bytes
        opened.close()
    for path in Path(f"/proc/{agent.keeper.pid}/fd").iterdir():
        if "hpctrain-arena" in str(path.readlink()):
            handle = os.open(path, os.O_RDWR)
            os.pwrite(handle, bytes([os.pread(handle, 1, place)[0] ^ 1]), place)
            os.close(handle)
    third = Session(tmp_path)

    assert 4 == third.checkpointer.restore()
    assert ["checkpoint.skipped", "checkpoint.skipped", "checkpoint.restored"] == third.kinds()
    assert "the memory of rank 0 is damaged" in third.events[0][1]
    assert expected == third.state()


def test_old_start_must_end(agent: Agent, tmp_path: Path) -> None:
    """A start that was overtaken is told to end by the next copy into memory, not only by the next write to disk."""
    first, second = Session(tmp_path), Session(tmp_path)
    second.checkpointer.restore()
    with pytest.raises(FencedError, match="has taken over"):
        first.train(1, 1)


def test_unusable_secret_means_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no usable keeper degrades the tier at the start; training and disk are not touched by it."""
    (tmp_path / "secret").write_text("not hexadecimal")
    monkeypatch.setenv("HPCTRAIN_KEEPER_SECRET_FILE", str(tmp_path / "secret"))
    session = Session(tmp_path, durable=1)
    session.train(1, 2)
    assert ["checkpoint.degraded", "checkpoint.saved", "checkpoint.saved"] == session.kinds()
