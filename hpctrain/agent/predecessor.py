"""Ends the agent that a job had on this node before (adapter over processes, standard library only).

The coordinator sends for a new agent when it hears nothing of the old one, which may be stopped, or stuck, and come back to
life: then two would look after one node's ranks. Whoever comes first ends the other, by the notes that agents leave in their
node-local directories.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from hpctrain.agent.local_dir import directories

NOTE = "agent.json"
PATIENCE_S = 3.0


def leave_note(local_dir: Path, job: str, node: str) -> None:
    """Say in our directory who we are; that it cannot be written is no reason not to work."""
    text = json.dumps({"job": job, "node": node, "pid": os.getpid(), "started": _started(os.getpid())})
    with contextlib.suppress(OSError):
        (local_dir / NOTE).write_text(text)


def end_predecessors(job: str, node: str) -> list[int]:
    """Kill agents of the same job on the same node, and wait until they are gone; returns their process ids."""
    ended = []
    for directory in directories():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads((directory / NOTE).read_text())
            pid = int(note["pid"])
            if (note["job"], note["node"]) != (job, node) or pid == os.getpid() or _started(pid) != note["started"]:
                continue
            os.kill(pid, signal.SIGKILL)
            ended.append(pid)
            deadline = time.monotonic() + PATIENCE_S
            while _started(pid) == note["started"] and time.monotonic() < deadline:
                time.sleep(0.02)
    return ended


def _started(pid: int) -> str:
    """When a process was started, in ticks since boot; "" when there is none, or only a zombie."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
