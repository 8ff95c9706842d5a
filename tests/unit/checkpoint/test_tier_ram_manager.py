"""The Checkpointer with its RAM tier, a keeper and a writer: what a training loop sees of them."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from hpctrain.checkpoint.commit import FencedError  # noqa: E402
from hpctrain.checkpoint.config import CheckpointConfig, RamConfig  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint.keeper_client import make_secret, start_keeper, start_writer  # noqa: E402
from hpctrain.checkpoint.manager import Checkpointer  # noqa: E402
from hpctrain.checkpoint.retention import KeepBest, Retention  # noqa: E402
from hpctrain.checkpoint.schedule import TierSchedule  # noqa: E402
from hpctrain.errors import UsageError  # noqa: E402
from hpctrain.files import write_atomic  # noqa: E402

EVERY_STEP = RamConfig(TierSchedule(every_steps=1))


class Position:
    """Registered data that can skip."""

    def __init__(self) -> None:
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.at = state_dict["at"]

    def skip(self, count: int) -> None:
        self.at += count


class Session:
    """A model in training whose checkpoints go to memory at every step, and to disk every ``durable`` steps."""

    def __init__(self, root: Path, durable: int = 100, **config: Any) -> None:
        torch.manual_seed(0)
        self.events: list[tuple[str, str]] = []
        self.root = root
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        self.model[1].weight = self.model[0].weight  # tied
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.data = Position()
        options = {"ram": EVERY_STEP, **config}
        self.checkpointer = Checkpointer(
            CheckpointConfig(root, TierSchedule(every_steps=durable), **options), notify=self._note)
        self.checkpointer.register(model=self.model, optimizer=self.optimizer, data=self.data, rng=True)

    def _note(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        self.events.append((kind, reason))

    def train(self, first: int, last: int, metrics: Callable[[int], dict[str, float]] | None = None) -> None:
        for step in range(first, last + 1):
            self.model(torch.randn(3, 4)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.data.at = step
            self.checkpointer.step(step, metrics(step) if metrics else None)

    def until(self, kind: str, first: int) -> int:
        """Train until an event of a kind comes; the last step."""
        deadline = time.monotonic() + 60
        before = self.kinds().count(kind)
        while self.kinds().count(kind) == before:
            assert time.monotonic() < deadline, self.events
            self.train(first, first)
            first += 1
            time.sleep(0.01)
        return first - 1

    def state(self) -> list[Any]:
        return [copy.deepcopy(value.tolist()) for value in self.model.state_dict().values()]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events if kind != "checkpoint.schedule"]

    def on_disk(self) -> list[int]:
        return sorted(int(path.parent.name[5:13]) for path in self.root.glob("step-*/commit.json"))


class Agent:
    """Stands for the node's agent: holds a keeper and a writer, and says so in the environment."""

    def __init__(self, folder: Path) -> None:
        self.secret = make_secret()
        self.secret_file = folder / "keeper.secret"
        write_atomic(self.secret_file, self.secret.hex() + "\n")
        self.secret_file.chmod(0o600)
        self.start()

    def start(self) -> None:
        self.keeper = start_keeper(self.secret, until_pid=os.getpid())
        self.writer = start_writer(self.secret)

    def kill(self, child: Any) -> None:
        child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("agent"))
    monkeypatch.setenv("HPCTRAIN_KEEPER_SECRET_FILE", str(running.secret_file))
    monkeypatch.delenv("HPCTRAIN_NODE", raising=False)
    yield running
    for child in (running.writer, running.keeper):
        process.kill_group(child)
        child.wait()


def test_training_continues_from_memory(agent: Agent, tmp_path: Path) -> None:
    """A new start continues from the newest step in memory, exactly, though the newest on disk is older."""
    straight = Session(tmp_path / "a", ram=None)
    straight.train(1, 8)
    first = Session(tmp_path / "b", durable=3)
    first.train(1, 5)
    second = Session(tmp_path / "b", durable=3)

    assert 5 == second.checkpointer.restore()
    assert second.events[-1][0] == "checkpoint.restored" and "step 5 from ram" in second.events[-1][1]
    second.train(6, 8)
    assert straight.state() == second.state()
    assert second.model[0].weight is second.model[1].weight


