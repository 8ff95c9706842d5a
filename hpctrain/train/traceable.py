"""Lets the agent find out what this rank does when it hangs (adapter over ``faulthandler`` and one file).

Whoever starts a rank lets its agent read the rank's memory (``PR_SET_PTRACER``, for kernels with Yama), which py-spy needs.
Where there is no py-spy, the rank writes its stacks itself, on a signal, from a handler that needs no Python to run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

DUMP_SIGNAL = signal.SIGUSR2
STACKS_SUFFIX = ".stacks"
"""The agent knows the file by the end of its name, among the files that this process has open."""


def write_stacks_on_signal(heartbeat_file: str) -> int | None:
    """Write the stacks of all threads into a file beside the heartbeat at each :data:`DUMP_SIGNAL`.

    Returns:
        The descriptor, which must stay open; None where there is no heartbeat file or it cannot be written.
    """
    if not heartbeat_file:
        return None
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(heartbeat_file + STACKS_SUFFIX, flags, 0o600)
        faulthandler.register(DUMP_SIGNAL, file=handle, all_threads=True, chain=False)
        return handle
    return None
