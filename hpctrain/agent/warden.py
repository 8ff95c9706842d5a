"""Kills the ranks' process groups when their agent is gone (entry point, standard library only).

``python -I -S warden.py LOCAL_DIR`` reads lines from its standard input, which only the agent holds open for writing:
``+PID`` adds a process group, ``-PID`` removes one that has been reaped. At the end of input the agent is dead (or
done): every group still listed is killed, and the agent's node-local directory is removed. The ranks themselves also
die by PR_SET_PDEATHSIG; this reaches *their* children.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Keep the list until the end of input, then kill what is on it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        sign, number_text = line[:1], line[1:].strip()
        if number_text.isdigit():
            (groups.add if sign == "+" else groups.discard)(int(number_text))
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    import shutil  # not held in memory while waiting, which is nearly always

    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
