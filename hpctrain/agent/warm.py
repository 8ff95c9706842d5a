"""The warm process of a node: imports what ranks need once, then forks them (entry point, standard library only).

``python -c BOOT AGENT_PID FD`` with :data:`BOOT`; FD is its end of a socket pair with the agent. It is told what to
import, says whether it may be forked, and then forks one rank per request and reports how each ended; it is their parent,
so that it alone learns their exit status. It stays a process of one thread that runs no tensor operation: a forked child
has only the thread that forked, and waits for ever for a pool that its parent had. When the agent dies the kernel kills
this process, and with it the ranks.

``-c`` because it leaves no trace: neither the working directory nor ours is on the module search path while modules are
imported, so that a file called random.py beside the recipe is not taken for Python's.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.agent.become_rank import Parent, become_rank
from hpctrain.agent.python_command import PythonCommand
from hpctrain.agent.warm_wire import Wire

BOOT = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); from hpctrain.agent.warm import main; "
    "from hpctrain.agent.python_command import run; run(main(sys.argv[1:]))"
)
"""What the interpreter is given to run. In a forked rank ``main`` returns, and nothing of ours is left on the stack."""
PR_SET_PDEATHSIG = 1
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Slurm signals every process of a step; only the agent ends this one."""
_REPORT_MOST = 300


def main(argv: Sequence[str]) -> PythonCommand:
    """Serve the agent until it hangs up. Returns only in a forked rank, with what that is to run."""
    agent, fd = int(argv[0]), int(argv[1])
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != agent:
        sys.exit(1)  # it died before it could be noticed
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    wire = Wire(socket.socket(fileno=fd))
    parent = Parent(os.getpid(), libc, agent)
    order = wire.receive()
    if order is None:
        sys.exit(0)
    started = time.monotonic()
    why = _warm_up(order[0])
    if why:
        wire.send({"refused": why[:_REPORT_MOST]})
        sys.exit(0)
    gc.collect()
    gc.freeze()  # what is shared with ranks stays shared: the collector writes into what it looks at
    wire.send({"ready": time.monotonic() - started, "modules": len(sys.modules)})
    return _serve(wire, parent)


def _warm_up(order: dict[str, Any]) -> str:
    """Import what was asked for; why this process must not be forked, "" if it may."""
    # Asking torch whether there is a GPU must not open it: with this it asks the driver's library instead.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # Importing pyarrow, which every method that tunes a model does by datasets, must not start a thread of its allocator.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    for name in order["modules"]:
        top = name.partition(".")[0]
        try:
            if top in sys.modules or importlib.util.find_spec(top) is not None:
                importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a module does; ranks will meet it too, and say it
            return f"importing {name} failed: {type(error).__name__}: {error}"
    if order.get("recipe"):
        try:
            from hpctrain.train.preload import preload

            preload(Path(order["recipe"]))
        except Exception as error:  # noqa: BLE001 - likewise
            return f"importing the trainer failed: {type(error).__name__}: {error}"
    return not_forkable()


def not_forkable() -> str:
    """Why children of this process would not work, "" if they would."""
    if extra := _threads():
        # Some libraries (OpenBLAS) have threads that they end before a fork and start again when needed.
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(0.01)
        extra = _threads()
    if extra:
        return f"the imported modules have started threads: {', '.join(extra)}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "an imported module has initialised CUDA"
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if (target := os.readlink(fd)).startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")):  # noqa: PTH115
                return f"an imported module has opened {target}"
    return ""


def _threads() -> list[str]:
    """Names of the threads beside the first."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            with contextlib.suppress(OSError):
                found.append((task / "comm").read_text().strip())
    return found


def _serve(wire: Wire, parent: Parent) -> PythonCommand:
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(wire.fileno(), select.POLLIN)
    poll.register(wake, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 512)
                _report_ended(wire)
            if wire.fileno() in ready:
                request = wire.receive()
                if request is None:
                    sys.exit(0)
                command = _fork(wire, parent, *request, close=(wake, wake_write))
                if command is not None:
                    return command
    except BrokenPipeError:
        sys.exit(0)  # the agent is gone; ranks die with us


def _report_ended(wire: Wire) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        wire.send({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _fork(
    wire: Wire, parent: Parent, order: dict[str, Any], fds: list[int], *, close: Sequence[int]
) -> PythonCommand | None:
    """Fork one rank; what it is to run, in the rank itself, and None here."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as error:
        wire.send({"failed": order["id"], "why": f"cannot fork: {error.strerror}"})
        pid = -1
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for fd in close:
            os.close(fd)
        wire.close()
        return become_rank(order, fds[0], parent)
    for fd in fds:
        os.close(fd)
    if pid > 0:
        wire.send({"forked": order["id"], "pid": pid})
    return None
