"""Carries commands out, each once, whatever happens in between (service).

The order for each is: intended in the journal, our right to act checked, the job looked at, the effect, done in the journal.
A watchdog that is killed anywhere leaves intents, and the next one finds out from Slurm (or from the file that should have
been written) whether their effects came about. A request that the killed one had just sent may still be under way: what
Slurm does not show is asked for again only after ``settle_s``.

A requeue is exact, also between two watchdogs that know nothing of each other: it is void unless the job's restart count is
the one it was decided for, and Slurm raises that count in the same moment. Notifications come at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from hpctrain.clock import Clock
from hpctrain.errors import ControllerDownError, HpctrainError, JobStateError, SlurmError, StorageError
from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobUpdate
from hpctrain.slurm.port import Slurm
from hpctrain.watchdog.continuation import Continuation
from hpctrain.watchdog.journal import Entry, FencedError, Journal
from hpctrain.watchdog.model import Command, Deed
from hpctrain.watchdog.reconcile import Standing, reconcile

SETTLE_S = 25.0
"""Longer than a command of Slurm's may run (20 s by default)."""
RETRY_S = 20.0
MAX_TRIES = 5
"""For what may fail for good without harm: events and notifications."""
_MINOR = (Deed.RECORD, Deed.NOTIFY)
_BESIDE = (*_MINOR, Deed.DRAIN)
"""What the job itself does not wait for."""


class Right(Protocol):
    """The lease, as far as it matters here."""

    def check(self) -> None:
        """Raise FencedError unless we may act."""


class Records(Protocol):
    """Where failures and events of runs are written down."""

    def attempt(self, command: Command) -> None:
        """Count a failure; one that is counted already stays counted once. Raises StorageError."""

    def event(self, command: Command) -> None:
        """Write an event; one that is written already is not repeated. Raises StorageError."""

    def alive_after(self, command: Command, time_s: float) -> bool:
        """Whether the job's coordinator has shown life well after a time, and still does."""


class Notifier(Protocol):
    """Tells people."""

    def send(self, command: Command) -> str:
        """Tell, and say how; raises HpctrainError if that failed."""


class Drains(Protocol):
    """Takes nodes out of service."""

    def drain(self, command: Command) -> tuple[str, str]:
        """Do it, or see that it was done: the journal's state ("" for not yet), and what came of it.

        Raises SlurmError, StorageError: it may be tried again.
        """


