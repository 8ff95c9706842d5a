"""Which commands may run inside a forked process, and which need an interpreter of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hpctrain.agent.python_command import parse

ENV = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(("words", "expected"), [
    (["-u", "train.py", "-x", "a b"], ("train.py", "", ("-x", "a b"))),
    (["-m", "pkg.tool", "-m", "y"], ("", "pkg.tool", ("-m", "y"))),
    (["-u", "-m", "pkg"], ("", "pkg", ())),
])
def test_scripts_and_modules_are_recognised(words: list[str], expected: tuple[str, str, tuple[str, ...]]) -> None:
    """FILE and -m MODULE of our own interpreter, each with what follows, also unbuffered."""
    command = parse([sys.executable, *words], ENV, "/", sys.executable)

    assert command is not None
    assert expected == (command.script, command.module, command.args)
    assert command.argv == (sys.executable, *words)


@pytest.mark.parametrize("words", [
    [], ["-c", "print()"], ["-I", "train.py"], ["-S", "-m", "pkg"], ["-um", "pkg"], ["-m"], ["-"], ["-X", "dev", "a.py"],
    ["directory"], ["archive.zip"],
])
def test_other_options_need_a_new_interpreter(words: list[str]) -> None:
    """What changes the interpreter itself, or is neither a file of source nor a module, is not run in a forked process."""
    assert parse([sys.executable, *words], ENV, "/", sys.executable) is None


def test_an_interpreter_is_known_by_its_file_and_its_place(tmp_path: Path) -> None:
    """Another name in the same directory is the same Python; a link to it from elsewhere sees other packages."""
    real, venv = tmp_path / "usr" / "python3.11", tmp_path / "venv"
    for directory in (real.parent, venv, tmp_path / "other"):
        directory.mkdir()
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    (venv / "python").symlink_to(real)
    (venv / "python3").symlink_to("python")
    (tmp_path / "current").symlink_to(venv)
    (tmp_path / "other" / "python").symlink_to(venv / "python")
    own = str(venv / "python")

    for same in (own, str(venv / "python3"), str(tmp_path / "current" / "python"), "venv/python"):
        assert parse([same, "a.py"], ENV, str(tmp_path), own), same
    for other in (str(real), str(tmp_path / "other" / "python"), "/bin/sh", "no-such-python"):
        assert parse([other, "a.py"], ENV, str(tmp_path), own) is None, other
    assert parse(["python", "a.py"], {"PATH": str(venv)}, "/", own)
    assert parse(["python", "a.py"], {"PATH": str(tmp_path / "other")}, "/", own) is None


def test_buffering_is_decided_at_start() -> None:
    """-u is no reason for a new interpreter where the environment says the same, else it is."""
    assert parse([sys.executable, "-u", "a.py"], {"PYTHONUNBUFFERED": "1"}, "/", sys.executable)
    assert parse([sys.executable, "-u", "a.py"], {"PATH": os.defpath}, "/", sys.executable) is None
