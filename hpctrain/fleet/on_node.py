"""What runs on a node that the health package was sent to: ``on_node version|check|record`` (entry point).

Standard library only, as all of hpctrain.health: nothing else has to be installed there. Prints one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from hpctrain import __version__

DAEMONS = ("slurmd", "munged", "sshd")


def main(arguments: list[str]) -> int:
    """Do one thing; the exit code."""
    what = arguments[0] if len(arguments) == 1 else ""
    if what == "version":
        from hpctrain.health import registry

        _say({"version": __version__, "checks": len(registry.load_checks())})
        return 0
    if what in ("check", "record"):
        _say(_check() if what == "check" else _record())
        return 0
    sys.stderr.write("usage: python -m hpctrain.fleet.on_node version|check|record\n")
    return 2


def running(names: tuple[str, ...] = DAEMONS, proc: Path = Path("/proc")) -> dict[str, int | None]:
    """The process id of the oldest process of each name; None where there is none."""
    found: dict[str, int | None] = dict.fromkeys(names)
    for directory in sorted((path for path in proc.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name)):
        try:
            name = (directory / "comm").read_text().strip()
        except OSError:
            continue
        if name in found and found[name] is None:
            found[name] = int(directory.name)
    return found


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")


def _check() -> dict[str, Any]:
    from hpctrain.health.breaker import Permission
    from hpctrain.health.run import Look, Tools, check_node, verdict_record
    from hpctrain.health.supervise import for_node, load_config, node_name

    config, problems = load_config(os.environ)
    node = node_name(os.environ)
    looking = Tools(ask_breaker=lambda _node, _reason: Permission(granted=False, reason="only looking"))
    outcome = check_node(for_node(config, node), problems, Look(node, "manual", remember=False), looking)
    notes = [note for note in outcome.notes if not note.startswith("ALERT")]
    return {**verdict_record(outcome.verdict), "notes": notes, "uptime_s": outcome.reading.uptime_s, "daemons": running()}


def _record() -> dict[str, Any]:
    from hpctrain.health.recording import to_document
    from hpctrain.health.run import Look, take_reading
    from hpctrain.health.supervise import for_node, load_config, node_name

    config, _ = load_config(os.environ)
    node = node_name(os.environ)
    taken = take_reading(for_node(config, node), Look(node, "manual", remember=False))
    state_dir = dataclasses.asdict(for_node(config, node))["state_dir"]
    return {"recording": to_document(taken.reading, taken.records), "state_dir": state_dir, "node": node}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
