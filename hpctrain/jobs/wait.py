"""Wait for the end of a run (service)."""

from __future__ import annotations

from collections.abc import Callable

from hpctrain.clock import Clock
from hpctrain.errors import JobFailedError
from hpctrain.jobs.find import Run
from hpctrain.jobs.poll import Poller
from hpctrain.jobs.status import JobStatus
from hpctrain.slurm.port import Slurm


def wait(
    run: Run, slurm: Slurm | None, clock: Clock, *, timeout_s: float | None = None, poll_s: float = 2.0,
    on_change: Callable[[JobStatus], None] | None = None, say: Callable[[str], None] = lambda _: None,
) -> JobStatus:
    """Return the final status, or the newest one when ``timeout_s`` has passed (then ``.final`` is False).

    Args:
        poll_s: seconds between looks at the run's files; Slurm is asked far less often (see :mod:`hpctrain.jobs.poll`).
        on_change: called with the first status and whenever state or explanation's reason changes.
        say: see :class:`hpctrain.jobs.poll.Poller`.
    """
    poller = Poller(run, slurm, clock, say=say)
    deadline = None if timeout_s is None else clock.monotonic() + timeout_s
    before: tuple[object, ...] | None = None
    while True:
        status = poller.status()
        now = (status.state, status.reason, status.restarts)
        if on_change and now != before:
            on_change(status)
        before = now
        left = poll_s if deadline is None else deadline - clock.monotonic()
        if status.final or left <= 0:
            return status
        clock.sleep(min(poll_s, left))


def require_success(status: JobStatus) -> JobStatus:
    """Return a status whose work is complete.

    Raises:
        JobFailedError: it ended otherwise (exit code 10).
    """
    if status.succeeded:
        return status
    raise JobFailedError(f"{status.name} (job {status.id}) {status.state.value}: {status.explanation}", hint=status.advice)
