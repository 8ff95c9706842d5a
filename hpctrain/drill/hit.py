"""Signals a process of a job on the node it runs on (entry point).

``python -m hpctrain.drill.hit JOB RUN_DIR WHAT SIGNAL [RANK]``

Started by a drill as a step inside the job's allocation, where the process is on another host than the drill.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hpctrain.devcluster import processes
from hpctrain.drill.targets import RANK, find_targets
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.rank_pids import newest_ranks
from hpctrain.jobs.reader import read_events


def main(argv: Sequence[str]) -> int:
    """Returns 0 when something was signalled, 4 when there was nothing."""
    job_id, run_dir, what, number = int(argv[0]), Path(argv[1]), argv[2], signal.Signals[argv[3]]
    rank = int(argv[4]) if len(argv) > 4 else None
    node = os.environ.get("SLURMD_NODENAME", "")
    ranks = newest_ranks(read_events(RunDir(run_dir))) if what == RANK else ()
    found = [target for target in find_targets(job_id, run_dir, ranks)
             if target.what == what and target.node == node and (rank is None or target.rank == rank)]
    hit = [processes.send(target.pid, number, started=target.started) for target in found]
    if not any(hit):
        sys.stderr.write(f"there is no {what} of job {job_id} on {node}\n")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
