"""What a watchdog has left about itself for others to read (adapter over its files)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpctrain.watchdog.assemble import Setting, lease_of
from hpctrain.watchdog.model import Command

NEWEST = 20


def read_status(setting: Setting) -> dict[str, Any]:
    """Holder, newest status and newest deeds. Changes nothing, also where there has never been a watchdog."""
    token, holder = lease_of(setting).holder()
    try:
        status = json.loads((setting.directory / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        status = {}
    now = setting.clock.time()
    held = holder is not None and not holder.get("free")
    due = float(status.get("poll_s") or 0) * 2 + 120 if isinstance(status, dict) else 0.0
    fresh = isinstance(status, dict) and now - float(status.get("time") or 0) < due
    return {
        "running": bool(held and fresh), "directory": str(setting.directory), "token": token,
        "holder": {key: holder.get(key) for key in ("host", "pid", "time")} if holder and held else None,
        "status": status, "deeds": list(_deeds(setting.directory / "journal.sqlite")),
    }


def status_lines(found: Mapping[str, Any], now: float) -> Iterator[str]:
    """The same for people."""
    status, holder = found["status"], found["holder"]
    if not found["running"]:
        seen = f"; the last one was seen {_ago(status['time'], now)}" if status else ""
        yield f"no watchdog is running{seen}"
        yield "start one: hpctrain watchdog run (or see: hpctrain watchdog install)"
    elif holder:
        yield f"watching on {holder['host']} (pid {holder['pid']}), last look {_ago(status['time'], now)}"
    if status:
        share = 100 * status["cpu_s"] / max(1.0, status["time"] - status["started"])
        jobs = ", ".join(f"{count} {state.lower()}" for state, count in sorted(status["jobs"].items())) or "none"
        yield f"jobs: {jobs}"
        yield f"polls: {status['polls']}, now every {status['poll_s']:.0f} s; {share:.2f} % of a core"
        if status["problem"]:
            yield f"the controller does not answer since {_ago(status['silent_since'], now)}: {status['problem']}"
        for one in status["noticed"]:
            yield f"noticed: job {one['job']} ({one['run']}): {one['reason']} [{one['cause']}: {one['way']}]"
    for deed in found["deeds"]:
        result = f" ({deed['result']})" if deed["result"] else ""
        what = f"{deed['state']:<8} {deed['deed']:<12} job {deed['job']}: {deed['reason']}{result}"
        yield f"{_ago(deed['time'], now):>12}  {what}"


def _deeds(path: Path) -> Iterator[dict[str, Any]]:
    """The newest deeds, oldest first; the journal is opened for reading only."""
    if not path.exists():
        return
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2.0)
        try:
            rows = db.execute(
                "SELECT time, state, tries, result, command FROM deeds ORDER BY number DESC LIMIT ?", (NEWEST,)
            ).fetchall()
        finally:
            db.close()
    except sqlite3.Error:
        return
    for time_s, state, tries, result, text in reversed(rows):
        command = Command.from_json(json.loads(text))
        yield {
            "time": time_s, "deed": command.deed.value, "state": state, "job": command.job_id, "run": command.run_name,
            "cause": command.cause.value, "reason": command.reason, "nodes": list(command.nodes), "tries": tries,
            "result": result,
        }


def _ago(then: float | None, now: float) -> str:
    if then is None:
        return "an unknown time"
    seconds = max(0, int(now - then))
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"
