"""The watchdog at work: poll, think, act, wait (service).

One question to the controller per poll, for all jobs together. Only a decision asks more: for the nodes, once per poll at
most, and for the one job it is about, right before each effect. Between polls the signs of life of running jobs are read
from their files; one that has stopped brings the next poll forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from hpctrain.clock import Clock
from hpctrain.errors import SlurmError, StorageError
from hpctrain.files import write_json_atomic
from hpctrain.slurm.model import Job, JobState, Node
from hpctrain.slurm.port import Slurm
from hpctrain.watchdog.causes import SURE_S
from hpctrain.watchdog.executor import Executor, describe
from hpctrain.watchdog.journal import Journal
from hpctrain.watchdog.lease import Lease
from hpctrain.watchdog.machine import Machine
from hpctrain.watchdog.model import Beat, Beats, Command, Deed, JobView, Looked, Managed, Polled, Silence
from hpctrain.watchdog.pacing import Pace
from hpctrain.watchdog.track import closed

GLANCE_S = 5.0
"""How often files of running jobs are looked at: as often as coordinators write them."""


class Files(Protocol):
    """Where runs are read: a user's run directories, or a site's spool."""

    def refresh(self) -> None:
        """Called before each poll."""

    def managed(self, job: Job) -> Managed | None:
        """The run of a job, None if it is not ours to look after."""

    def beat(self, job: Job, managed: Managed) -> Beat | None:
        """Its coordinator's last sign of life."""

    def look(self, command: Command, nodes: list[Node]) -> Looked:
        """All that a judgement needs."""


class Actor(Protocol):
    """What carries commands out."""

    voided: list[Command]

    def carry_out(self, commands: Iterable[Command]) -> None:
        """Do what was decided."""

    def catch_up(self) -> bool:
        """Finish what is open; True if something still is."""


