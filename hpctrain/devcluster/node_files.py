"""Write the files of simulated nodes, and their faults (adapter over the file system)."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from hpctrain.devcluster.faults import Changes
from hpctrain.devcluster.simulated_gpus import node_state, parse, render
from hpctrain.devcluster.simulated_node import GPU_STATE, KERNEL_LOG, LIBRARY, UPTIME_S, NodeKind, log_line, node_tree
from hpctrain.files import make_private_dir, storage_errors, write_atomic


class NodeFiles:
    """The simulated kernel and GPUs of one node.

    Args:
        directory: of this node alone.
    """

    def __init__(self, directory: Path, node: str, kind: NodeKind) -> None:
        self._directory, self._node, self._kind = directory, node, kind

    def create(self, library: Path) -> None:
        """Make a healthy node that has just booted; what was there before is gone. Raises StorageError."""
        with storage_errors(self._directory):
            shutil.rmtree(self._directory, ignore_errors=True)
            make_private_dir(self._directory)
            os.link(library, self._directory / LIBRARY)
        self.heal(reboot=True)

    def heal(self, *, reboot: bool = False) -> None:
        """Undo every fault. A reboot also makes a new boot id and an empty kernel log; a healed node keeps its log."""
        boot_file, log = self._directory / "proc/sys/kernel/random/boot_id", self._directory / KERNEL_LOG
        boot_id = str(uuid.uuid4()) if reboot or not boot_file.exists() else boot_file.read_text().strip()
        tree = node_tree(self._node, self._kind, boot_id)
        if not reboot and log.exists():
            del tree[KERNEL_LOG]
        for path, text in tree.items():
            self._write(path, text)
        self._write(GPU_STATE, render(node_state(self._node, self._kind.gpus, self._kind.profile)))

    def inject(self, changes: Changes) -> None:
        """Add a fault to what is there. Raises StorageError."""
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
        with storage_errors(path), path.open("r+") as file:
            sequence = sum(1 for _ in file)
            file.write(log_line(sequence, UPTIME_S - 1, text))

    def _write(self, path: str, text: str) -> None:
        target = self._directory / path
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, text, durable=False)
