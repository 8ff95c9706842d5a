"""``python -m hpctrain.health prolog|epilog|periodic``: what Slurm runs (entry point).

Exit codes: 0 the job may start; :data:`DRAIN` take this node out of service. Nothing else is ever returned on purpose, and
``slurm_scripts/prolog.sh`` takes every other code for our own failure, which costs no node and no job.

The work is done by a child. What waits for it touches no file, no driver and no network, so nothing can block it.
"""

from __future__ import annotations

import sys
import time

DRAIN = 90


def main(arguments: list[str]) -> int:
    """Run one context under a supervisor; the exit code."""
    context = arguments[0] if arguments else ""
    if context not in ("prolog", "epilog", "periodic") or len(arguments) != 1:
        sys.stderr.write("usage: python -m hpctrain.health prolog|epilog|periodic\n")
        return 2
    started = time.monotonic()
    from hpctrain.health.supervise import supervise

    return supervise(context, started, DRAIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