class Executor:
    """The one that acts.

    Args:
        continuation: None where runs cannot be submitted again.
        drains: None for whoever may not drain nodes.
        say: told each deed in one line.
        point: called at the places between two steps, for tests that end the process there.
    """

    def __init__(
        self, slurm: Slurm, journal: Journal, right: Right, *, records: Records, notifier: Notifier, clock: Clock,
        say: Callable[[str], None] = lambda _: None, point: Callable[[str], None] = lambda _: None,
        settle_s: float = SETTLE_S, continuation: Continuation | None = None,
        drains: Drains | None = None,
    ) -> None:  # fmt: skip
        self._continuation, self._drains = continuation, drains
        self._slurm, self._journal, self._right = slurm, journal, right
        self._records, self._notifier, self._clock = records, notifier, clock
        self._say, self._point, self._settle_s = say, point, settle_s
        self._begun_at = clock.monotonic()
        self._not_before: dict[int, float] = {}
        self.voided: list[Command] = []

    def carry_out(self, commands: Iterable[Command]) -> None:
        """Do what was decided. Raises FencedError: another watchdog has taken over."""
        wanted = list(commands)
        if not wanted:
            return
        self._right.check()
        entries = self._journal.intend(wanted, self._clock.time())
        self._point("intended")
        self._do_all(entries)

    def catch_up(self) -> bool:
        """Finish what was intended and is not done, by us or by one before us; True if something is still open."""
        entries = self._journal.open_deeds()
        self._do_all(entries)
        return bool(entries) and bool(self._journal.open_deeds())

    def _do_all(self, entries: Iterable[Entry]) -> None:
        blocked: set[int] = set()
        for entry in entries:
            job = entry.command.job_id
            # In order within a job: what is not counted must not be done.
            if job in blocked and entry.command.deed not in _BESIDE:
                continue
            if not self._do(entry) and entry.command.deed not in _BESIDE:
                blocked.add(job)

    def _do(self, entry: Entry) -> bool:
        """One command; False if it is still to be done."""
        if self._clock.monotonic() < self._not_before.get(entry.number, 0.0):
            return False
        command = entry.command
        self._right.check()
        self._journal.begin(entry)
        self._point(f"begun:{command.deed.value}")
        try:
            state, result = self._effect(entry)
        except ControllerDownError as error:
            return self._later(entry, str(error))
        except (SlurmError, StorageError) as error:
            again = command.deed is Deed.DRAIN and entry.tries + 1 < MAX_TRIES
            if again or command.deed is Deed.ATTEMPT:
                return self._later(entry, str(error))
            state, result = "failed", str(error)
        except FencedError:
            raise
        except HpctrainError as error:
            if entry.tries + 1 < MAX_TRIES:
                return self._later(entry, str(error))
            state, result = "failed", str(error)
        if not state:
            return self._later(entry, result)
        self._point(f"acted:{command.deed.value}")
        self._journal.finish(entry, state, result, self._clock.time())
        self._point(f"finished:{command.deed.value}")
        if command.deed in (Deed.REQUEUE, Deed.REQUEUE_HOLD, Deed.INCLUDE) and state == "void":
            self.voided.append(command)
        self._say(describe(command, state, result))
        return True

    def _later(self, entry: Entry, why: str) -> bool:
        self._not_before[entry.number] = self._clock.monotonic() + RETRY_S
        self._journal.note(entry, why)
        return False

    def _effect(self, entry: Entry) -> tuple[str, str]:
        """Do it; the state for the journal ("" for not yet) and what came of it."""
        command = entry.command
        if after := command.data.get("after"):
            state = self._journal.state_of(str(after))
            if state != "done":
                return ("", "what it tells of is not done yet") if state == "intended" else ("void", "it was not done")
        if command.deed is Deed.ATTEMPT:
            self._records.attempt(command)
            return "done", ""
        if command.deed is Deed.RECORD:
            self._records.event(command)
            return "done", ""
        if command.deed is Deed.NOTIFY:
            return "done", self._notifier.send(command)
        if command.deed is Deed.CONTINUE:
            return self._continuation.carry_on(command) if self._continuation else ("void", "not for others' jobs")
        if command.deed is Deed.DRAIN:
            return self._drains.drain(command) if self._drains else ("void", "only an administrator's watchdog drains nodes")
        job = self._job(command)
        standing, why = reconcile(command, job)
        if standing is Standing.LATER:
            return "", why
        if standing is not Standing.TO_DO or job is None:
            return ("done" if standing is Standing.DONE else "void"), why
        if entry.tries and self._clock.monotonic() - self._begun_at < self._settle_s:
            return "", "an earlier request may still be under way"
        again = command.deed in (Deed.REQUEUE, Deed.REQUEUE_HOLD)
        if again and not job.state.finished and self._records.alive_after(command, entry.time):
            return "void", "its coordinator is back"
        self._point(f"checked:{command.deed.value}")
        self._right.check()
        try:
            self._act(command, job)
        except JobStateError as refused:
            return self._overtaken(command, refused)
        return "done", ""

    def _overtaken(self, command: Command, refused: JobStateError) -> tuple[str, str]:
        """Slurm refused: between our look and our request somebody else, such as another watchdog, may have done it.

        Raises:
            JobStateError: nobody has.
        """
        standing, why = reconcile(command, self._job(command))
        if standing is Standing.TO_DO:
            raise refused
        return ("", why) if standing is Standing.LATER else ("void", why)

    def _act(self, command: Command, job: Job) -> None:
        job_id = JobId(command.job_id)
        if command.deed in (Deed.REQUEUE, Deed.REQUEUE_HOLD):
            self._slurm.requeue(job_id, hold=command.deed is Deed.REQUEUE_HOLD)
        elif command.deed is Deed.EXCLUDE:
            nodes = dict.fromkeys([*job.excluded_nodes, *map(NodeName, command.nodes)])
            self._slurm.update_job(job_id, JobUpdate(exclude=tuple(nodes)))
        elif command.deed is Deed.INCLUDE:
            left = tuple(node for node in job.excluded_nodes if node not in command.nodes)
            self._slurm.update_job(job_id, JobUpdate(exclude=left))
        elif command.deed is Deed.RELEASE:
            self._slurm.release(job_id)
        elif command.deed is Deed.START_NOW:
            self._slurm.update_job(job_id, JobUpdate(start_now=True))
        elif command.deed is Deed.CANCEL:
            self._slurm.cancel(job_id)
        else:
            raise SlurmError(f"the watchdog cannot {command.deed.value}")

    def _job(self, command: Command) -> Job | None:
        lists = command.deed in (Deed.EXCLUDE, Deed.INCLUDE)
        return next(iter(self._slurm.jobs([JobId(command.job_id)], exclusions=lists)), None)


_WORDS = {
    Deed.REQUEUE: "queue job {job} again", Deed.REQUEUE_HOLD: "queue job {job} again, held",
    Deed.RELEASE: "release job {job}", Deed.EXCLUDE: "keep job {job} from {nodes}",
    Deed.INCLUDE: "let job {job} use {nodes} again", Deed.START_NOW: "lift Slurm's delay of job {job}",
    Deed.DRAIN: "drain {nodes}", Deed.CANCEL: "cancel job {job}",
    Deed.NOTIFY: "notify", Deed.RECORD: "record an event of job {job}",
    Deed.ATTEMPT: "count a failure of job {job}", Deed.LOOK: "look at job {job}",
    Deed.CONTINUE: "continue the run of job {job} as another job",
}


def describe(command: Command, state: str = "", result: str = "") -> str:
    """A command in words, for a log: ``done: queue job 7 again: the coordinator ... (run: qs-1)``."""
    deed = _WORDS[command.deed].format(job=command.job_id, nodes=", ".join(command.nodes))
    text = f"{state}: {deed}" if state else deed
    return f"{text}: {command.reason} [{command.run_name}]" + (f" ({result})" if result else "")
