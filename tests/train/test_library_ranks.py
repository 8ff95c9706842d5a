"""Four real ranks with all that the library starts by itself: killed ranks, a killed keeper, and the bytes at the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from tests.train.ranks import RANKS, Start, WarmRanks, logs  # noqa: E402 - after the checks that both are there

STEPS = 60


def trainer_main(_arguments: list[str]) -> int:
    """One rank of a sharded model in training, with the library's defaults of a laptop."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from hpctrain.checkpoint import CheckpointConfig, Checkpointer
    from hpctrain.checkpoint.config import RamConfig
    from hpctrain.checkpoint.schedule import TierSchedule

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    run_dir, rank = Path(os.environ["HPCTRAIN_RUN_DIR"]), dist.get_rank()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.Dropout(0.3), torch.nn.Linear(13, 5))
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    torch.manual_seed(rank)
    told = (run_dir / "told").open("a") if rank == 0 else None

    def notify(kind: str, reason: str, _step: int, _evidence: object) -> None:
        assert told is not None
        print(kind, reason, file=told, flush=True)

    checkpointer = Checkpointer(
        CheckpointConfig(run_dir / "checkpoints", TierSchedule(every_steps=10), ram=RamConfig(TierSchedule(every_steps=1))),
        notify=notify)
    checkpointer.register(model=model, optimizer=optimizer, rng=True)
    step = checkpointer.restore()
    while step < STEPS:
        model(torch.randn(3, 7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        checkpointer.step(step)
        (run_dir / f"done-{rank}").write_text(f"{step:<12}")
        time.sleep(0.02)
    checkpointer.close()
    weights = b"".join(bytes(p.to_local().detach().numpy().tobytes()) for p in model.parameters())  # type: ignore[attr-defined]
    (run_dir / f"weights-{rank}").write_bytes(weights)
    dist.destroy_process_group()
    return 0


class Laptop:
    """Runs of four ranks without any agent; keeper and writer are found by the secret that they serve."""

    def __init__(self, trainers: WarmRanks, run_dir: Path) -> None:
        self._trainers, self.run_dir = trainers, run_dir
        run_dir.mkdir(exist_ok=True)

    def start(self) -> Start:
        for path in self.run_dir.glob("done-*"):
            path.unlink()
        return self._trainers.start(self.run_dir, {}, target="tests.train.test_library_ranks:trainer_main",
                                    HPCTRAIN_NODE=f"laptop-{os.getpid()}-{self.run_dir.name}")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < deadline, f"{self.told()}\n{logs(self.run_dir)}"
            time.sleep(0.005)

    def reached(self, step: int) -> Callable[[], bool]:
        def check() -> bool:
            try:
                return int((self.run_dir / "done-0").read_text() or 0) >= step
            except (FileNotFoundError, ValueError):
                return False

        return check

    def told(self) -> str:
        path = self.run_dir / "told"
        return path.read_text() if path.exists() else ""

    def helpers(self) -> list[int]:
        """Processes that the ranks of this run have started: keeper and writer name the node in their arguments."""
        node = f"laptop-{os.getpid()}-{self.run_dir.name}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if node in words and any(word.startswith(b"hpctrain.checkpoint.") for word in words):
                found.append(int(path.parent.name))
        return found

    def kill_helpers(self) -> int:
        victims = self.helpers()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return len(victims)

    def weights(self) -> list[bytes]:
        return [(self.run_dir / f"weights-{rank}").read_bytes() for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_ranks_and_helpers_are_killed_and_nothing_is_lost(trainers: WarmRanks, tmp_path: Path) -> None:
    """All ranks are killed, then in the next start keeper and writer, then the ranks again: the end has the bytes of a run
    that nothing happened to, and the events say what happened.
    """
    straight, stormy = Laptop(trainers, tmp_path / "straight"), Laptop(trainers, tmp_path / "stormy")
    try:
        assert [0] * RANKS == straight.start().wait(), logs(straight.run_dir)

        first = stormy.start()
        stormy.until(stormy.reached(15))
        first.kill()
        first.wait()
        second = stormy.start()
        stormy.until(stormy.reached(25))
        assert 2 <= stormy.kill_helpers()
        stormy.until(stormy.reached(35))
        second.kill()
        second.wait()
        assert [0] * RANKS == stormy.start().wait(), logs(stormy.run_dir)

        assert straight.weights() == stormy.weights()
        told = stormy.told()
        assert "checkpoint.restored step 1" in told and "from ram" in told, told
        assert "checkpoint.degraded" in told, told
        assert (stormy.run_dir / "checkpoints" / f"step-{STEPS:08d}.i002" / "commit.json").exists(), told
    finally:
        straight.kill_helpers()
        stormy.kill_helpers()
