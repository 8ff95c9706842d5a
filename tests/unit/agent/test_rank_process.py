"""Ranks die with everything they started, also when their agent is killed."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from hpctrain import process
from hpctrain.agent.rank_process import RankProcess


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    """Runs, and is not a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def read_pid(path: Path) -> int:
    assert wait_until(lambda: path.exists() and path.read_text().strip().isdigit())
    return int(path.read_text())


def start(*argv: str) -> RankProcess:
    return RankProcess(argv, dict(os.environ), "/")


def test_exit_codes_and_signals_are_reported() -> None:
    """An exit code is itself, a signal is negative, a missing program is 127 with a sentence."""
    ranks = [start("sh", "-c", "exit 3"), start("sh", "-c", "kill -9 $$"), start("/no/such/program")]
    assert wait_until(lambda: all(rank.poll() is not None for rank in ranks))
    assert [rank.returncode for rank in ranks] == [3, -9, 127]
    assert b"cannot start '/no/such/program': No such file or directory" in ranks[2].stdout.read()


def test_rank_starts_with_default_signals() -> None:
    """What Python ignores (SIGPIPE) a rank does not: its programs end when their reader goes away."""
    rank = start("sh", "-c", "grep SigIgn /proc/self/status")
    assert int(rank.stdout.read().split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_kill_reaches_grandchildren(tmp_path: Path) -> None:
    """Killing a rank kills what it started, also when the rank itself is already gone."""
    rank = start("sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid")
    grandchild = read_pid(tmp_path / "pid")
    assert wait_until(lambda: rank.poll() is not None)
    assert alive(grandchild)
    rank.kill()
    assert wait_until(lambda: not alive(grandchild))


def test_stop_signal_goes_to_the_rank_but_through_a_shell(tmp_path: Path) -> None:
    """A program gets the signal alone, its helpers do not; a shell, which would sit on it, passes it on."""
    for name, command in (("python", sys.executable), ("shell", "sh")):
        child, done = tmp_path / f"{name}.child", tmp_path / f"{name}.done"
        if name == "python":
            code = f"import signal,subprocess,sys;c=subprocess.Popen(['sleep','1000']);" \
                   f"signal.signal(15,lambda *a:(open({str(done)!r},'w').write(str(c.poll())),sys.exit(0)));" \
                   f"open({str(child)!r},'w').write(str(c.pid));signal.pause()"
            rank = start(command, "-c", code)
        else:
            rank = start(command, "-c", f"sleep 1000 & echo $! > {child}; wait")
        pid = read_pid(child)
        rank.ask_to_stop(signal.SIGTERM)
        assert wait_until(lambda rank=rank: rank.poll() is not None)
        assert alive(pid) is (name == "python")
        rank.kill()


def test_everything_dies_with_a_killed_agent(tmp_path: Path) -> None:
    """SIGKILL of the agent leaves neither rank nor grandchild, though it could run no handler, and no local directory."""
    local = tmp_path / "local"
    local.mkdir()
    agent = textwrap.dedent(f"""
        import os, time
        from pathlib import Path
        from hpctrain.agent.rank_process import RankProcess, Warden
        warden = Warden(Path({str(local)!r}))
        rank = RankProcess(["sh", "-c", "sleep 1000 & echo $! > {tmp_path}/grandchild; wait"], dict(os.environ), "/")
        warden.watch(rank.pid)
        Path("{tmp_path}/rank").write_text(str(rank.pid))
        time.sleep(1000)
    """)
    child = process.start([sys.executable, "-c", agent])
    rank, grandchild = read_pid(tmp_path / "rank"), read_pid(tmp_path / "grandchild")
    time.sleep(0.1)
    child.kill()
    child.wait()
    assert wait_until(lambda: not alive(rank) and not alive(grandchild) and not local.exists())
