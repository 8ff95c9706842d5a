"""A site's command runs once, whatever dies, and how it ended is known."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from hpctrain.nodes.hooks import STARTED, Hooks, HookState


def ended(hooks: Hooks, act: str) -> HookState:
    """The state once the command is over."""
    until = time.monotonic() + 60
    while (state := hooks.state(act, 30)).state == "running":
        assert time.monotonic() < until
        time.sleep(0.05)
    return state


def test_a_command_runs_once_and_its_end_is_known(tmp_path: Path) -> None:
    """Arguments pass unchanged, a second start runs nothing, and another act runs it again."""
    hooks, out = Hooks(tmp_path / "hooks"), tmp_path / "out"
    command = ["/bin/sh", "-c", 'printf "%s\\n" "$1" "$HPCTRAIN_REMEDY" >>"$0"; echo told', str(out), "a; b $(c) 'd'"]
    assert hooks.state("n1-7", 30) == HookState("absent")
    hooks.start("n1-7", command, 30)
    assert ended(hooks, "n1-7") == HookState("ended", ok=True, told="exit status 0: told")
    hooks.start("n1-7", command, 30)
    assert out.read_text() == "a; b $(c) 'd'\nn1-7\n"
    hooks.start("n1-8", command, 30)
    ended(hooks, "n1-8")
    assert out.read_text().endswith("n1-8\n")


def test_a_failure_is_told(tmp_path: Path) -> None:
    """Exit status and complaint; a program that does not exist; no end in time."""
    hooks = Hooks(tmp_path / "hooks")
    for act, command, timeout_s in (
        ("a", ["/bin/sh", "-c", "echo no capacity >&2; exit 3"], 30.0),
        ("b", ["/nonexistent/program"], 30.0),
        ("c", ["/bin/sleep", "600"], 0.2),
    ):
        hooks.start(act, command, timeout_s)
    assert ended(hooks, "a") == HookState("ended", told="exit status 3: no capacity")
    assert "/nonexistent/program" in ended(hooks, "b").told
    assert "no end within 0.2 s" in ended(hooks, "c").told


def test_a_killed_runner_is_lost_and_nothing_runs_again(tmp_path: Path) -> None:
    """What became of the command is not known: a person is told, and it is not started a second time."""
    hooks, out = Hooks(tmp_path / "hooks"), tmp_path / "out"
    command = ["/bin/sh", "-c", 'echo x >>"$0"; exec sleep 600', str(out)]
    assert hooks.start("n1-7", command, 900).state == "running"
    until = time.monotonic() + 30
    while not out.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    runner = json.loads((tmp_path / "hooks/n1-7" / STARTED).read_text())["pid"]
    child = int(Path(f"/proc/{runner}/task/{runner}/children").read_text().split()[0])
    os.kill(runner, signal.SIGKILL)
    try:
        until = time.monotonic() + 30
        while hooks.state("n1-7", 900).state == "running":
            assert time.monotonic() < until
            time.sleep(0.05)
        state = hooks.start("n1-7", command, 900)
        assert (state.state, state.ok) == ("lost", False)
        assert "look whether it worked" in state.told
        assert out.read_text() == "x\n"
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_receipt_that_was_never_written_is_lost(tmp_path: Path) -> None:
    """A receipt whose text was lost with the power: still not started again."""
    hooks = Hooks(tmp_path / "hooks")
    (tmp_path / "hooks/n1-7").mkdir(parents=True)
    (tmp_path / "hooks/n1-7" / STARTED).touch()
    assert hooks.start("n1-7", ["/bin/true"], 30).state == "lost"
