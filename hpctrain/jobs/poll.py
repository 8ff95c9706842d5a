"""Watch one run politely: files at every look, Slurm only when something may have changed (service).

While nothing changes the questions to Slurm grow rarer; a new ``job.`` event or a fallen-silent rank 0 makes the next
one due at once. A controller that does not answer is asked ever more rarely and never ends the watching.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hpctrain.clock import Clock
from hpctrain.errors import ControllerDownError, JobStateError, SlurmError
from hpctrain.jobs.event import Event
from hpctrain.jobs.find import Run
from hpctrain.jobs.records import Progress
from hpctrain.jobs.snapshot import Answer, Records, ask, read_records, status_from_files
from hpctrain.jobs.state import SlurmAnswer, batch_host_is_gone
from hpctrain.jobs.status import JobStatus
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import Job, JobState, JobUpdate
from hpctrain.slurm.port import Slurm
from hpctrain.slurm.requeue_delay import DelayWatch

SOONEST_S = 2.0
"""Never less than this between two questions to Slurm."""
LATEST_S = 20.0
"""Never more, while Slurm answers."""
LATEST_DOWN_S = 120.0
"""Never more while it does not."""
SURE_AFTER_S = 150.0
"""The node of a batch script is believed to be gone, with everybody who could act, when Slurm has said so for this long:
the agents of other nodes notice it after 20 s, save what memory holds, and have the job queued again themselves."""


class Poller:
    """Repeated looks at one run.

    Args:
        say: told, once each, what was done on the user's behalf and when Slurm stops or starts answering.
        lift_delay: after a requeue of the run's own, ask Slurm to forget the delay it puts on requeued jobs.

    A job of the same user that has lost the node of its batch script is put back in the queue, as nobody else would.
    """

    def __init__(
        self, run: Run, slurm: Slurm | None, clock: Clock, *, say: Callable[[str], None] = lambda _: None,
        lift_delay: bool = True,
    ) -> None:
        self.run = run
        self.events: Sequence[Event] = ()
        self._slurm, self._clock, self._say, self._lift = slurm, clock, say, lift_delay
        self._answer: Answer | None = None
        self._progress: Progress | None = None
        self._due = 0.0
        self._interval = SOONEST_S
        self._asked = float("-inf")
        self._job_events = 0
        self._lifted: set[float] = set()
        self._delay = DelayWatch()
        self._gone_since: float | None = None
        self._requeue_tried: set[int] = set()

    @property
    def lifted_delay(self) -> bool:
        """Slurm was asked to start the requeued job now, and has not started it yet."""
        newest = next((event for event in reversed(self.events) if event.kind in ("job.requeued", "job.started")), None)
        return newest is not None and newest.time in self._lifted

    def status(self) -> JobStatus:
        """Look now."""
        records = read_records(self.run)
        self.events = records.events
        if records.progress is None and self._progress is not None:
            # The heartbeat was read while it was being replaced: the one before is still the best there is.
            records = Records(records.events, self._progress, records.points)
        self._progress = records.progress
        job_events = sum(event.kind.startswith("job.") for event in self.events)
        now = self._clock.monotonic()
        if job_events != self._job_events:
            self._job_events, self._interval = job_events, SOONEST_S
            self._due = self._asked + SOONEST_S
        if self._answer is None or now >= self._due:
            self._ask(now)
        assert self._answer is not None  # noqa: S101 - _ask has set it
        status = status_from_files(self.run, self._answer, self._clock.time(), records)
        self._lift_delay_if_ours()
        self._requeue_if_its_batch_host_is_gone()
        return status

    def _ask(self, now: float) -> None:
        before, self._answer = self._answer, ask([self.run], self._slurm)[self.run.name]
        self._asked = now
        down = self._answer.kind is SlurmAnswer.NO_ANSWER
        was_down = before is not None and before.kind is SlurmAnswer.NO_ANSWER
        if down and not was_down:
            self._say(f"{self._answer.detail}; following the run's files")
        elif was_down and not down:
            self._say("Slurm answers again")
        unchanged = before is not None and _gist(before) == _gist(self._answer)
        self._interval = min(self._interval * 1.5, LATEST_DOWN_S if down else LATEST_S) if unchanged else SOONEST_S
        self._due = now + self._interval

    def _requeue_if_its_batch_host_is_gone(self) -> None:
        """Without its batch script a job has nobody to start it again, and Slurm shows it RUNNING for ever."""
        job = self._answer.job if self._answer else None
        if job is None or not batch_host_is_gone(job):
            self._gone_since = None
            return
        if job.restarts in self._requeue_tried or not self._is_ours(job) or not self._is_my_run():
            return
        if self._gone_since is None:
            self._gone_since = self._asked
        self._interval, self._due = SOONEST_S, self._asked + SOONEST_S
        if self._asked - self._gone_since >= SURE_AFTER_S:
            self._gone_since = None
            self._requeue(job, f"{job.batch_host}, the node of its batch script, is gone")

    def _requeue(self, job: Job, reason: str) -> None:
        """Put a job back in the queue, and record why."""
        assert self._slurm is not None  # noqa: S101 - somebody has told us of the job
        try:
            self._slurm.requeue(job.job_id)
        except SlurmError as error:
            if not isinstance(error, ControllerDownError):
                self._requeue_tried.add(job.restarts)
            self._say(f"{reason}; job {job.job_id} was not requeued: {error.message}")
            return
        self._requeue_tried.add(job.restarts)
        self._say(f"{reason}, and Slurm does not notice: job {job.job_id} was put back in the queue")
        # A full disk must not keep the job from going on.
        EventWriter(self.run.dir, "cli", os.uname().nodename, self._clock, job.job_id).note(
            "job.requeued", reason, node=str(job.batch_host)
        )

    def _is_my_run(self) -> bool:
        """Not of another user whose job we watch, as an operator may."""
        try:
            return self.run.dir.path.stat().st_uid == os.getuid()
        except OSError:
            return False

    def _is_ours(self, job: Job) -> bool:
        return not self.run.user or job.user == self.run.user

    def _lift_delay_if_ours(self) -> None:
        """Slurm holds a requeued job back for about two minutes; its owner may lift that."""
        job = self._answer.job if self._answer else None
        if not self._lift or self._slurm is None or job is None or job.state is not JobState.PENDING:
            return
        requeued = next((e for e in reversed(self.events) if e.kind in ("job.requeued", "job.started")), None)
        if not requeued or requeued.kind != "job.requeued" or not self._delay.may_lift(job, self._clock.monotonic()):
            return
        if requeued.time in self._lifted or not self._is_ours(job):
            return
        self._lifted.add(requeued.time)
        try:
            self._slurm.update_job(job.job_id, JobUpdate(start_now=True))
            cause = f": {requeued.reason}" if requeued.reason else ""
            self._say(f"job {job.job_id} was requeued{cause}\nasked Slurm to start it now, instead of in two minutes")
        except JobStateError:
            # It has started meanwhile, or somebody holds it: there is no delay to lift any more.
            pass
        except SlurmError as error:
            self._say(f"job {job.job_id} was requeued; Slurm keeps its delay: {error.message}")
        self._interval, self._due = SOONEST_S, self._asked + SOONEST_S


def _gist(answer: Answer) -> tuple[object, ...]:
    job = answer.job
    return (answer.kind, job and (job.state, job.flags, job.reason, job.restarts))
