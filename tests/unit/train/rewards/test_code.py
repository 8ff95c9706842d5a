"""Code that a model wrote, run in the sandbox for real."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hpctrain.train.rewards.code import code_reward, code_rewards
from hpctrain.train.rewards.sandbox import MOST_OUTPUT_BYTES, Limits, protections, run_python

LIMITS = Limits(20.0, 512 * 2**20)
SHORT = Limits(1.0, 512 * 2**20)
ADD = "def add(a, b):\n    return a + b\n"


def run(text: str, limits: Limits = LIMITS) -> tuple[int, str, bool]:
    outcome = run_python({"x.py": text}, ["x.py"], limits)
    return outcome.returncode, outcome.stdout, outcome.timed_out


def test_shares_of_tests() -> None:
    """The reward is the share of tests that pass, assertions and programs alike; None without tests, 0 without code."""
    tests = ["assert add(1, 2) == 3", "assert add(1, 2) == 4"]
    program = [{"input": "3\n4\n", "output": "7"}, {"input": "1\n1\n", "output": "3"}]
    adder = "print(int(input()) + int(input()))"

    found = code_rewards([ADD, ADD, ADD, "def add(", "", adder, ADD],
                         [tests, tests[0], tests[1], tests[0], tests[0], program, None], LIMITS)

    assert found == [0.5, 1.0, 0.0, 0.0, 0.0, 0.5, None]


@pytest.mark.parametrize("answer", ["import sys\nsys.exit(0)", "import os\nos._exit(0)", "raise SystemExit", "1/0"])
def test_leaving_early_passes_nothing(answer: str) -> None:
    """Code that ends the process before the tests run has passed none of them."""
    assert code_reward(answer, ["assert True"], LIMITS) == 0.0


def test_a_test_that_leaves_does_not_pass() -> None:
    """An exit inside the answer's function is no pass, and does not stop the tests after it."""
    assert code_reward("def f():\n    raise SystemExit(0)", ["f()", "assert True"], LIMITS) == 0.5


def test_endless_code_is_killed() -> None:
    """A loop without end, and what it started, are gone soon after the time is over."""
    started = time.monotonic()

    assert code_reward("while True: pass", ["assert True"], SHORT) == 0.0
    assert time.monotonic() - started < 15


def test_memory_is_limited() -> None:
    """A program that wants more memory than it may have gets an error, and the machine keeps it."""
    code, text, _ = run("try:\n    x = bytearray(2**30)\nexcept MemoryError:\n    print('no memory')")

    assert (code, text) == (0, "no memory\n")


def test_output_is_limited() -> None:
    """A program that prints without end fills neither our memory nor the disk."""
    _, text, _ = run("while True: print('x' * 1000)", Limits(5.0, 512 * 2**20))

    assert len(text) <= MOST_OUTPUT_BYTES


def test_nothing_of_ours_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program sees none of our environment, such as keys."""
    monkeypatch.setenv("MY_API_KEY", "secret")

    assert "secret" not in run("import os; print(os.environ)")[1]


def test_children_do_not_stay() -> None:
    """A process that the program leaves behind, even in another session, does not outlive it."""
    if "processes" not in protections():
        pytest.skip("this kernel gives an ordinary user no namespaces")
    mark = f"hpctrain-left-{os.getpid()}"
    code, text, _ = run(f"""
import os, time
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["{mark}", "300"])
print("done")
""")
    time.sleep(0.2)
    alive = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in read(path)]

    assert (code, text, alive) == (0, "done\n", [])


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_no_network() -> None:
    """The program reaches no address, not even this machine's own."""
    if "network" not in protections():
        pytest.skip("this kernel gives an ordinary user no namespaces")
    text = run("""
import socket
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError as error:
    print(error.errno)
""")[1]

    assert text == "101\n"  # network is unreachable, where a closed port would be 111


def test_files_elsewhere_are_safe(tmp_path: Path) -> None:
    """The program writes in its own directory, and neither changes nor removes a file anywhere else."""
    if "files" not in protections():
        pytest.skip("this kernel has no Landlock")
    mine = tmp_path / "mine"
    mine.write_text("kept")
    text = run(f"""
import os
open("own", "w").write("x")
mine, new = {str(mine)!r}, {str(tmp_path / "new")!r}
for act in (lambda: open(mine, "w"), lambda: os.remove(mine), lambda: os.mkdir(new)):
    try:
        act()
        print("did it")
    except PermissionError:
        print("refused")
""")[1]

    assert (text, mine.read_text()) == ("refused\nrefused\nrefused\n", "kept")
