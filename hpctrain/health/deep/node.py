"""The process on every node: run the checks one after the other, then take part in rounds of pairs (service).

It imports torch once and runs no operation of it: every check runs in a forked child with a deadline, and what it found is
written down at once. Whatever happens to this process later, that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed

from hpctrain.health.deep import allreduce, cpu, disk, forked, gemm, hardware, memory
from hpctrain.health.deep.bench import Bench, Reading
from hpctrain.health.deep.files import DeepFiles
from hpctrain.health.deep.measurement import CHECKS, PAIR_METRIC, DeepCheck, Hardware, Measurement, Status
from hpctrain.health.deep.plan import DeepJob, DeepPlan
from hpctrain.health.deep.simulated import pretended
from hpctrain.health.deep.wire import Line
from hpctrain.network import HeldPort, interface_of

_LOOK_S = 180.0
_RUN: Mapping[str, Callable[[Bench], list[Reading]]] = {
    "gemm": gemm.run, "memory": memory.run_copy, "pattern": memory.run_pattern, "host_memory": memory.run_host,
    "pcie": memory.run_pcie, "allreduce": allreduce.run_node, "cpu": cpu.run, "disk": disk.run_local,
    "shared": disk.run_shared,
}  # fmt: skip


class NodeRun:
    """One node's part of a run.

    Args:
        scratch: a private directory on this node's own disk; who made it removes it.
        env: of this process, for simulated faults.
    """

    def __init__(self, files: DeepFiles, job: int, node: str, scratch: str, env: Mapping[str, str]) -> None:
        self._files, self._node = files, node
        self._plan: DeepPlan = files.plan()
        self._job: DeepJob = self._plan.jobs[job]
        self._pretended = pretended(node, env)
        self._scratch = scratch
        self._hardware: Hardware | None = None
        self._bench: Bench | None = None

    def checks(self) -> None:
        """Find out what this node is, and run all checks of the plan."""
        look = forked.run_one(hardware.look, _LOOK_S)
        if look.problem:
            self._say_all(self._plan.checks, Status.FAILED, f"torch does not start here: {look.problem}")
            return
        self._files.tell(self._node, "hardware", look.value)
        found = Hardware(*(look.value[name] for name in ("device", "name", "count", "torch")))
        gpus = found.count if found.device == "cuda" else 0
        if gpus < self._job.gpus:
            build = "" if look.value["cuda_build"] else " (this torch is a build without CUDA)"
            told = f"Slurm says that there are {self._job.gpus} GPUs, torch sees {gpus}{build}"
            self._say_all(self._plan.checks, Status.FAILED, told)
            return
        self._hardware = found
        self._bench = Bench(
            torch.device("cpu"), gpus, int(look.value["threads"]), self._plan.sizes, self._pretended, self._scratch,
            str(self._files.shared_dir),
        )  # fmt: skip
        for name in self._plan.checks:
            self._run(CHECKS[name], self._bench)

    def pairs(self, line: Line) -> None:
        """Take part in rounds until the conductor says that all is done, or is gone."""
        if self._bench is None or self._hardware is None:
            line.say({"ready": False})
        else:
            held = HeldPort()
            line.say({"ready": True, "kind": self._hardware.kind, "port": held.port})
        while (order := line.hear()) and "round" in order and self._bench is not None:
            line.say({"round": order["round"], **self._pair(self._bench, order, line.address)})

    def end(self) -> None:
        """Say that this node has done all it was to do."""
        self._files.tell(self._node, "end", {})

    def _pair(self, bench: Bench, order: Mapping[str, Any], own_address: str) -> Reading:
        mine = max(1, bench.gpus)
        first = 0 if order["first"] else mine
        meeting = allreduce.Meeting("", str(order["address"]), int(order["port"]), interface_of(own_address))
        deadline_s = self._plan.sizes.pair_s
        answers = allreduce.run_ranks(bench, meeting, range(first, first + mine), 2 * mine, deadline_s, spoil="pairwise")
        try:
            return allreduce.combined(PAIR_METRIC, answers)
        except RuntimeError as error:
            return {"metric": PAIR_METRIC, "status": Status.FAILED.value, "value": None, "detail": str(error)}

    def _run(self, check: DeepCheck, bench: Bench) -> None:
        """On every GPU at the same time where the check is one of a GPU."""
        devices = [torch.device("cuda", index) for index in range(bench.gpus)] if check.per_device and bench.gpus else []
        benches = [replace(bench, device=device) for device in devices] or [bench]
        works = [partial(_on_device, _RUN[check.name], one) for one in benches]
        answers = forked.run_all(works, self._plan.sizes.check_s)
        for number, answer in enumerate(answers):
            entity = f"GPU {number}" if devices else ""
            if answer.problem:
                self._say(check, None, Status.FAILED, answer.problem, entity)
            for reading in answer.value or ():
                self._record(check, reading, entity)

    def _record(self, check: DeepCheck, reading: Reading, entity: str) -> None:
        metric = str(reading["metric"])
        one = Measurement(
            self._node, check.name, metric, Status(reading["status"]), reading["value"], check.metrics[metric], entity,
            str(reading["detail"]),
        )  # fmt: skip
        self._files.tell(self._node, "measurement", one.to_json())

    def _say(self, check: DeepCheck, metric: str | None, status: Status, detail: str, entity: str = "") -> None:
        for name in [metric] if metric else check.metrics:
            one = Measurement(self._node, check.name, name, status, None, check.metrics[name], entity, detail)
            self._files.tell(self._node, "measurement", one.to_json())

    def _say_all(self, checks: Sequence[str], status: Status, detail: str) -> None:
        for name in checks:
            self._say(CHECKS[name], None, status, detail)


def _on_device(run: Callable[[Bench], list[Reading]], bench: Bench) -> list[Reading]:
    """In the child: without this, pinned memory would open every child's second context on GPU 0."""
    if bench.on_gpu:
        torch.cuda.set_device(bench.device)
    return run(bench)