class DryRun:
    """Says what would be done."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.voided: list[Command] = []
        self.said: list[str] = []
        self._say = say
        self._keys: set[str] = set()

    def carry_out(self, commands: Iterable[Command]) -> None:
        """Tell each command once."""
        for command in commands:
            if command.key not in self._keys:
                self._keys.add(command.key)
                self.said.append(describe(command))
                self._say(f"would {describe(command)}")

    def catch_up(self) -> bool:
        """Nothing is ever open."""
        return False


class Daemon:
    """One watchdog.

    Args:
        all_users: watch everybody's jobs.
        lease: None in a dry run.
        status: file that 'hpctrain watchdog status' reads, None for none.
        cpu_s: CPU seconds used so far, children included.
        drain_after: see :class:`hpctrain.watchdog.machine.Machine`.
    """

    def __init__(
        self, slurm: Slurm, files: Files, actor: Actor | Executor, journal: Journal, *, clock: Clock, pace: Pace,
        all_users: bool = False, lease: Lease | None = None, status: Path | None = None,
        cpu_s: Callable[[], float] = lambda: 0.0, say: Callable[[str], None] = lambda _: None, drain_after: int = 0,
    ) -> None:  # fmt: skip
        self._slurm, self._files, self._actor, self._journal = slurm, files, actor, journal
        self._clock, self._pace, self._all_users, self._lease = clock, pace, all_users, lease
        self._status, self._cpu_s, self._say = status, cpu_s, say
        self.machine = Machine(journal.memory(), drain_after=drain_after)
        self._noted: dict[int, tuple[int, bool]] = {}
        self._started = clock.time()
        self._open = False
        self.polls = self.queries = 0
        self._polled = 0.0

    def turn(self) -> float:
        """One poll and what follows from it; seconds until the next should come.

        Raises:
            FencedError: another watchdog has taken over.
            StorageError: the journal cannot be written.
        """
        if self._lease:
            self._lease.renew()
        self._files.refresh()
        self.queries += 1
        try:
            jobs = self._slurm.jobs(all_users=self._all_users, exclusions=False)
        except SlurmError as error:
            if self.machine.silent_since is None:
                self._say(f"the controller does not answer; nothing is concluded from that: {error}")
            self.machine.handle(Silence(self._clock.time(), str(error)))
            self._write_status(str(error))
            return self._pace.silent()
        if self.machine.silent_since is not None:
            self._say("the controller answers again")
        self.polls += 1
        self._polled = self._clock.time()
        views = [view for job in jobs if (view := self._view(job)) is not None]
        commands = self.machine.handle(Polled(self._polled, views))
        self._actor.carry_out(command for command in commands if command.deed is not Deed.LOOK)
        self._look([command for command in commands if command.deed is Deed.LOOK])
        self._open = self._actor.catch_up()
        for command in self._actor.voided:
            self.machine.reopen(command)
        self._actor.voided.clear()
        self._note()
        self._write_status("")
        busy = self.machine.unsettled or self._open
        wait_s = self._pace.answered(changed=self.machine.changed, unsettled=busy)
        return SURE_S + 0.1 if self.machine.suspicious and not busy else wait_s

    @property
    def unsettled(self) -> bool:
        """Something is on its way, or to be looked at once more."""
        return self.machine.unsettled or self.machine.suspicious or self._open

    def wait(self, seconds: float, pause: Callable[[float], bool]) -> bool:
        """Let time pass until the next poll, with an eye on the files; True when asked to stop.

        Args:
            pause: waits so long, and says whether to stop.
        """
        deadline = self._clock.monotonic() + seconds
        while (left := deadline - self._clock.monotonic()) > 0:
            if pause(min(left, GLANCE_S)):
                return True
            if self._lease:
                self._lease.renew()
            if left > GLANCE_S and self._glance():
                return False
        return False

    def _glance(self) -> bool:
        beats = {
            job_id: self._files.beat(track.view.job, track.view.managed)
            for job_id, track in self.machine.tracks.items() if track.view.job.state is JobState.RUNNING
        }
        self.machine.handle(Beats(self._clock.time(), beats))
        return self.machine.alarmed

    def _view(self, job: Job) -> JobView | None:
        managed = self._files.managed(job)
        if managed is None:
            return None
        wanted = job.state is JobState.RUNNING or job.state.finished
        return JobView(job, managed, self._files.beat(job, managed) if wanted else None)

    def _look(self, looks: list[Command]) -> None:
        nodes: list[Node] | None = None
        for command in looks:
            if nodes is None and not command.data.get("lost"):
                self.queries += 1
                try:
                    nodes = self._slurm.nodes()
                except SlurmError as error:
                    self._say(f"the nodes cannot be listed: {error}")
                    return
            self._actor.carry_out(self.machine.handle(self._files.look(command, nodes or [])))

    def _note(self) -> None:
        """Journal which jobs there are, as far as that is new."""
        new = []
        for job_id, track in self.machine.tracks.items():
            state = (track.view.job.restarts, closed(track))
            if self._noted.get(job_id) != state:
                self._noted[job_id] = state
                managed = track.view.managed
                new.append((job_id, managed.run_name, managed.run_dir, *state))
        for job_id in self.machine.gone:
            self._noted.pop(job_id, None)
        self._journal.see(new, self._clock.time(), gone=self.machine.gone)
        self.machine.gone.clear()

    def _write_status(self, problem: str) -> None:
        if self._status is None:
            return
        tracks = self.machine.tracks.values()
        waiting = [
            {"job": int(track.view.job.job_id), "run": track.view.managed.run_name, "cause": track.diagnosis.cause.value,
             "way": track.diagnosis.way.value, "reason": track.diagnosis.reason}
            for track in tracks if track.diagnosis is not None and not closed(track)
        ]  # fmt: skip
        record: dict[str, Any] = {
            "time": self._clock.time(), "polled": self._polled, "started": self._started, "polls": self.polls,
            "queries": self.queries, "poll_s": self._pace.wait_s, "cpu_s": round(self._cpu_s(), 3), "problem": problem,
            "silent_since": self.machine.silent_since, "jobs": dict(Counter(t.view.job.state.value for t in tracks)),
            "noticed": waiting[:100],
        }
        try:
            write_json_atomic(self._status, record, durable=False)
        except StorageError as error:
            self._say(f"the status cannot be written: {error}")
