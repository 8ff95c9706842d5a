"""How long it takes to save and to load one state: hpctrain's checkpoints, DCP, torch.save and safetensors (entry point).

    python benchmarks/checkpoint.py [--short] [--gib 0.25 1] [--rounds 10]

One process, no GPU. The state is many small and a few large tensors; it changes before every round. All save durably: the
files are flushed and nothing half-written can be taken for a checkpoint; each removes its previous one within its time. All
load into the same tensors that are there. *Cold*: the files' pages are dropped from memory first (as far as the kernel
agrees); *warm*: they are read once before. After every load all bytes are compared with what was saved.

What they do is not the same: hpctrain hashes what it saves and verifies all of it when it loads; the others do neither.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import safetensors.torch  # noqa: E402 - the path is set above
import torch  # noqa: E402
from measure import machine, summarise, table  # noqa: E402
from torch.distributed.checkpoint.filesystem import FileSystemWriter  # noqa: E402
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load  # noqa: E402
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save  # noqa: E402

from hpctrain.checkpoint import CheckpointConfig, Checkpointer  # noqa: E402
from hpctrain.checkpoint.retention import Retention  # noqa: E402

Tensors = dict[str, torch.Tensor]
BASELINE = "DCP"


class Way(Protocol):
    """One way to save and load."""

    def save(self, tensors: Tensors) -> None:
        """Return when it is on disk, and the save before it is gone."""

    def load(self, targets: Tensors) -> None:
        """Fill the targets."""

    def files(self) -> Iterator[Path]:
        """Everything that was saved."""


class Hpctrain:
    """Our checkpointer, as a training loop uses it."""

    def __init__(self, place: Path, tensors: Tensors) -> None:
        self._root, self._held, self._step = place / "hpctrain", Held(tensors), 0
        self._checkpointer = Checkpointer(CheckpointConfig(self._root, retention=Retention(keep_last=1)))
        self._checkpointer.register(state=self._held)

    def save(self, tensors: Tensors) -> None:
        """One checkpoint; the one before is pruned."""
        self._held.tensors = tensors
        self._step += 1
        if not (result := self._checkpointer.save_now(self._step, "benchmark")).ok:
            sys.exit(f"hpctrain did not save: {result.error}")

    def load(self, targets: Tensors) -> None:
        """Restore the newest."""
        self._held.tensors = targets
        if self._checkpointer.restore() != self._step:
            sys.exit("hpctrain did not restore what it saved")

    def files(self) -> Iterator[Path]:
        """All files of the newest checkpoint."""
        return (path for path in self._root.rglob("*") if path.is_file())


class Held:
    """Something with a state: tensors, and nothing else."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, Any]:
        """The tensors."""
        return dict(self.tensors)

    def load_state_dict(self, state_dict: Any) -> None:
        """Nothing is left to do: they were filled in place."""


class Dcp:
    """PyTorch's distributed checkpoint; it flushes its files by itself."""

    def __init__(self, place: Path, threads: int) -> None:
        self._place, self._threads, self._number = place / f"dcp-{threads}", threads, 0

    def save(self, tensors: Tensors) -> None:
        """A new directory, then the old one goes."""
        self._number += 1
        writer = FileSystemWriter(self._folder(self._number), thread_count=self._threads)
        dcp_save(dict(tensors), storage_writer=writer, no_dist=True)
        shutil.rmtree(self._folder(self._number - 1), ignore_errors=True)

    def load(self, targets: Tensors) -> None:
        """In place."""
        dcp_load(dict(targets), checkpoint_id=self._folder(self._number), no_dist=True)

    def files(self) -> Iterator[Path]:
        """All files of the newest directory."""
        return self._folder(self._number).iterdir()

    def _folder(self, number: int) -> Path:
        return self._place / str(number)


