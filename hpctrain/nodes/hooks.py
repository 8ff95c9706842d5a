"""Run a site's command once, whatever dies meanwhile (adapter over files and processes).

The command is not run by us but by a runner of its own (:mod:`hpctrain.nodes.hook_runner`), which first makes a receipt that
only one can make, and afterwards writes how the command ended. So a command that has a receipt is never started again, and
what became of it is known even if we were killed; if the runner itself was killed, its end is unknown, and that is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpctrain import process
from hpctrain.files import make_private_dir

ENDED, STARTED = "ended.json", "started.json"
_START_WAIT_S = 20.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class HookState:
    """How a command fares.

    Attributes:
        state: ``absent``: never started; ``running``; ``ended``; ``lost``: started, and its runner is gone without a word.
        ok: it ended with status 0.
        told: the end of what it printed, or what went wrong.
    """

    state: Literal["absent", "running", "ended", "lost"]
    ok: bool = False
    told: str = ""


class Hooks:
    """Receipts of commands, one directory each, below the journal's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def start(self, act: str, command: Sequence[str], timeout_s: float) -> HookState:
        """Start a command unless it was started before, and wait until its receipt is there.

        Args:
            act: id of the act that it belongs to; a command runs once for each.

        Raises:
            StorageError: the receipts' directory cannot be written.
        """
        place = make_private_dir(make_private_dir(self._directory) / act)
        if (place / STARTED).exists():
            return self.state(act, timeout_s)
        runner = [sys.executable, "-m", "hpctrain.nodes.hook_runner", str(place), f"{timeout_s:g}", act, *command]
        null = process.DEVNULL
        child = process.start(runner, env=_environment(), cwd="/", stdout=null, stderr=null)
        until = time.monotonic() + _START_WAIT_S
        while not (place / STARTED).exists() and child.poll() is None and time.monotonic() < until:
            time.sleep(_POLL_S)
        return self.state(act, timeout_s)

    def state(self, act: str, timeout_s: float) -> HookState:
        """How a command fares now."""
        place = self._directory / act
        started = _load(place / STARTED)
        ended = _load(place / ENDED)  # after the receipt was read: a runner writes it as its last deed
        if ended is not None:
            return HookState("ended", bool(ended.get("ok")), str(ended.get("told", "")))
        if started is None:
            return HookState("absent")
        if _runs(started, timeout_s):
            return HookState("running")
        ended = _load(place / ENDED)
        if ended is not None:
            return HookState("ended", bool(ended.get("ok")), str(ended.get("told", "")))
        return HookState("lost", told="its runner was killed: look whether it worked before you run it again")


def start_ticks(pid: int) -> str:
    """When a process started, in ticks since boot; "" if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _runs(started: dict[str, object], timeout_s: float) -> bool:
    """Elsewhere than on the host where it was started, only its time tells."""
    if started.get("host") == os.uname().nodename:
        pid = started.get("pid")
        return isinstance(pid, int) and start_ticks(pid) == started.get("ticks") != ""
    when = started.get("time")
    return isinstance(when, int | float) and time.time() - when < timeout_s + 60


def _load(path: Path) -> dict[str, object] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    # A receipt that is there but cannot be read: a file system that lost its text with the power.
    return {} if path.exists() else None


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "SLURM_CONF", "LANG") if name in os.environ}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **kept}
