"""Forks ranks of the trainer from one process that has imported everything and run nothing.

Importing torch and transformers takes four seconds; on two cores, four ranks would need most of a minute for each start.
The parent must not run one tensor operation, or its children hang in OpenMP. Reads one JSON request per line::

    {"target": "module:function", "args": [...], "import": [...], "ranks": [{"env": {...}, "log": "file"}, ...]}

answers ``{"pids": [...]}``, and after the ranks ended ``{"codes": [...]}`` (negative: the signal).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

WARM = (
    "torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint",
    "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2", "hpctrain.train.__main__",
    "hpctrain.train.loop", "pydoc_data.topics",
)


def serve() -> None:
    for name in WARM:
        importlib.import_module(name)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        for name in request["import"]:
            importlib.import_module(name)
        pids = [fork_rank(request, rank) for rank in request["ranks"]]
        print(json.dumps({"pids": pids}), flush=True)
        print(json.dumps({"codes": [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]}), flush=True)


def slow_down(seconds: float) -> None:
    """Stretch steps and saves, so that a test on a busy machine sees the moment at which it wants to kill."""
    if not seconds:
        return
    from hpctrain.train.heartbeat import Heartbeat

    beat, fsync = Heartbeat.beat, os.fsync

    def slow_beat(self: Heartbeat, phase: str, **values: Any) -> None:
        beat(self, phase, **values)
        if phase == "step":
            time.sleep(seconds)

    def slow_fsync(handle: int) -> None:
        time.sleep(seconds)
        fsync(handle)

    Heartbeat.beat, os.fsync = slow_beat, slow_fsync  # type: ignore[method-assign,assignment]


def fork_rank(request: dict[str, Any], rank: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(rank["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(rank["env"])
        slow_down(float(os.environ.get("TEST_SLOW_S", "0")))
        module, function = request["target"].split(":")
        code = getattr(importlib.import_module(module), function)(request["args"])
    except BaseException:  # noqa: BLE001 - a child must never return into the parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
