"""Calls a user's reward function: ``python -m hpctrain.train.rewards.function_child SOCKET TRACE PARENT ...`` (entry point).

Further arguments are the time limit in seconds and the function. One JSON object per line in both directions.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import inspect
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Import the function, say so, then answer until the other side closes."""
    handle, trace, parent, timeout_s, target = sys.argv[1:6]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)
    line = socket.socket(fileno=int(handle))
    try:
        function = load(target)
    except BaseException as error:  # noqa: BLE001 - a module may do anything while it is imported
        _send(line, _problem("cannot be imported", error))
        return
    _send(line, {"ready": True})
    with line.makefile("r", encoding="utf-8") as questions, contextlib.suppress(BrokenPipeError):
        for question in questions:
            os.truncate(int(trace), 0)
            faulthandler.dump_traceback_later(float(timeout_s), file=int(trace))
            answer = _call(function, json.loads(question))
            faulthandler.cancel_dump_traceback_later()
            _send(line, answer)


def load(target: str) -> Callable[..., Any]:
    """The function that ``module:function`` or ``file.py:function`` names.

    Raises:
        Exception: whatever importing the module raises; AttributeError, TypeError: it has no such function.
    """
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name} is a {type(function).__name__}, no function")
    return function  # type: ignore[no-any-return]


def _call(function: Callable[..., Any], question: dict[str, Any]) -> dict[str, Any]:
    try:
        rewards = function(prompts=question["prompts"], completions=question["completions"],
                           **_accepted(function, question["columns"]))
        rewards = [_plain(value) for value in rewards] if rewards is not None else None
        json.dumps(rewards)
    except Exception as error:  # noqa: BLE001 - told to the trainer, which stops
        return _problem("raised", error)
    return {"rewards": rewards}


def _accepted(function: Callable[..., Any], columns: dict[str, Any]) -> dict[str, Any]:
    """The columns that it takes, so that a function need not end in ``**columns``."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return columns
    names = {parameter.name for parameter in parameters}
    return {name: values for name, values in columns.items() if name in names}


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's own."""
    return value.item() if hasattr(value, "item") else value


def _problem(what: str, error: BaseException) -> dict[str, Any]:
    # The innermost line of the user's own code; our own and the import machinery's are of no use.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    return {"problem": f"{what}: {type(error).__name__}: {error}", "where": where}


def _send(line: socket.socket, answer: dict[str, Any]) -> None:
    line.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
