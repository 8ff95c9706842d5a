"""Write the files of simulated nodes, and their faults (adapter over the file system)."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from hpctrain.devcluster.faults import Changes, Fault, fault_named
from hpctrain.devcluster.healing import Injected, injected, left_after
from hpctrain.devcluster.simulated_gpus import node_state, parse, render
from hpctrain.devcluster.simulated_node import (
    BOOTED,
    FAULTS_FILE,
    GPU_STATE,
    KERNEL_LOG,
    LIBRARY,
    UPTIME_S,
    NodeKind,
    log_line,
    node_tree,
)
from hpctrain.files import make_private_dir, storage_errors, write_atomic

_BOOT_ID = "proc/sys/kernel/random/boot_id"


class NodeFiles:
    """The simulated kernel and GPUs of one node.

    Args:
        directory: of this node alone.
    """

    def __init__(self, directory: Path, node: str, kind: NodeKind) -> None:
        self._directory, self._node, self._kind = directory, node, kind

    def create(self, library: Path) -> None:
        """Make a healthy node that booted ten days ago; what was there before is gone. Raises StorageError."""
        with storage_errors(self._directory):
            shutil.rmtree(self._directory, ignore_errors=True)
            make_private_dir(self._directory)
            os.link(library, self._directory / LIBRARY)
        self.heal(reboot=True)

    def heal(self, *, reboot: bool = False) -> None:
        """Undo every fault. A reboot also makes a new boot id and an empty kernel log; a healed node keeps its log."""
        self._restore(reboot=reboot)
        self._remember(())

    def remedy(self, remedy: str, *, gpu: int | None = None) -> None:
        """Do what a reset of one GPU, a reboot or new hardware does: the faults that it mends are gone, the others stay.

        After a reboot and after a replacement the node has just booted.
        """
        left = left_after(remedy, self.faults(), gpu)
        booted = remedy != "reset"
        self._restore(reboot=booted)
        if booted:
            self._boot(time.time())
        for one in left:
            changes = fault_named(one.fault).make(one.number)
            self.inject(changes if booted else replace(changes, log=()))
        self._remember(left)

    def break_(self, fault: Fault, number: int, until: str = "") -> None:
        """Add a fault of the catalogue and remember it for :meth:`remedy`. Raises StorageError."""
        self._remember((*self.faults(), injected(fault.name, number, until)))
        self.inject(fault.make(number))

    def faults(self) -> tuple[Injected, ...]:
        """The faults of the catalogue that the node has."""
        path = self._directory / FAULTS_FILE
        return tuple(Injected(**one) for one in json.loads(path.read_text())) if path.exists() else ()

    def boot_id(self) -> str:
        """The simulated kernel's boot."""
        return (self._directory / _BOOT_ID).read_text().strip()

    def inject(self, changes: Changes) -> None:
        """Change what is there; a fault made so is not remembered, and any remedy ends it. Raises StorageError."""
        if changes.gpus:
            state = parse((self._directory / GPU_STATE).read_text())
            self._write(GPU_STATE, render({**state, **changes.gpus}))
        for path, text in changes.tree.items():
            if text is None:
                (self._directory / path).unlink(missing_ok=True)
            else:
                self._write(path, text)
        for line in changes.log:
            self.log(line)

    def log(self, text: str) -> None:
        """Let the kernel write a line, at this moment of its uptime."""
        path = self._directory / KERNEL_LOG
        uptime_s = time.time() - float((self._directory / BOOTED).read_text())
        with storage_errors(path), path.open("r+") as file:
            sequence = sum(1 for _ in file)
            file.write(log_line(sequence, max(0.0, uptime_s - 1), text))

    def _restore(self, *, reboot: bool) -> None:
        boot_file, log = self._directory / _BOOT_ID, self._directory / KERNEL_LOG
        boot_id = str(uuid.uuid4()) if reboot or not boot_file.exists() else boot_file.read_text().strip()
        tree = node_tree(self._node, self._kind, boot_id)
        if not reboot and log.exists():
            del tree[KERNEL_LOG], tree["proc/uptime"]
        else:
            self._boot(time.time() - UPTIME_S)
        for path, text in tree.items():
            self._write(path, text)
        self._write(GPU_STATE, render(node_state(self._node, self._kind.gpus, self._kind.profile)))

    def _boot(self, when: float) -> None:
        """The node's uptime; the programs that Slurm runs there bring the file up to date before they look."""
        self._write(BOOTED, f"{when:.0f}\n")
        self._write("proc/uptime", f"{time.time() - when:.2f} 0.00\n")

    def _remember(self, faults: Iterable[Injected]) -> None:
        self._write(FAULTS_FILE, json.dumps([asdict(one) for one in faults]) + "\n")

    def _write(self, path: str, text: str) -> None:
        target = self._directory / path
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, text, durable=False)
