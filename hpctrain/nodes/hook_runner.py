"""``python -m hpctrain.nodes.hook_runner DIRECTORY TIMEOUT_S ID COMMAND...``: run a command once (entry point)."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hpctrain import process
from hpctrain.errors import MissingDependencyError
from hpctrain.files import create_atomic, sync_dir, write_json_atomic
from hpctrain.nodes.hooks import ENDED, STARTED, start_ticks

_TOLD = 2000


def main(arguments: list[str]) -> int:
    """Take the receipt, run, write the end; 0 whatever the command's end was."""
    place, timeout_s, act, command = Path(arguments[0]), float(arguments[1]), arguments[2], arguments[3:]
    own = os.getpid()
    receipt = {"pid": own, "ticks": start_ticks(own), "host": os.uname().nodename, "time": time.time(), "argv": command}
    try:
        create_atomic(place / STARTED, json.dumps(receipt))
    except FileExistsError:
        return 0
    sync_dir(place)
    begun = time.monotonic()
    try:
        result = process.run(command, timeout_s=timeout_s, env={**os.environ, "HPCTRAIN_REMEDY": act}, cwd="/")
        how = f"no end within {timeout_s:g} s" if result.timed_out else f"exit status {result.returncode}"
        told = f"{how}: {(result.stderr.strip() or result.stdout.strip())[-_TOLD:]}"
        ok = result.ok
    except MissingDependencyError as error:
        ok, told = False, str(error)
    write_json_atomic(place / ENDED, {"ok": ok, "told": told, "took_s": round(time.monotonic() - begun, 3)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