def test_writer_makes_durable_what_is_due(agent: Agent, tmp_path: Path) -> None:
    """A step that is due on disk is written there by the writer, told of once, and found by a start without memory."""
    session = Session(tmp_path, durable=4)
    session.train(1, 4)
    expected = session.state()
    session.until("checkpoint.saved", 5)
    session.checkpointer.close(flush=False)

    assert 4 in session.on_disk()
    assert ("checkpoint.saved", "step-00000004.i000 (every 4 steps)") in session.events
    cold = Session(tmp_path, ram=None)
    assert 4 == cold.checkpointer.restore(before=5)
    assert expected == cold.state()


def test_save_on_request_is_durable_when_it_returns(agent: Agent, tmp_path: Path) -> None:
    """save_now and a stop wait until the writer has committed; a step that only memory held counts as not saved."""
    Session(tmp_path).train(1, 2)
    second = Session(tmp_path)
    assert 2 == second.checkpointer.restore()
    assert second.checkpointer.save_now("to be sure").ok
    assert [2] == second.on_disk()
    second.train(3, 3)
    stopped = second.checkpointer.step(3, stopping=True)
    assert stopped is not None and stopped.ok
    assert [2, 3] == second.on_disk()
    assert ["checkpoint.restored", "checkpoint.saved", "checkpoint.saved"] == second.kinds()
    assert "stop was requested" == json.loads((tmp_path / "step-00000003.i001" / "commit.json").read_text())["reason"]


def test_close_keeps_what_only_memory_held(agent: Agent, tmp_path: Path) -> None:
    """A run that ends in order leaves its newest step on disk."""
    session = Session(tmp_path)
    session.train(1, 7)
    session.checkpointer.close()
    assert [7] == session.on_disk()


def test_without_writer_training_writes_itself(agent: Agent, tmp_path: Path) -> None:
    """When no writer takes the order, a save that was asked for is written by training, and an event says why."""
    agent.kill(agent.writer)
    session = Session(tmp_path, patience_s=0.5)
    session.train(1, 2)
    assert session.checkpointer.save_now("test").ok
    assert [2] == session.on_disk()
    assert ["checkpoint.degraded", "checkpoint.saved"] == session.kinds()
    assert "training waits while step 2 is written, because the writer has not finished after 0.5 s" == session.events[0][1]


def test_order_outlives_its_writer(agent: Agent, tmp_path: Path) -> None:
    """While there is no writer training goes on; the next one takes the orders up, with what memory holds by then."""
    agent.kill(agent.writer)
    session = Session(tmp_path, durable=2)
    session.train(1, 2)
    agent.writer = start_writer(agent.secret)
    last = session.until("checkpoint.saved", 3)
    assert 0 < max(session.on_disk()) <= last
    assert "checkpoint.failed" not in session.kinds()


def test_killed_keeper_degrades_and_comes_back(agent: Agent, tmp_path: Path) -> None:
    """When the keeper dies, training goes on, says so once, and writes what is due itself; a new keeper is used again."""
    session = Session(tmp_path, durable=5)
    session.train(1, 3)
    agent.kill(agent.keeper)
    session.train(4, 6)
    assert [5] == session.on_disk()
    assert 1 == session.kinds().count("checkpoint.degraded")
    agent.start()
    last = session.until("checkpoint.recovered", 7)
    session.train(last + 1, last + 2)
    expected = session.state()
    second = Session(tmp_path)
    assert last + 2 == second.checkpointer.restore()
    assert expected == second.state()


