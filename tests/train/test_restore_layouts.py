"""Sharded training on 4 real ranks: FSDP2, HSDP and FSDP2 over TP come back exactly, and in other layouts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.train.ranks import WarmRanks, logs

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

LAYOUTS = ("fsdp", "hsdp", "fsdp-tp", "ddp")


def build(layout: str, steps: int) -> tuple[Any, Any]:
    """A model in a layout and its optimizer, after some steps; the same numbers in every layout before the first."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 7))
    world = dist.get_world_size()
    if layout == "fsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    elif layout == "hsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("replicate", "shard")))
    elif layout == "fsdp-tp":
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["dp"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.randn(3, 6)).square().sum().backward()
        if layout == "ddp":
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad, op=dist.ReduceOp.SUM)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(model: Any, optimizer: Any) -> dict[str, Any]:
    """Every parameter and every state of the optimizer, not sharded."""
    found = {}
    for name, parameter in model.named_parameters():
        values = {"": parameter, **{f".{key}": value for key, value in optimizer.state[parameter].items()}}
        for key, value in values.items():
            full = value.full_tensor() if hasattr(value, "full_tensor") else value
            found[name + key] = full.detach().clone()
    return found


def main(arguments: list[str]) -> int:
    """Save in one layout, restore it in each: the values are those that were saved."""
    del arguments
    import torch.distributed as dist

    from hpctrain.checkpoint import CheckpointConfig, Checkpointer

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    run_dir, rank = Path(os.environ["HPCTRAIN_RUN_DIR"]), dist.get_rank()
    saving = os.environ["TEST_PHASE"] == "save"
    for saved in LAYOUTS:
        checkpointer = Checkpointer(CheckpointConfig(run_dir / saved))
        if saving:
            model, optimizer = build(saved, 2)
            checkpointer.register(model=model, optimizer=optimizer)
            assert checkpointer.save_now("test", step=2).ok
            values = whole(model, optimizer)
            if rank == 0:
                torch.save(values, run_dir / f"{saved}.pt")
            continue
        expected = torch.load(run_dir / f"{saved}.pt")
        for layout in LAYOUTS:
            model, optimizer = build(layout, 0)
            again = Checkpointer(CheckpointConfig(run_dir / saved))
            again.register(model=model, optimizer=optimizer)
            assert again.restore() == 2
            values = whole(model, optimizer)
            assert expected.keys() == values.keys()
            for name, value in expected.items():
                assert torch.equal(value, values[name]), (saved, layout, name)
    dist.barrier()
    return 0


@pytest.mark.slow
def test_every_layout_comes_back_in_every_other(trainers: WarmRanks, tmp_path: Path) -> None:
    """What 4 ranks saved in four layouts, also on a mesh of two dimensions with tensor parallelism, is restored in all four,
    on 4 ranks and on 2.
    """
    run = tmp_path / "run"
    for phase, ranks in (("save", 4), ("restore", 4), ("restore", 2)):
        codes = trainers.finish(run, {}, ranks, target="tests.train.test_restore_layouts:main", TEST_PHASE=phase)
        assert [0] * ranks == codes, logs(run)
