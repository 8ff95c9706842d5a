"""A forked rank is like a started one, its end is known at once, and nothing depends on the process that forks."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.agent.launcher import LATE_NAMES, Launcher, early_differences
from hpctrain.agent.rank_environment import LocalFiles, Rendezvous, rank_environment
from hpctrain.agent.rank_plan import plan_ranks
from hpctrain.agent.rank_process import RankProcess, RunningRank
from hpctrain.agent.warm_link import State, WarmRank
from hpctrain.clock import SystemClock
from hpctrain.ids import Incarnation, NodeName, Rank
from hpctrain.submit.plan_model import Plan, RankCommand, SlurmRequest

LIMIT_S = 240.0
COMMON = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


class Bench:
    """A launcher that forks, and what it said and watched."""

    def __init__(self, workdir: Path, script: str = "main.py", **env: str) -> None:
        self.workdir = workdir
        self.said: list[str] = []
        self.watched: list[int] = []
        command = RankCommand((sys.executable, script), str(workdir), env, is_trainer=False)
        plan = Plan("run", str(workdir), sys.executable, 1, 0, 2, "cpu", command, SlurmRequest("run", 1, "out"))
        self.plan = plan
        self.launcher = Launcher(
            plan, node="n1", env=COMMON, clock=SystemClock(), say=self.said.append, watch=self.watched.append,
            forget=lambda pid: self.watched.remove(pid) if pid in self.watched else None,
        )

    def environment(self, rank: int = 0) -> dict[str, str]:
        """What an agent gives a rank."""
        ranks = plan_ranks([NodeName("n1")], 1, 2, Incarnation(0))
        return rank_environment(
            self.plan, ranks, node=NodeName("n1"), rank=Rank(rank),
            rendezvous=Rendezvous("127.0.0.1", 1, NodeName("n1"), "lo"), files=LocalFiles("h", "s", "e"), base=COMMON,
        )

    def launch(self, *words: str, **env: str) -> RunningRank:
        """One rank, as a node agent starts it."""
        return self.launcher.launch((sys.executable, *words), {**self.environment(), **env}, str(self.workdir))


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is imported does not matter here, but for one test that says so."""
    monkeypatch.setattr("hpctrain.agent.launcher.SCRIPT_MODULES", ("json", "multiprocessing.process", "not_there.at_all"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.launcher.start()
    yield made
    made.launcher.stop()


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def finish(rank: RunningRank) -> tuple[int | None, str]:
    """How it ended and what it printed."""
    output = rank.stdout.read().decode()
    assert wait_until(lambda: rank.poll() is not None)
    return rank.poll(), output


def both(bench: Bench, *words: str, **env: str) -> tuple[int | None, str]:
    """Run it forked and started; they must agree on everything but process ids and addresses."""
    forked = bench.launch(*words, **env)
    assert isinstance(forked, WarmRank), bench.said
    started = RankProcess((sys.executable, *words), {**bench.environment(), **env}, str(bench.workdir))
    results = [(code, re.sub(r"0x[0-9a-f]+|\bPID \d+", "#", text)) for code, text in (finish(forked), finish(started))]
    assert results[0] == results[1]
    return results[0]


def write(bench: Bench, name: str, text: str) -> None:
    path = bench.workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))


FACTS = """
    import json, os, signal, sys, threading
    seen = {
        "argv": sys.argv, "orig": sys.orig_argv, "path": sys.path, "main": sorted(k for k in globals() if k != "_"),
        "name": [__name__, __file__, str(__spec__), __package__, __cached__, type(__loader__).__name__, __doc__],
        "env": dict(os.environ), "cwd": os.getcwd(), "group": os.getpgid(0) == os.getsid(0) == os.getpid(),
        "signals": {s: str(signal.getsignal(s)) for s in sorted(signal.valid_signals())},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "wakeup": signal.set_wakeup_fd(-1),
        "oom": open("/proc/self/oom_score_adj").read(), "hash": hash("text"), "flags": str(sys.flags),
        "executable": [sys.executable, sys.prefix], "threads": threading.active_count(), "warnings": sys.warnoptions,
        "encodings": [sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering, sys.stderr.line_buffering],
        "fds": [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in (0, 1, 2)], "umask": os.umask(0o77),
        "fd_count": len(os.listdir("/proc/self/fd")), "is_main": sys.modules["__main__"].__dict__ is globals(),
        "future": eval("1 / 2"),
    }
    print(json.dumps(seen, indent=1, default=str))
"""


