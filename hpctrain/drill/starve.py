"""Lets a process allocate no more memory blocks (adapter over prlimit).

The blocks of the RAM tier are files in memory, and the kernel holds these to the limit on the size of files
(RLIMIT_FSIZE) of whoever makes them larger: with a limit of one page the kernel refuses what it would refuse on a full node,
and no other program of the machine goes short.
"""

from __future__ import annotations

import contextlib
import resource

PAGE_BYTES = 4096


def starve(pid: int) -> bool:
    """No block any more; False where the process is gone or may not be limited."""
    with contextlib.suppress(OSError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (PAGE_BYTES, hard))
        return True
    return False


def feed(pid: int) -> bool:
    """As many as before."""
    with contextlib.suppress(OSError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        return True
    return False
