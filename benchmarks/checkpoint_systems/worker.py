"""Measures one system, in a process of its own (entry point): ``python -m checkpoint_systems.worker SPEC.json RESULT.json``.

Tells on standard output what it is about to do (``phase NAME``), so that its parent can attribute the memory it sees.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from checkpoint_systems.interface import COMPLETE, System, drop_from_memory
from checkpoint_systems.state import Training, digests, make_state
from checkpoint_systems.usage import written_bytes

if TYPE_CHECKING:
    from checkpoint_systems.interface import Tensors

_POLL_S = 0.002
_LONGEST_S = 600.0


@dataclass
class Save:
    """Seconds from the call of one save; see ``docs/benchmarks.md``.

    Attributes:
        stall_s: the training thread stood still; with what makes it durable, where that is the training thread's work.
        complete_s: the system calls it finished.
        durable_s: finished and flushed.
        levels_s: until it was safe in memory, on a peer.
        steps_s: of the steps that began while the save was in work.
        written_bytes: sent to block devices.
    """

    stall_s: float
    complete_s: float
    durable_s: float
    levels_s: dict[str, float] = field(default_factory=dict)
    steps_s: list[float] = field(default_factory=list)
    written_bytes: int = 0


class Watch(threading.Thread):
    """Notes when a save that goes on in the background has got how far, and flushes what the system has not."""

    def __init__(self, system: System, started: float) -> None:
        super().__init__(daemon=True)
        self._system, self._begun = system, started
        self.reached_s: dict[str, float] = {}
        self.durable_s = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Until it is durable, and safe at all other levels too."""
        try:
            self._watch()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for us
            self.error = error

    def _watch(self) -> None:
        while missing := [level for level in self._system.levels if level not in self.reached_s]:
            for level in missing:
                if self._system.reached(level):
                    self.reached_s[level] = time.perf_counter() - self._begun
                    if level == COMPLETE:
                        self._system.make_durable()
                        self.durable_s = time.perf_counter() - self._begun
            if time.perf_counter() - self._begun > _LONGEST_S:
                raise TimeoutError(f"not {' and not '.join(missing)} after {_LONGEST_S:.0f} s")
            time.sleep(_POLL_S)


def save_once(system: System, number: int, state: Tensors, training: Training) -> Save:
    """One save, and the steps while it is in work."""
    os.sync()  # nobody pays for what others have left to the kernel
    before = written_bytes(os.getpid())
    started = time.perf_counter()
    system.save(number, state)
    returned_s = time.perf_counter() - started
    if system.is_async:
        save = _follow(system, started, returned_s, training)
    else:
        system.make_durable()
        durable_s = time.perf_counter() - started
        levels = {level: returned_s for level in system.levels if level != COMPLETE}
        save = Save(durable_s, returned_s, durable_s, levels)
    save.written_bytes = written_bytes(os.getpid()) - before
    return save


def _follow(system: System, started: float, stall_s: float, training: Training) -> Save:
    watch = Watch(system, started)
    watch.start()
    steps_s = []
    while watch.is_alive():
        steps_s.append(timed(training.step))
    watch.join()
    if watch.error is not None:
        raise watch.error
    complete_s = watch.reached_s.pop(COMPLETE)
    return Save(stall_s, complete_s, watch.durable_s, watch.reached_s, steps_s)


def timed(work: Any) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def restore_all(system: System, targets: Tensors, expected: dict[str, str]) -> dict[str, float]:
    """Seconds of a restore from every tier, with files that are not in the page cache (cold) and that are (hot).

    Raises:
        ValueError: one bit is not what was saved.
    """
    seconds = {}
    for tier in system.tiers:
        for heat in ("hot",) if tier in ("ram", "peer") else ("cold", "hot"):
            for target in targets.values():
                target.zero_()
            if heat == "cold":
                drop_from_memory(system.files())
            seconds[f"{tier}, {heat}"] = timed(lambda tier=tier: system.restore(tier, targets))
            if digests(targets) != expected:
                raise ValueError(f"what was restored from {tier} is not what was saved")
    return seconds


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Everything about one system in one block."""
    place = Path(spec["place"])
    state = make_state(spec["size_bytes"], spec["seed"])
    targets = {name: torch.zeros_like(value) for name, value in state.items()}
    training = Training(state, spec["width"])
    system: System = importlib.import_module(f"checkpoint_systems.{spec['module']}").make(place, state, spec["options"])
    try:
        for _ in range(2):
            training.step()
        baseline_s = [timed(training.step) for _ in range(spec["baseline_steps"])]
        saves, restores = [], []
        say("base")
        for number in range(1, spec["saves"] + 2):  # the first one allocates; it is reported apart
            training.step()
            expected = digests(state)
            say("save")
            saves.append(asdict(save_once(system, number, state, training)))
            system.forget_older()
            gc.collect()
            say("restore")
            restores.append(restore_all(system, targets, expected))
    finally:
        system.close()
    return {"flushes": system.flushes, "baseline_s": baseline_s, "first": saves[0], "saves": saves[1:],
            "restores": restores[1:], "torch": torch.__version__, "threads": torch.get_num_threads()}


def rates(spec: dict[str, Any]) -> dict[str, Any]:
    """What the machine itself can do with as many bytes: copy them in memory, write them to a file and flush it."""
    numbers = spec["size_bytes"] // 4
    source, target = torch.ones(numbers), torch.zeros(numbers)
    threads = torch.get_num_threads()
    seconds: dict[str, list[float]] = {}
    for what, count in (("copy, 1 thread", 1), ("copy, torch's threads", threads)):
        torch.set_num_threads(count)
        target.copy_(source)
        seconds[what] = [timed(lambda: target.copy_(source)) for _ in range(spec["saves"] * 2)]
    seconds["write and flush"] = [timed(lambda: _write(source, Path(spec["place"]) / "raw")) for _ in range(spec["saves"])]
    return {"rates": seconds, "torch": torch.__version__, "threads": threads}


def _write(source: torch.Tensor, path: Path) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb", buffering=0) as file:
        rest = memoryview(source.numpy().data).cast("B")
        while rest:
            rest = rest[file.write(rest[:2**30]):]
        os.fsync(file.fileno())


def say(phase: str) -> None:
    """Tell the parent, and give it the time to look."""
    print(f"phase {phase}", flush=True)
    time.sleep(0.06)


def main(arguments: list[str]) -> int:
    """Measure what the specification asks for."""
    spec = json.loads(Path(arguments[0]).read_text())
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", init_method=f"file://{spec['place']}.rendezvous", rank=0, world_size=1)
    result = rates(spec) if spec["module"] == "rates" else measure(spec)
    Path(arguments[1]).write_text(json.dumps(result))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Some of the systems leave threads and processes that an ordinary exit would wait for.
    os._exit(code)