def test_a_forked_program_finds_what_a_started_one_finds(bench: Bench) -> None:
    """Arguments, module search path, __main__, environment, signals, descriptors and all else agree, for file and module."""
    write(bench, "main.py", FACTS)
    write(bench, "pkg/__init__.py", "")
    write(bench, "pkg/tool.py", FACTS)
    write(bench, "pkg/__main__.py", FACTS)
    write(bench, "sub/other.py", FACTS)
    (bench.workdir / "link.py").symlink_to("sub/other.py")

    for words in (["main.py", "--x", "ü y"], ["./main.py"],
["sub/../main.py"], [str(bench.workdir / "main.py")], ["link.py"],
                  ["-u", "-m", "pkg.tool", "1"], ["-m", "pkg"], ["-m", "main"]):
        code, text = both(bench, *words, HPCTRAIN_EXTRA="a\nb")
        assert code == 0, text
        facts = json.loads(text)
        assert ("a\nb", "500\n", True) == (facts["env"]["HPCTRAIN_EXTRA"], facts["oom"], facts["group"])


@pytest.mark.parametrize(("body", "expected"), [
    ("pass", 0), ("import sys; sys.exit(7)", 7), ("raise SystemExit('a sentence')", 1), ("raise SystemExit", 0),
    ("def f():\n    return 1 / 0\nf()", 1), ("x = = 1", 1), ("import os; os._exit(9)", 9), ("raise KeyboardInterrupt", -2),
    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15), ("import os; os.abort()", -6),
    ("import atexit; atexit.register(print, 'at the end'); print('first')", 0),
    ("import threading, time; threading.Thread(target=lambda: (time.sleep(.2), print('thread'))).start(); print('main')", 0),
    ("import sys; sys.stderr.write('1\\n'); print('2'); sys.stderr.write('3\\n'); print('4')", 0),
    ("import sys; sys.excepthook = lambda *a: print('own hook', a[0].__name__); import nothing_like_it", 1),
    ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('second') from e", 1),
    ("raise BaseExceptionGroup('two', [KeyError(1), ValueError(2)]) if 'BaseExceptionGroup' in dir(__builtins__) else 0", 1),
])
def test_a_forked_program_ends_as_a_started_one(bench: Bench, body: str, expected: int) -> None:
    """Exit codes, signals, tracebacks, order of output, threads and exit handlers agree to the letter."""
    write(bench, "main.py", body)

    code, _ = both(bench, "main.py")

    assert code == expected


def test_errors_of_the_command_line_are_the_interpreters_own(bench: Bench) -> None:
    """A missing file or module, a file that is no source, and a missing directory are said in the same words."""
    write(bench, "bytes.py", "")
    (bench.workdir / "bytes.py").write_bytes(b"x = '\xff'\n")

    for words in (["no_such.py"], ["-m", "no_such_module"], ["-m", "json.no_such"], ["bytes.py"]):
        code, text = both(bench, *words)
        assert (code != 0, text != "") == (True, True), words
    gone = bench.launcher.launch((sys.executable, "main.py"), bench.environment(), "/no/such/directory")
    assert (127, True) == ((result := finish(gone))[0], "No such file" in result[1])


def test_a_module_beside_the_program_is_found(bench: Bench) -> None:
    """A file that has the name of a module which is loaded already is the one that the program gets, as always."""
    write(bench, "main.py", "import helper, json; print(helper.NAME, json.__file__)")
    write(bench, "helper.py", "NAME = 'mine'")
    assert str(bench.workdir) not in both(bench, "main.py")[1].replace("mine", "")

    write(bench, "json.py", "")

    assert str(bench.workdir / "json.py") in both(bench, "main.py")[1]


def test_programs_may_start_processes_of_their_own(bench: Bench) -> None:
    """Multiprocessing finds the program again in a spawned child, from a file and from a module, and pickles its classes."""
    write(bench, "work.py", """
        import multiprocessing, os, pickle
        class Thing:
            def __init__(self, value): self.value = value
        def double(thing): return Thing(2 * thing.value)
        if __name__ == "__main__":
            os.chdir("/")
            for method in ("spawn", "fork", "forkserver"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(method, pool.map(double, [Thing(21)])[0].value, pickle.loads(pickle.dumps(Thing(1))).value)
    """)

    for words in (["work.py"], ["-m", "work"]):
        code, text = both(bench, *words)
        assert (0, "spawn 42 1\nfork 42 1\nforkserver 42 1\n") == (code, text)


def test_forked_programs_draw_different_random_numbers(bench: Bench) -> None:
    """Two ranks of one parent do not share the state of Python's generator."""
    write(bench, "main.py", "import random, multiprocessing as m; print(random.random(), m.current_process().authkey.hex())")

    drawn = {finish(bench.launch("main.py"))[1] for _ in range(3)}

    assert len(drawn) == 3


