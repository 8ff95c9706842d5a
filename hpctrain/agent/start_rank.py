"""Becomes a rank: ``python -I -S start_rank.py PARENT_PID PROGRAM ARGS...`` (entry point, standard library only).

What must happen between fork and exec happens here, in a process of its own, because the agent has threads and may
not run Python code in a forked child. ``exec`` keeps the pid, the process group and the death signal.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61
_OOM_SCORE = "500"


def main() -> None:
    """Tie our life to the agent's, then exec."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_PTRACER, parent, 0, 0, 0)  # the agent may look why we hang; without Yama this does nothing
    if os.getppid() != parent:
        sys.exit(1)  # the agent died before it could be noticed
    # When memory runs out the kernel should take a rank, whose end the agent can explain, and not the agent.
    # (Not pathlib: it costs 10 ms of every rank's start.)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(_OOM_SCORE)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and exec would pass that on
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - an argument list from plan.json, no shell
    except OSError as error:
        print(f"hpctrain: cannot start {argv[0]!r}: {error.strerror}", file=sys.stderr)  # noqa: T201 - the rank's own log
        sys.exit(126 if isinstance(error, PermissionError) else 127)


if __name__ == "__main__":
    main()
