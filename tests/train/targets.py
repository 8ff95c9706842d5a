"""What ranks run in tests instead of the trainer; each function is one rank's program and returns its exit code."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any


def save_with_one_full_disk(args: list[str]) -> int:
    """Rank 2's disk is full in the second save; all ranks must agree that it failed, go on, and save again."""
    del args
    import torch.distributed as dist

    dist.init_process_group("gloo")
    from hpctrain.checkpoint import CheckpointConfig, Checkpointer
    from hpctrain.checkpoint.schedule import TierSchedule

    root = Path(os.environ["HPCTRAIN_RUN_DIR"]) / "checkpoints"
    checkpointer = Checkpointer(CheckpointConfig(root, TierSchedule(every_steps=2)))
    model = _sharded_model()
    checkpointer.register(model=model)
    fsync, results = os.fsync, []
    for step in range(1, 6):
        if step == 4 and dist.get_rank() == 2:
            os.fsync = _full  # type: ignore[assignment]
        results.append(checkpointer.step(step))
        os.fsync = fsync
    told = ["-" if result is None else ("saved" if result.ok else result.error) for result in results]
    print(told, flush=True)
    expected = ["-", "saved", "-", "rank 2: No space left on device", "saved"]
    return 0 if told == expected else 3


LAYOUTS = ("plain", "rows", "replicated-rows", "columns", "blocks")


def save_every_layout(args: list[str]) -> int:
    """Save one state in each layout, each under a directory of its own."""
    del args
    _connect()
    for layout in LAYOUTS:
        checkpointer = _checkpointer(layout)
        checkpointer.register(state=SomeTensors(layout, fill=True))
        if not checkpointer.save_now("test", step=1).ok:
            return 3
    return 0


def restore_every_layout_as_every_other(args: list[str]) -> int:
    """Restore each saved layout into each layout; values must be equal, and every byte read by one rank only."""
    del args
    import torch
    import torch.distributed as dist

    from hpctrain.checkpoint.shard_reader import ShardReader

    _connect()
    read, original = [0], ShardReader.read_into

    def counted(self: Any, stored: Any, target: memoryview) -> None:
        read[0] += stored.size_bytes
        original(self, stored, target)

    ShardReader.read_into = counted  # type: ignore[method-assign]
    expected = SomeTensors("plain", fill=True).tensors
    for saved in LAYOUTS:
        for layout in LAYOUTS:
            read[0] = 0
            state = SomeTensors(layout, fill=False)
            checkpointer = _checkpointer(saved)
            checkpointer.register(state=state)
            assert checkpointer.restore() == 1
            for name, tensor in state.tensors.items():
                whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
                assert torch.equal(whole, expected[name]), (saved, layout, name)
            total = torch.tensor(read[0])
            dist.all_reduce(total)
            assert int(total) == sum(tensor.nbytes for tensor in expected.values()), (saved, layout, int(total))
    return 0


class SomeTensors:
    """A state whose tensors lie on the ranks in one of the layouts; the same values in each."""

    def __init__(self, layout: str, *, fill: bool) -> None:
        import torch

        torch.manual_seed(1)
        shapes = {"even": (8, 12), "uneven": (7, 6), "fewer rows than ranks": (3, 5), "long": (50,), "empty": (0, 4)}
        values = {name: torch.randn(shape) for name, shape in shapes.items()}
        values["bf16"] = torch.randn(9, 4).bfloat16()
        self.tensors = {name: _lay_out(value if fill else torch.zeros_like(value), layout) for name, value in values.items()}
        self.tensors["scalar"] = torch.tensor(3.5 if fill else 0.0)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.tensors)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert set(state_dict) == set(self.tensors)  # which were filled in place


def _lay_out(value: Any, layout: str) -> Any:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    world, last = dist.get_world_size(), value.dim() - 1
    line = init_device_mesh("cpu", (world,))
    square = init_device_mesh("cpu", (world // 2, 2))
    if layout == "plain":
        return value
    placed: dict[str, tuple[Any, list[Any]]] = {
        "rows": (line, [Shard(0)]), "columns": (line, [Shard(last)]),
        "replicated-rows": (square, [Replicate(), Shard(0)]), "blocks": (square, [Shard(0), Shard(last)]),
    }
    mesh, placements = placed[layout]
    return distribute_tensor(value, mesh, placements)


def _connect() -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")


def _checkpointer(layout: str) -> Any:
    from hpctrain.checkpoint import CheckpointConfig, Checkpointer

    return Checkpointer(CheckpointConfig(Path(os.environ["HPCTRAIN_RUN_DIR"]) / layout))


def _sharded_model() -> Any:
    import torch
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Linear(16, 16)
    fully_shard(model)
    return model


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# ---------------------------------------------------------------- a loss that goes wrong


def train_on_poison(args: list[str]) -> int:
    """The trainer, in which each batch that holds one of TEST_POISON's samples (of the run's order) spoils loss and weights.

    What the loss becomes stands in TEST_POISON_LOSS. TEST_DIE_AT_STEP kills all ranks before that step.
    """
    import math
    import signal

    import torch

    from hpctrain.train import loop
    from hpctrain.train.__main__ import main

    poison = [int(word) for word in os.environ.get("TEST_POISON", "").split()]
    loss = float(os.environ.get("TEST_POISON_LOSS", "nan"))
    die_at, plain, steps = int(os.environ.get("TEST_DIE_AT_STEP", "0")), loop.train_step, [0]

    def spoilt(run: Any, rate: float) -> tuple[float, float]:
        begin = run.cursor.consumed
        steps[0] += 1
        if die_at == steps[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        loss_sum, norm = plain(run, rate)
        if any(begin <= sample < run.cursor.consumed for sample in poison):
            with torch.no_grad():
                for parameter in run.network.model.parameters():
                    parameter.fill_(math.nan)
            return loss * run.tokens_per_step / run.network.place.world_size, norm
        return loss_sum, norm

    loop.train_step = spoilt
    return main(args)


def train_and_leave_out(args: list[str]) -> int:
    """The trainer, in which TEST_LEAVE_OUT_TO samples are done with once so many steps are complete (TEST_LEAVE_OUT_AT)."""
    from hpctrain.train import loop
    from hpctrain.train.__main__ import main

    at, to, plain, steps = int(os.environ["TEST_LEAVE_OUT_AT"]), int(os.environ["TEST_LEAVE_OUT_TO"]), loop.train_step, [0]

    def leaping(run: Any, rate: float) -> tuple[float, float]:
        if steps[0] == at:
            run.cursor.skip(to - run.cursor.consumed)
        steps[0] += 1
        return plain(run, rate)

    loop.train_step = leaping
    return main(args)


def count_models_before_the_evaluation(args: list[str]) -> int:
    """The trainer; the models that are in memory when the new one is to be measured are counted in the run directory."""
    import gc

    from transformers import PreTrainedModel

    from hpctrain.train.__main__ import main
    from hpctrain.train.tune import engine

    def count(*_arguments: Any, **_options: Any) -> int:
        gc.collect()
        found = sorted(type(one).__name__ for one in gc.get_objects() if isinstance(one, PreTrainedModel))
        (Path(os.environ["HPCTRAIN_RUN_DIR"]) / "models").write_text(" ".join(found))
        return 0

    engine.evaluate_at_end = count
    return main(args)
