"""One drill, or many: wait until the job trains, cause a fault, watch what becomes of it, judge (service)."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hpctrain.clock import Clock
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.state import known_clusters, layout_of, load_spec
from hpctrain.drill.catalogue import HEALTH, PRIVATE, REPLACED, UNHARMED, Kind, Place, Promise
from hpctrain.drill.causes import Aim, Causer, Scene
from hpctrain.drill.judge import Judgement, Seen, judge, settled
from hpctrain.errors import JobStateError, NotPermittedError, SlurmError
from hpctrain.jobs.find import Run
from hpctrain.jobs.incident import OPEN, Incident
from hpctrain.jobs.incidents import find_incidents
from hpctrain.jobs.metrics import read_tail
from hpctrain.jobs.rank_pids import newest_ranks
from hpctrain.jobs.reader import read_events, read_plan, read_progress
from hpctrain.jobs.records import whole
from hpctrain.jobs.snapshot import ask
from hpctrain.jobs.state import SlurmAnswer
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import Job, JobState
from hpctrain.slurm.port import Slurm

POLL_S = 0.2
SLURM_POLL_S = 2.0
STEADY_S = 300.0
"""Longest wait for a job to train before a fault is caused."""
PATIENCE_S = 240.0
"""Longest wait for what becomes of a fault, where the promise itself is short."""
UNHARMED_STEPS = 5
"""New steps that show that a job goes on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One drill that was carried out.

    Attributes:
        caused: when, in seconds since the epoch.
        done: what was done, in sentences.
        place: what the promise depended on.
    """

    kind: Kind
    promise: Promise
    judgement: Judgement
    caused: float
    done: tuple[str, ...] = ()
    place: Place = field(default_factory=Place)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        promise = {"outcome": self.promise.outcome, "rungs": list(self.promise.rungs), "within_s": self.promise.within_s,
                   "words": self.promise.words}
        return {"kind": self.kind.name, "what": self.kind.what, "caused": self.caused, "done": list(self.done),
                "promised": promise, "place": asdict(self.place), **self.judgement.to_json()}


@dataclass
class Driller:
    """Drills of one run.

    Attributes:
        user: who asks; only their own jobs are broken.
        say: told in sentences what is done and seen.
        patience_s: longest wait for what becomes of a fault.
    """

    run: Run
    slurm: Slurm
    clock: Clock
    user: str
    host: str
    say: Callable[[str], None]
    patience_s: float = PATIENCE_S
    dry: bool = False
    _done: list[str] = field(default_factory=list)
    _coordinator: int = 0

    # -- before --------------------------------------------------------------------------------------------------------

    def check(self, *, may_wait: bool = False) -> Job:
        """The running job.

        Args:
            may_wait: it may be in the queue still, since it will be waited for.

        Raises:
            JobStateError: it does not run, or Slurm does not know it.
            NotPermittedError: it is somebody else's.
        """
        answer = ask([self.run], self.slurm)[self.run.name]
        if answer.error is not None:
            raise answer.error
        if answer.kind is SlurmAnswer.OTHER_CLUSTER:
            raise JobStateError(f"{self.run.name} was submitted to another cluster, {answer.detail!r}",
                                hint="go there: 'hpctrain --cluster NAME drill ...'")
        job = answer.job
        queued = job is not None and job.state is JobState.PENDING and may_wait
        if job is None or (job.state is not JobState.RUNNING and not queued):
            state = job.state.value if job else "unknown to Slurm"
            raise JobStateError(f"{self.run.name} (job {self.run.job_id}) does not run: it is {state}",
                                hint="a drill breaks a running job; start one: hpctrain submit quickstart")
        if job.user != self.user:
            raise NotPermittedError(f"job {job.job_id} belongs to {job.user}: only your own jobs may be broken",
                                    hint="submit one of your own")
        return job

    def place(self) -> Place:
        """What promises depend on, as the plan says."""
        plan = read_plan(self.run.dir)
        command, checkpoint = plan.get("command"), plan.get("checkpoint")
        return Place(
            spares=self._spares_left(whole(plan.get("spares")) or 0),
            is_trainer=bool(command.get("is_trainer", True)) if isinstance(command, dict) else True,
            peers=bool(checkpoint.get("peer")) if isinstance(checkpoint, dict) else False,
        )

    def _spares_left(self, planned: int) -> int:
        """As the newest recovery of this start of the job tells; the planned number before the first."""
        for event in reversed(read_events(self.run.dir)):
            if event.kind == "job.started":
                break
            if event.kind == "recovery.started" and isinstance(event.evidence.get("spares_left"), list):
                return len(event.evidence["spares_left"])
        return planned

    def cluster(self) -> tuple[Layout, Spec] | None:
        """The private cluster that the run was submitted to, None for a site's Slurm."""
        for info in known_clusters():
            if info.slurm_conf == self.run.slurm_conf and (spec := load_spec(info.state_dir)) is not None:
                return layout_of(spec), spec
        return None

    def causer(self, job: Job) -> Causer:
        """For the job as it runs now."""
        ranks = newest_ranks(read_events(self.run.dir))
        nodes = tuple(dict.fromkeys(node for node, _, _ in ranks)) or tuple(job.nodes)
        scene = Scene(self.run.job_id, self.run.dir, nodes, ranks, str(job.batch_host or nodes[0]), self.cluster(),
                      self.run.slurm_conf)
        return Causer(scene, self.slurm, self.clock, self._tell, dry=self.dry)

    def possible(self, kind: Kind) -> bool:
        """The kind can be caused where the job runs."""
        from hpctrain.devcluster.health_setup import has_health

        cluster = self.cluster()
        if kind.needs == PRIVATE:
            return cluster is not None
        return kind.needs != HEALTH or (cluster is not None and has_health(cluster[0]))

    def pick(self, number: int) -> Aim:
        """A victim of a random series: one of the ranks, and the node it is on."""
        ranks = newest_ranks(read_events(self.run.dir))
        if not ranks:
            return Aim()
        node, rank, _ = ranks[number % len(ranks)]
        batch = {job.batch_host for job in self.slurm.jobs([self.run.job_id])}
        # The node with the coordinator is a kind of its own.
        return Aim(None if node in batch else node, rank)

    def wait_until_steady(self) -> None:
        """Until the job trains: no failure is open, and steps come.

        Raises:
            JobStateError: it does not train within five minutes, or has ended.
        """
        deadline = self.clock.monotonic() + STEADY_S
        while self.clock.monotonic() < deadline:
            if self._trains():
                return
            if self._state() in ("failed", "cancelled", "finished"):
                break
            self.clock.sleep(POLL_S)
        raise JobStateError(f"{self.run.name} does not train", hint=f"see 'hpctrain why {self.run.name}'")

    def _trains(self) -> bool:
        events = read_events(self.run.dir)
        ranks = [event for event in events if event.kind == "ranks.started"]
        incidents = find_incidents(events)
        if not ranks or (incidents and incidents[-1].outcome == OPEN):
            return False
        newest = max(event.time for event in ranks)
        progress = read_progress(self.run.dir)
        if progress is None or not read_tail(self.run.dir.metrics):
            return self.clock.time() - newest > 3.0  # a script that tells of no steps
        return progress.time > newest and progress.phase in ("step", "save") and progress.step is not None

    # -- a drill -------------------------------------------------------------------------------------------------------

    def drill(self, kind: Kind, aim: Aim) -> Outcome:
        """Cause one fault and see what becomes of it."""
        place = self.place()
        promise = kind.promise(place)
        causer = self.causer(self.check())
        self._done.clear()
        best = self._best()
        self._coordinator = self._coordinator_now()
        try:
            caused = causer.cause(kind.name, aim)
            self._record(kind, caused)
            # What was done while the fault was being caused shows nothing.
            best = max((step for step in (best, self._best()) if step is not None), default=None)
            seen = self._watch(promise, caused, best, causer)
        finally:
            causer.clean_up()
        return Outcome(kind, promise, judge(promise, seen), caused, tuple(self._done), place)

    def rehearse(self, kind: Kind, aim: Aim) -> tuple[Promise, list[str]]:
        """What would be done, and what is promised."""
        self._done.clear()
        self.causer(self.check()).cause(kind.name, aim)
        return kind.promise(self.place()), list(self._done)

    def _watch(self, promise: Promise, caused: float, best: int | None, causer: Causer) -> Seen:
        began = self.clock.monotonic()
        limit = max(self.patience_s, 3 * (promise.within_s or 0.0))
        state, looked = "running", began
        while True:
            events = [event for event in read_events(self.run.dir) if event.time >= caused - 0.5]
            if any(event.kind == "job.requeued" for event in events):
                causer.bring_back()
            now = self.clock.monotonic()
            if now - looked > SLURM_POLL_S:
                state, looked = self._state(), now
            seen = self._seen(caused, best, state, self.clock.time() - caused)
            if settled(promise, seen, steps_wanted=UNHARMED_STEPS):
                return seen
            if now - began > limit:
                return seen
            if promise.outcome == UNHARMED and seen.steps is None and now - began > 20.0:
                return seen  # a script that tells of no steps and goes on
            self.clock.sleep(POLL_S)

    def _seen(self, caused: float, best: int | None, state: str, waited_s: float) -> Seen:
        events = read_events(self.run.dir)
        after = [event for event in events if event.time >= caused - 0.5]
        incidents = [one for one in find_incidents(events) if _since(one, caused)]
        now = self._best()
        steps = None if best is None or now is None else max(0, now - best)
        told = {"job.failed": "failed", "job.finished": "finished", "job.cancelled": "cancelled"}
        for event in after:
            state = told.get(event.kind, state)
        kinds = {event.kind for event in after}
        if self._coordinator != (newest := self._coordinator_now()) and newest:
            kinds.add(REPLACED)
        return Seen(caused, incidents, frozenset(kinds), steps, state, waited_s)

    def _coordinator_now(self) -> int:
        """The process that signs the run's ``control/coordinator.json``; 0 while there is none."""
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            return int(json.loads((self.run.dir.control / "coordinator.json").read_text()).get("pid") or 0)
        return 0

    def _best(self) -> int | None:
        points = read_tail(self.run.dir.metrics)
        return max((point.step for point in points), default=None)

    def _state(self) -> str:
        """Slurm's word for it, in ours; a controller that is being restarted says nothing."""
        try:
            jobs = self.slurm.jobs([self.run.job_id])
        except SlurmError:
            return "running"
        if not jobs or not jobs[0].state.finished:
            return "running"
        ended = {JobState.CANCELLED: "cancelled", JobState.COMPLETED: "finished", JobState.PREEMPTED: "running"}
        return ended.get(jobs[0].state, "failed")

    def _record(self, kind: Kind, caused: float) -> None:
        """The run's own history says that this was on purpose."""
        writer = EventWriter(self.run.dir, "cli", self.host, self.clock, self.run.job_id)
        writer.note("drill.caused", f"drill {kind.name}: {kind.what}", evidence={"kind": kind.name, "caused": caused,
                                                                              "done": list(self._done)})

    def _tell(self, sentence: str) -> None:
        self._done.append(sentence)
        self.say(sentence)


def choose(kinds: Sequence[Kind], count: int, seed: int) -> list[tuple[Kind, float, int]]:
    """(kind, seconds to wait before it, a number that picks the victim) of a random series; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - chosen to be repeatable, nothing is kept secret by it
    return [(dice.choice(list(kinds)), dice.uniform(0.0, 4.0), dice.randrange(1 << 30)) for _ in range(count)]


def _since(one: Incident, caused: float) -> bool:
    """The incident came after the fault: clocks of nodes may differ a little, what was over before does not count."""
    known = one.known_time or one.fault_time
    over = one.ended_time if one.ended_time is not None else float("inf")
    return known >= caused - 0.5 and over >= caused
