"""What the ``hpctrain`` program runs first and last: Ctrl-C gives 130 also while it starts and while it ends (entry point).

Imports nothing but what is needed before click is: Ctrl-C during imports would otherwise end in a traceback, and Ctrl-C
during the interpreter's own end in death by a signal.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line; exit with the code of the error table (docs/exit-codes.md)."""
    try:
        from hpctrain.cli.main import main as run

        try:
            run()
        finally:
            # The exit code is decided: from here on there is nothing left to interrupt.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        os.write(2, b"error: interrupted\n")
        os._exit(130)