def test_the_end_of_a_rank_wakes_its_agent(bench: Bench) -> None:
    """A killed rank makes its descriptor readable, and its signal is known then; so is the end of all it started."""
    write(bench, "main.py", """
        import subprocess
        child = subprocess.Popen(["sleep", "1000"])
        print(child.pid, flush=True)
        child.wait()
    """)
    rank = bench.launch("main.py")
    grandchild = int(rank.stdout.readline())
    fd = rank.fileno()
    assert (fd is not None, rank.poll()) == (True, None)
    assert [] == select.select([fd], [], [], 0)[0]

    os.kill(rank.pid, signal.SIGKILL)

    assert [fd] == select.select([fd], [], [], LIMIT_S)[0]
    assert (-signal.SIGKILL, True) == (rank.poll(), alive(grandchild))
    rank.kill()
    assert wait_until(lambda: not alive(grandchild))
    assert rank.pid in bench.watched


def test_a_rank_is_asked_to_stop(bench: Bench) -> None:
    """A signal that asks reaches the program's handler; killing at once after the start kills too."""
    write(bench, "main.py", """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *a: sys.exit(5))
        print("ready", flush=True)
        time.sleep(1000)
    """)
    rank = bench.launch("main.py")
    rank.stdout.readline()

    rank.ask_to_stop(signal.SIGTERM)

    assert wait_until(lambda: rank.poll() == 5)
    for _ in range(5):
        rank = bench.launch("main.py")
        rank.kill()
        assert wait_until(lambda rank=rank: rank.poll() == -signal.SIGKILL)


def test_ranks_die_with_the_process_that_forked_them(bench: Bench) -> None:
    """They are reported as killed, another such process takes its place, and after a few deaths ranks are just started."""
    write(bench, "main.py", "import time; print('runs', flush=True); time.sleep(1000)")
    for _ in range(3):
        ranks = [bench.launch("main.py"), bench.launch("main.py")]
        assert all(isinstance(rank, WarmRank) and rank.stdout.readline() == b"runs\n" for rank in ranks)
        assert bench.launcher.warm_pid is not None
        os.kill(bench.launcher.warm_pid, signal.SIGKILL)
        assert wait_until(lambda ranks=ranks: all(rank.poll() == -signal.SIGKILL for rank in ranks))
        assert not any(alive(rank.pid) for rank in ranks)

    last = bench.launch("main.py")

    assert isinstance(last, RankProcess)
    assert (False, False) == (bench.launcher.warm, bench.launcher.warming)
    assert "ended with -9; ranks are started without it" in bench.said[-1]
    last.kill()


def test_a_stopped_launcher_leaves_nothing(bench: Bench) -> None:
    """Its process and all ranks are gone, and reported so."""
    write(bench, "main.py", "import time; time.sleep(1000)")
    rank, warm = bench.launch("main.py"), bench.launcher.warm_pid

    bench.launcher.stop()

    assert warm is not None
    assert wait_until(lambda: rank.poll() is not None)
    assert not alive(rank.pid)
    assert not alive(warm)
    assert set(bench.watched) == {rank.pid}


