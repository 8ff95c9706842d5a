"""The edges of the program's life: Ctrl-C, and standard streams that are not what Python took them for."""

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


def test_a_command_runs_where_a_pipe_took_the_place_of_a_file() -> None:
    """A rank that is forked prints into a pipe where its parent had a file; a command of ours runs there as anywhere."""
    program = (
        "import os, sys, tempfile\n"
        "sys.stdout = open(tempfile.mkstemp()[1], 'w')\n"
        "reader, writer = os.pipe()\n"
        "os.dup2(writer, sys.stdout.fileno())\n"
        "from hpctrain.cli.main import main\n"
        "try:\n    main(['--version'])\n"
        "finally:\n    os.write(2, os.read(reader, 100))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("hpctrain")
