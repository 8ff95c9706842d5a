"""Runs a Python program inside this process exactly as its interpreter would (adapter over ``runpy`` and ``sys``).

A rank that is forked from a process with torch imported has no ``exec`` to start its program with. What ``python FILE``
and ``python -m MODULE`` do between start-up and the program's first line is done here instead: ``sys.argv``,
``sys.path[0]``, a fresh ``__main__``. Everything else about the program's life and death is the interpreter's own doing,
because :func:`run` is called at the bottom of the stack and lets exceptions fall through: exit codes, ``SystemExit``,
waiting for threads, ``atexit``, flushing. Whatever is not one of the two forms, or looks odd, is left to a new process.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

SOURCE = ".py"


@dataclass(frozen=True, slots=True)
class PythonCommand:
    """``python FILE ARGS...`` or ``python -m MODULE ARGS...``.

    Attributes:
        argv: the whole command line.
        script: FILE as it was written, "" for a module.
        module: MODULE, "" for a script.
        args: what follows.
    """

    argv: tuple[str, ...]
    script: str
    module: str
    args: tuple[str, ...]


def parse(argv: Sequence[str], env: Mapping[str, str], workdir: str, own: str) -> PythonCommand | None:
    """Read a command line; None if it is not one of the two forms for the interpreter ``own``.

    Args:
        env: the environment it is to run in: where PATH leads, and whether output is buffered.
        workdir: the directory it is to run in.
        own: absolute path of the interpreter that would run it, such as ``sys.executable``.
    """
    if not argv or not same_interpreter(argv[0], env, workdir, own):
        return None
    words = list(argv[1:])
    while words and words[0] == "-u":
        if not env.get("PYTHONUNBUFFERED"):
            return None  # how output is buffered is decided when an interpreter starts
        words.pop(0)
    if len(words) >= 2 and words[0] == "-m":
        return PythonCommand(tuple(argv), "", words[1], tuple(words[2:]))
    if words and not words[0].startswith("-") and words[0].endswith(SOURCE):
        return PythonCommand(tuple(argv), words[0], "", tuple(words[1:]))
    return None


def same_interpreter(program: str, env: Mapping[str, str], workdir: str, own: str) -> bool:
    """Whether a program's name leads to the interpreter ``own``, and to the same environment of it.

    ``venv/bin/python`` is a link to the interpreter that it was made from, but not the same: which packages a Python
    sees depends on the directory in which it is found. The file and the directory must both agree.
    """
    found = program if "/" in program else shutil.which(program, path=env.get("PATH", os.defpath))
    if not found:
        return False
    path = os.path.join(workdir, found)  # noqa: PTH118 - text, as the interpreter reads it
    where, mine = os.path.dirname(path), os.path.dirname(own)  # noqa: PTH120
    return (os.path.realpath(path), os.path.realpath(where)) == (os.path.realpath(own), os.path.realpath(mine))


def run(command: PythonCommand) -> None:
    """Run it as ``__main__``; call this at the bottom of the stack, where nothing catches what comes out of it.

    An exception is shown here, without our own frames, and then left to the interpreter to end by.
    """
    try:
        if command.module:
            _run_module(command)
        else:
            _run_script(command)
    except SystemExit:
        raise
    except BaseException as error:
        _show(error)
        sys.excepthook = _already_shown
        raise


def prepare(command: PythonCommand) -> None:
    """Make ``sys`` what the program expects; where that cannot be done faithfully, become a new interpreter instead.

    Raises:
        OSError: and that cannot be started.
    """
    first = _first_of_path(command)
    if (command.script and not _is_plain_file(command.script)) or _shadows(first):
        become(command.argv)
    sys.orig_argv = list(command.argv)
    sys.argv = [command.script or "-m", *command.args]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, first)
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    main.__dict__.setdefault("__annotations__", {})
    sys.modules["__main__"] = main
    if "__mp_main__" in sys.modules:
        sys.modules["__mp_main__"] = main  # multiprocessing's second name for it


def become(argv: Sequence[str]) -> None:
    """Replace this process by the program, as any other launcher would; does not return.

    Raises:
        OSError: it cannot be started.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and exec would pass that on
    os.execvp(argv[0], list(argv))  # noqa: S606 - an argument list from plan.json, no shell


def _first_of_path(command: PythonCommand) -> str:
    return os.path.dirname(os.path.realpath(command.script)) if command.script else str(Path.cwd())  # noqa: PTH120


def _is_plain_file(path: str) -> bool:
    """A directory, an archive, a file that is missing or not readable: the interpreter knows what to do or to say."""
    return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


def _shadows(directory: str) -> bool:
    """Whether a file beside the program has the name of a module that is loaded already: then it would not be found."""
    if getattr(sys.flags, "safe_path", False):
        return False
    loaded = {name.partition(".")[0] for name in sys.modules} - set(sys.builtin_module_names) - {"__main__"}
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return False
    endings = tuple(importlib.machinery.all_suffixes())
    for entry in entries:
        stem = entry.name.partition(".")[0]
        if stem in loaded and (entry.name.endswith(endings) or _is_package(entry)) and not _is_loaded_from(stem, directory):
            return True
    return False


def _is_package(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and any(Path(entry.path, f"__init__{end}").exists() for end in importlib.machinery.all_suffixes())


def _is_loaded_from(name: str, directory: str) -> bool:
    """The loaded module is this very file, found in the same directory through another entry of the path."""
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None) or ""
    own = os.path.realpath(directory)
    return os.path.dirname(os.path.realpath(origin)) in (own, os.path.join(own, name))  # noqa: PTH118,PTH120


def _run_module(command: PythonCommand) -> None:
    for name in (command.module, f"{command.module}.__main__"):
        if not hasattr(sys.modules.get(name), "__path__"):
            sys.modules.pop(name, None)  # runpy warns about a module that is loaded before it runs
    runpy._run_module_as_main(command.module)  # type: ignore[attr-defined]  # what -m itself calls


def _run_script(command: PythonCommand) -> None:
    path = _absolute(command.script)
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    main = sys.modules["__main__"].__dict__
    main |= {"__file__": path, "__cached__": None, "__loader__": loader, "__spec__": None, "__package__": None}
    with open(path, "rb") as file:  # noqa: PTH123
        source = file.read()
    try:
        code = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        become(command.argv)  # an interpreter that reads the file itself has better words for it
        raise
    exec(code, main)  # noqa: S102 - the program that we were asked to run


def _absolute(script: str) -> str:
    return script if script.startswith("/") else f"{Path.cwd()}/{script}"


def _show(error: BaseException) -> None:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace
    try:
        sys.excepthook(type(error), error, trace)
    except BaseException:  # noqa: BLE001 - a program's own hook; the traceback must be seen whatever it does
        sys.__excepthook__(type(error), error, trace)


def _already_shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    del kind, error, trace
