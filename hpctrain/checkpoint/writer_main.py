"""The writer's process where no agent starts it: ``python -m hpctrain.checkpoint.writer_main`` (entry point).

Reads the job's secret from standard input, says ``ready`` on standard output, and works until the keeper is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from hpctrain.checkpoint.keeper_wire import say_once
from hpctrain.checkpoint.writer import run_writer


def main(argv: list[str] | None = None) -> int:
    """Work; returns the exit code."""
    parser = argparse.ArgumentParser(prog="hpctrain-writer", description="Makes checkpoints in memory durable.")
    parser.add_argument("--node", default="", help="name of the node, where several share a host")
    parser.add_argument("--peer-bind", help="address to receive copies of a peer node's memory on")
    options = parser.parse_args(argv)
    secret = bytes.fromhex(sys.stdin.readline().strip())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say_once("ready")
    reason = run_writer(secret, options.node, _silent, peer_bind=options.peer_bind)
    with contextlib.suppress(OSError):  # whoever started us may have closed it
        os.write(2, f"hpctrain-writer: ends: {reason}\n".encode())
    return 0


def _silent(kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
    """Without an agent there is no log of events: the ranks hear from the keeper how their orders ended."""


if __name__ == "__main__":
    try:
        code = main()
    except Exception as error:  # noqa: BLE001 - a fault of our own: one line and an exit code, for whoever starts us again
        code = 1
        with contextlib.suppress(OSError):
            os.write(2, f"hpctrain-writer: error: {type(error).__name__}: {error}\n".encode())
    os._exit(code)  # a thread that hangs in a file system must not keep the process
