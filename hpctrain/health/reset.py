"""Reset a GPU of this node because ``hpctrain nodes tend`` asks for it (adapter over the request's files and a command).

Whoever tends the nodes leaves a request in the node's state directory; the node's next periodic check carries it out before
it looks. A request is claimed by renaming it, so that it is carried out once, whoever is killed meanwhile. Nothing is reset
while the node is not drained by us or has jobs: the request then waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.errors import MissingDependencyError
from hpctrain.files import make_private_dir, storage_errors
from hpctrain.health.config import Config
from hpctrain.health.drain import standing
from hpctrain.health.kernel_log import clear
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.remedy_settings import filled, parse_remedies

OLDEST_S = 3600.0
CLAIM_S = 180.0
"""A claim without an end for so long: the health program was killed, or the reset hangs in the driver."""


@dataclass(frozen=True, slots=True)
class ResetFiles:
    """The files of one node's resets, in its state directory."""

    directory: Path
    node: str

    @property
    def request(self) -> Path:
        """What is asked for."""
        return self.directory / f"{self.node}.reset.json"

    @property
    def claim(self) -> Path:
        """What is being done."""
        return self.directory / f"{self.node}.reset.claim.json"

    @property
    def result(self) -> Path:
        """What was done last, and how it ended."""
        return self.directory / f"{self.node}.reset.result.json"


def load(path: Path) -> dict[str, Any]:
    """A request, claim or result; empty if there is none that can be understood."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def ask(files: ResetFiles, request: Mapping[str, Any]) -> None:
    """Leave a request, with ``id``, ``gpu``, ``pci`` and ``time``. Raises StorageError."""
    make_private_dir(files.directory)
    _write(files.request, request)


def withdraw(files: ResetFiles) -> None:
    """Take back what was not carried out."""
    with contextlib.suppress(OSError):
        files.request.unlink(missing_ok=True)


def claim_age_s(files: ResetFiles) -> float:
    """How long ago a request was claimed; 0 if none is."""
    with contextlib.suppress(OSError):
        return time.time() - files.claim.stat().st_ctime  # of the renaming; the time of its text is the request's
    return 0.0


def carry_out(config: Config, node: str) -> str:
    """Do what is asked for, if anything is; one sentence about it, "" for nothing. Raises StorageError.

    Args:
        config: with the node's name in its paths.
    """
    files = ResetFiles(Path(config.state_dir), node)
    if not files.request.exists():
        return ""
    request = load(files.request)
    settings, _ = parse_remedies(config.remedies, settle_s=config.settle_s)
    if not settings.reset or not request.get("id") or time.time() - float(request.get("time", 0.0)) > OLDEST_S:
        withdraw(files)
        return "a request to reset a GPU was dropped: no command is configured here, or it is too old"
    why_not = _why_not(config, node)
    if why_not:
        return f"GPU {request.get('gpu')} is not reset yet: {why_not}"
    with storage_errors(files.claim):
        try:
            files.request.rename(files.claim)
        except FileNotFoundError:
            return ""  # withdrawn in between, or another run has it
    command = filled(settings.reset, {"node": node, "gpu": str(request.get("gpu", ""))})
    ok, told = _run(command, settings.reset_timeout_s)
    now = time.time()
    if ok and request.get("pci"):
        _settle(NodeFiles(files.directory, node, config.log_bytes), str(request["pci"]), now)
    _write(files.result, {**request, "ok": ok, "told": told, "time": now})
    files.claim.unlink(missing_ok=True)
    return f"GPU {request.get('gpu')} was {'reset' if ok else 'not reset'} ({told})"


def _why_not(config: Config, node: str) -> str:
    found = standing(
        node, scontrol=config.scontrol, slurm_conf=config.slurm_conf, timeout_s=config.scontrol_timeout_s
    )
    if found is None:
        return "scontrol does not answer"
    if not found.ours:
        return "the node is not drained by us"
    return "jobs still run here" if found.busy else ""


def _run(command: list[str], timeout_s: float) -> tuple[bool, str]:
    try:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        result = process.run(command, timeout_s=timeout_s, env=environment, cwd="/")
    except MissingDependencyError as error:
        return False, str(error)
    if result.timed_out:
        return False, f"no end within {timeout_s:g} s"
    return result.ok, f"exit status {result.returncode} {(result.stderr.strip() or result.stdout.strip())[-300:]}".strip()


def _settle(files: NodeFiles, pci: str, now: float) -> None:
    """What the kernel log said about this GPU is dealt with."""
    with files.locked() as locked:
        if locked:
            state = files.load()
            files.save(replace(state, log=clear(state.log, pci, now)))


def _write(path: Path, record: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with storage_errors(draft):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(record))
        draft.replace(path)