def test_memory_that_is_not_there_is_refused_with_arithmetic(agent: Agent, tmp_path: Path) -> None:
    """A state that does not fit into the node's memory is not copied there: the event has the numbers, training goes on."""
    total = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1])
    session = Session(tmp_path)
    huge = torch.empty(int(total * 1024 * 0.97), dtype=torch.uint8)  # never touched, so it takes no memory
    state = Position()
    state.state_dict = lambda: {"huge": huge}  # type: ignore[method-assign,dict-item,return-value]
    session.checkpointer.register(huge=state)
    session.train(1, 3)
    assert ["checkpoint.degraded"] == session.kinds()
    assert "kept free" in session.events[0][1] and "GiB left of" in session.events[0][1]


def test_run_counts_its_failures(agent: Agent, tmp_path: Path) -> None:
    """Each start that was not stopped in order is one more failure in what later checkpoints say of the run."""
    for start in range(3):
        session = Session(tmp_path)
        step = session.checkpointer.restore()
        session.train(step + 1, step + 1)
        assert session.checkpointer.save_now("test").ok
        record = json.loads((tmp_path / f"step-{step + 1:08d}.i{start:03d}" / "commit.json").read_text())
        assert start == record["world"]["run"]["failures"]


def test_rewind_skips_data(agent: Agent, tmp_path: Path) -> None:
    """restore(before=, skip_data=) continues before a step with data moved on, and what was newer never comes back."""
    first = Session(tmp_path, ram=RamConfig(TierSchedule(every_steps=1), history=3))
    first.train(1, 6)
    second = Session(tmp_path, ram=RamConfig(TierSchedule(every_steps=1), history=3))
    assert 4 == second.checkpointer.restore(before=5, skip_data=10)
    assert 14 == second.data.at
    third = Session(tmp_path, ram=RamConfig(TierSchedule(every_steps=1), history=3))
    assert 4 == third.checkpointer.restore()


def test_data_that_cannot_skip_is_an_error_before_anything_is_touched(tmp_path: Path) -> None:
    """skip_data needs registered data with skip(n); the message says so."""
    session = Session(tmp_path, ram=None)
    session.checkpointer.register(data=torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match=r"a Linear has no skip\(n\)"):
        session.checkpointer.restore(skip_data=3)


def test_best_checkpoint_stays(agent: Agent, tmp_path: Path) -> None:
    """The metric that a step was given decides what the writer keeps, and stands in the commit record."""
    losses = {2: 5.0, 4: 1.0, 6: 3.0, 8: 4.0, 10: 2.0}
    session = Session(tmp_path, durable=2, retention=Retention(1, keep_best=KeepBest("loss")))
    for step in range(1, 11):
        session.train(step, step, lambda at: {"loss": losses[at]} if at in losses else {})
        if step in losses:
            assert session.checkpointer.save_now("checked").ok
    deadline = time.monotonic() + 60
    while session.on_disk() != [4, 10]:  # the writer commits first, and removes the old ones then
        assert time.monotonic() < deadline, session.on_disk()
        time.sleep(0.02)
    record = json.loads((tmp_path / "step-00000004.i000" / "commit.json").read_text())
    assert {"loss": 1.0} == record["world"]["metrics"]


def test_old_start_must_end(agent: Agent, tmp_path: Path) -> None:
    """A start that was overtaken is told to end by the next copy into memory, not only by the next write to disk."""
    first, second = Session(tmp_path), Session(tmp_path)
    second.checkpointer.restore()
    second.train(1, 1)
    with pytest.raises(FencedError, match="has taken over"):
        first.train(1, 1)


def test_unusable_secret_means_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no usable keeper degrades the tier at the start; training and disk are not touched by it."""
    monkeypatch.setenv("HPCTRAIN_KEEPER_SECRET_FILE", str(tmp_path / "missing"))
    session = Session(tmp_path, durable=1)
    session.train(1, 2)
    assert ["checkpoint.degraded", "checkpoint.saved", "checkpoint.saved"] == session.kinds()
    assert "training waits while the shared tier is written" in session.events[0][1]