def test_everything_dies_with_a_killed_agent(tmp_path: Path) -> None:
    """SIGKILL of the agent takes the warm process and the ranks along."""
    (tmp_path / "main.py").write_text("import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(1000)")
    agent = textwrap.dedent("""
        import os, sys, time
        from hpctrain.agent.python_command import parse
        from hpctrain.agent.warm_link import WarmLink, WarmOrder
        from hpctrain.clock import SystemClock
        env, nothing = dict(os.environ), lambda pid: None
        link = WarmLink(WarmOrder(env, "."), clock=SystemClock(), say=print, watch=nothing, forget=nothing)
        link.start()
        link.wait(60)
        rank = link.fork(parse([sys.executable, "main.py"], env, ".", sys.executable), env, ".")
        print(rank.stdout.readline().decode(), flush=True)
        time.sleep(1000)
    """)
    child = process.start([sys.executable, "-c", agent], cwd=str(tmp_path), stdout=process.PIPE)
    assert child.stdout is not None
    pids = [int(word) for word in child.stdout.readline().split()]
    assert (2, True) == (len(pids), all(alive(pid) for pid in pids))

    child.kill()
    child.wait()

    assert wait_until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize(("name", "body", "why"), [
    ("threads_at_import", "import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
     "threads"),
    ("fails_at_import", "raise RuntimeError('no licence')", "importing fails_at_import failed: RuntimeError: no licence"),
    ("dies_at_import", "import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()",
     "ended with -6 (last words"),
])
def test_what_cannot_be_forked_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str, why: str
) -> None:
    """A module that starts threads, fails or crashes at import costs the short cut, with a sentence, and nothing else."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / f"{name}.py").write_text(body)
    (tmp_path / "main.py").write_text("print('ran')")
    monkeypatch.setattr("hpctrain.agent.launcher.SCRIPT_MODULES", (name,))
    bench = Bench(tmp_path, PYTHONPATH=str(place))
    bench.launcher.start()
    try:
        rank = bench.launch("main.py")
        assert (RankProcess, (0, "ran\n")) == (type(rank), finish(rank))
        assert why in bench.said[-1]
    finally:
        bench.launcher.stop()


def test_what_tuning_imports_can_be_forked(tmp_path: Path) -> None:
    """A process that has imported what a tuning method needs, pyarrow too, has no threads that forbid a fork."""
    for module in ("torch", "trl", "peft", "datasets"):
        pytest.importorskip(module)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"method": "rlvr", "adapter": {"kind": "lora"}, "tracking": {"tensorboard": true}}')
    order = {"modules": ["datasets"], "recipe": str(recipe)}
    program = f"from hpctrain.agent.warm import _warm_up; print(repr(_warm_up({order!r})))"
    result = process.run([sys.executable, "-c", program], timeout_s=120)
    assert result.stdout.strip() == "''", (result.stdout, result.stderr)


def test_what_interpreters_read_at_start_is_never_forked(bench: Bench) -> None:
    """A rank with another thread count is started as a process of its own, and the job's output says why."""
    write(bench, "main.py", "import os; print(os.environ['OMP_NUM_THREADS'])")
    assert isinstance(bench.launch("main.py"), WarmRank)

    rank = bench.launch("main.py", OMP_NUM_THREADS="3")

    assert (RankProcess, (0, "3\n")) == (type(rank), finish(rank))
    assert bench.said == ["n1: ranks are started as new processes: OMP_NUM_THREADS must be known before imports"]
    assert ["A", "B"] == early_differences({"A": "1", "RANK": "0"}, {"B": "1", "A": "2", **dict.fromkeys(LATE_NAMES, "9")})


@pytest.mark.parametrize("script", ["tool.sh", "-c"])
def test_other_programs_have_no_warm_process(tmp_path: Path, script: str) -> None:
    """Where the plan's command cannot be forked nothing is imported for it."""
    bench = Bench(tmp_path, script)
    bench.launcher.start()

    assert (None, False, False) == (bench.launcher.warm_pid, bench.launcher.warm, bench.launcher.warming)
    bench.launcher.stop()


def test_torch_works_in_forked_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with torch from their parent train together, with several threads each and loader workers of both kinds."""
    pytest.importorskip("torch")
    monkeypatch.undo()
    bench = Bench(tmp_path, OMP_NUM_THREADS="2")
    write(bench, "main.py", """
        import sys
        loaded = "torch._dynamo" in sys.modules
        import numpy, os, torch, torch.distributed as dist
        from torch.utils.data import DataLoader
        if __name__ == "__main__":
            dist.init_process_group("gloo", store=dist.FileStore("store", 2), rank=int(os.environ["RANK"]), world_size=2)
            model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(300, 300))
            data = list(torch.randn(8, 300))
            for method in ("fork", "spawn") if dist.get_rank() == 0 else ("fork", "fork"):
                for batch in DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=method):
                    model(batch).sum().backward()
            a = numpy.ones((600, 600)) @ numpy.ones((600, 600))
            total = torch.tensor([float(a[0, 0])])
            dist.all_reduce(total)
            print(loaded, torch.get_num_threads(), total.item(), dist.get_rank())
            drawn = [None, None]
            dist.all_gather_object(drawn, torch.initial_seed())
            assert drawn[0] != drawn[1]
            sys.stdout.flush()
            os._exit(0)
    """)
    bench.launcher.start()
    try:
        assert wait_until(lambda: not bench.launcher.warming)
        ranks: list[Any] = [
            bench.launcher.launch((sys.executable, "main.py"), bench.environment(rank), str(tmp_path)) for rank in (0, 1)
        ]
        for number, rank in enumerate(ranks):
            assert isinstance(rank, WarmRank), bench.said
            assert (0, f"True 2 1200.0 {number}\n") == finish(rank)
    finally:
        bench.launcher.stop()


def test_nothing_is_left_when_stopped_early(tmp_path: Path) -> None:
    """A launcher that is stopped while it imports ends at once; one that was never started has nothing to stop."""
    bench = Bench(tmp_path)
    bench.launcher.stop()
    other = Bench(tmp_path)
    other.launcher.start()
    other.launcher.stop()

    assert [State.OFF] == [other.launcher._link.state if other.launcher._link else None]
    assert other.watched == []
