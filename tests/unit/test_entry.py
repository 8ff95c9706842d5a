"""Ctrl-C at the edges of the program's life."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW_IMPORT = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
sys.argv = ["hpctrain", "--version"]
import hpctrain.cli.entry
hpctrain.cli.entry.main()
"""


@pytest.mark.parametrize("name", ["hpctrain.cli.main", "click"])
def test_interrupt_while_importing_ends_with_130(name: str) -> None:
    """Ctrl-C while the program still imports gives one line and exit code 130, no traceback."""
    done = subprocess.run([sys.executable, "-c", SLOW_IMPORT.format(name=name)], capture_output=True, text=True, check=False)

    assert (130, "error: interrupted\n") == (done.returncode, done.stderr)


def test_interrupt_after_the_end_changes_nothing() -> None:
    """Ctrl-C while the interpreter ends leaves the exit code that was decided."""
    program = (
        "import atexit, os, signal, sys\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['hpctrain', '--version']\n"
        "from hpctrain.cli.entry import main\n"
        "main()\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
