"""Becomes a program with limits: ``python -I -S sandbox_child.py SETTINGS PROGRAM ARGS...`` (entry point).

Standard library only. SETTINGS is JSON: directory, memory_bytes, file_bytes, cpu_seconds, parent (pid), report (a file that
gets the list of what the kernel could hold the program to). Limits come first, then what not every kernel or site allows:

* ``network``, ``processes``: namespaces of its own for network, processes and shared memory (user namespaces);
* ``files``: Landlock, by which it may write only below its directory and in ``/dev/null``.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE = {"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000}
# The three system calls of Landlock have the same numbers on every architecture of Linux.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1
_LANDLOCK_PATH = 1
_WRITES_BY_VERSION = (0x1FF2, 0x2000, 0x4000)
"""What Landlock's versions 1, 2 and 3 know of writing: write, remove and make files of all kinds; rename across directories;
truncate."""
_WRITE_FILE, _TRUNCATE = 0x2, 0x4000
_NO_COREDUMPS = 0
_FILES, _PROCESSES = 64, 64


def main() -> None:
    """Take the limits on, then become the program."""
    settings, argv = json.loads(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != settings["parent"]:
        sys.exit(1)
    report = os.open(settings["report"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.chdir(settings["directory"])
    held = ["network", "processes"] if _own_namespaces(libc) else []
    _limit(settings)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _write_only_below(libc, settings["directory"]):
        held.append("files")
    os.write(report, json.dumps(held).encode())
    _become(argv, in_namespace=bool(held and held[0] == "network"), libc=libc)


def _own_namespaces(libc: Any) -> bool:
    """The next child is alone among processes, and without a network."""
    return bool(libc.unshare(_CLONE["user"] | _CLONE["net"] | _CLONE["ipc"] | _CLONE["pid"]) == 0)


def _limit(settings: dict[str, Any]) -> None:
    memory, size, cpu = settings["memory_bytes"], settings["file_bytes"], settings["cpu_seconds"]
    for kind, value in (
        (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_CORE, _NO_COREDUMPS), (resource.RLIMIT_NOFILE, _FILES),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard),) * 2)


def _write_only_below(libc: Any, directory: str) -> bool:
    """Landlock, where the kernel has it (5.13 and later, unless switched off)."""
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    writes = sum(_WRITES_BY_VERSION[:version])
    attributes = struct.pack("=Q", writes)
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    for place, allowed in ((directory, writes), ("/dev/null", writes & (_WRITE_FILE | _TRUNCATE))):
        with contextlib.suppress(OSError):
            handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
            if libc.syscall(_LANDLOCK_ADD, rules, _LANDLOCK_PATH, struct.pack("=Qi", allowed, handle), 0) != 0:
                return False
            os.close(handle)
    return bool(libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)


def _become(argv: list[str], *, in_namespace: bool, libc: Any) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and exec would pass that on
    if not in_namespace:
        # Counts all processes of this user, so that some room is left beside those that run already; root has no such limit.
        with contextlib.suppress(ValueError, OSError):
            running = sum(name.isdigit() for name in os.listdir("/proc"))
            resource.setrlimit(resource.RLIMIT_NPROC, (running + _PROCESSES,) * 2)
        os.execv(argv[0], argv)  # noqa: S606 - an argument list of ours, no shell
    child = os.fork()  # the first process of the new namespace: when it ends, all others in it are killed
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.execv(argv[0], argv)  # noqa: S606 - an argument list of ours, no shell
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