class OneFile:
    """A format that is one file, made durable as a careful user would: flush, rename."""

    def __init__(self, path: Path, write: Callable[[Tensors, Path], Any], read: Callable[[Path], Mapping[str, Any]]) -> None:
        self._path, self._write, self._read = path, write, read

    def save(self, tensors: Tensors) -> None:
        """Write beside the old file, then replace it."""
        draft = self._path.with_suffix(".new")
        self._write(tensors, draft)
        for place in (draft, self._path.parent):
            handle = os.open(place, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        draft.replace(self._path)

    def load(self, targets: Tensors) -> None:
        """Read all, then copy."""
        for name, value in self._read(self._path).items():
            targets[name].copy_(value)

    def files(self) -> Iterator[Path]:
        """The file."""
        yield self._path


def make_state(size_bytes: int) -> Tensors:
    """Ten large float32 tensors with nine tenths of the bytes, and 300 small ones."""
    large, small = size_bytes * 9 // 10 // 10 // 4, size_bytes // 10 // 300 // 4
    state = {f"large.{number}.weight": torch.randn(large // 1024, 1024) for number in range(10)}
    return state | {f"small.{number}.bias": torch.randn(max(small, 1)) for number in range(300)}


def make_ways(place: Path, tensors: Tensors) -> dict[str, Way]:
    """All that take part."""
    return {
        "hpctrain": Hpctrain(place, tensors),
        BASELINE: Dcp(place, 1),
        "DCP, 2 threads": Dcp(place, 2),
        "torch.save, fsync": OneFile(place / "torch", torch.save, lambda path: torch.load(path, weights_only=True)),
        "safetensors, fsync": OneFile(place / "safetensors", safetensors.torch.save_file, safetensors.torch.load_file),
    }


def measure(size_bytes: int, rounds: int, place: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of every case in every round, for saving, cold and warm loading; the first round is not counted."""
    state = make_state(size_bytes)
    targets = {name: torch.zeros_like(value) for name, value in state.items()}
    ways = make_ways(place, state)
    seconds: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in ways} for what in ("save", "load, cold", "load, warm")
    }
    chance = random.Random(0)
    for turn in range(-1, rounds):
        for value in state.values():
            value.mul_(1.001)
        names = chance.sample(list(ways), len(ways))  # who follows whom matters to a disk
        for name in names:
            os.sync()  # nobody pays for what the one before has left to the kernel
            record(seconds["save"][name], turn, lambda name=name: ways[name].save(state))  # type: ignore[misc]
        for name in names:
            drop_from_memory(ways[name])
            for what in ("load, cold", "load, warm"):
                for target in targets.values():
                    target.zero_()
                record(seconds[what][name], turn, lambda name=name: ways[name].load(targets))  # type: ignore[misc]
                if not all(torch.equal(state[key], targets[key]) for key in state):
                    sys.exit(f"{name} did not load what it saved")
    return seconds


def record(seconds: list[float], turn: int, work: Callable[[], None]) -> None:
    """Time one piece of work."""
    begun = time.perf_counter()
    work()
    if turn >= 0:
        seconds.append(time.perf_counter() - begun)


def drop_from_memory(way: Way) -> None:
    """Ask the kernel to forget the pages of the files."""
    for path in way.files():
        handle = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Compare hpctrain's checkpoints with others.")
    parser.add_argument("--short", action="store_true", help="2 rounds of 8 MiB, to see that it works")
    parser.add_argument("--gib", type=float, nargs="+", default=[0.25, 1.0], help="sizes of the state")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dir", type=Path, default=None, help="where to write; default: the temporary directory")
    options = parser.parse_args()
    sizes, rounds = ([1 / 128], 2) if options.short else (options.gib, options.rounds)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    print(f"{machine()}; torch {torch.__version__}, safetensors {safetensors.__version__}")
    for gib in sizes:
        place = Path(tempfile.mkdtemp(prefix="hpct-bench-", dir=options.dir))
        try:
            for what, seconds in measure(int(gib * 2**30), rounds, place).items():
                print(f"\n{what}, {gib:g} GiB\n\n{table(summarise(seconds, BASELINE), BASELINE)}", flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
