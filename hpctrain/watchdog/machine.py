"""The watchdog's mind: events in, commands out, the time inside the event (pure, standard library only).

It is told what a poll has found (:class:`Polled`), that the controller is silent (:class:`Silence`), and what a closer look
at one job has found (:class:`Looked`). It answers with commands, and has no other effect. Every rule looks at how things
*are*, not at what was done before, so that a command that was lost is given again at the next poll; what must happen only
once carries a key that is the same each time, and the journal knows which keys are spent.

One start of a job (its restart count) is judged at most once. The judgement is that of :mod:`hpctrain.watchdog.budget`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hpctrain.ids import JobId
from hpctrain.slurm.model import Job, JobState
from hpctrain.watchdog import orders
from hpctrain.watchdog.budget import Attempt, Cause, Verdict, end_among, judge, with_present
from hpctrain.watchdog.causes import (
    DOUBT_S,
    LONGEST_DELAY_S,
    SURE_S,
    Diagnosis,
    Way,
    beat_key,
    dead_nodes,
    diagnose,
    failed_prologs,
)
from hpctrain.watchdog.fingerprint import fingerprint
from hpctrain.watchdog.model import Beat, Beats, Command, Deed, Event, JobView, Looked, Managed, Polled, Silence
from hpctrain.watchdog.track import Memory, Track

UNKNOWN_PROGRESS_S = 600.0
"""A script whose steps are not known has made progress if it ran this long before it failed."""
SAFE_DELAY_S = 4.0
"""Slurm's delay is lifted when the job has been seen waiting for so long: see :mod:`hpctrain.slurm.requeue_delay`."""
CLEAN_UP_S = 120.0
"""A job that is being cleaned up after our requeue is looked at often for so long: its delay is to be lifted next."""
AGAIN_S = 30.0
"""A step that may be repeated without harm is repeated when it has shown no effect for so long."""


class Machine:
    """All jobs of one watchdog.

    Args:
        memory: what an earlier watchdog has journaled, by job.
        drain_after: so many failures of jobs that are blamed on a node have it drained; 0 for never.

    Attributes:
        tracks: the jobs, by id.
        changed: the last poll found a job come, gone or in another state.
        alarmed: a coordinator has fallen silent since the last poll: ask the controller soon.
        silent_since: since when the controller does not answer, None while it does.
        gone: jobs that Slurm has forgotten; whoever has noted them clears the list.
    """

    def __init__(self, memory: Mapping[int, Memory] | None = None, *, drain_after: int = 0) -> None:
        self._drain_after = drain_after
        self.tracks: dict[int, Track] = {}
        self.changed = False
        self.alarmed = False
        self.silent_since: float | None = None
        self.gone: list[int] = []
        self._acted, self._now = False, 0.0
        self._memory = dict(memory or {})
        self._missing: dict[int, int] = {}
        for job_id, known in self._memory.items():
            if not known.over:
                # Until a poll shows it, all that is known is that it had not ended.
                job = Job(JobId(job_id), known.run_name, "", JobState.UNKNOWN, restarts=known.restarts)
                self._track(JobView(job, Managed(known.run_name, known.run_dir)), 0.0)

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now, in this order."""
        if isinstance(event, Silence):
            self.silent_since = self.silent_since or event.time
            for track in self.tracks.values():
                # What was seen before the silence needs to be seen again after it: a controller that starts shows jobs
                # in states they pass through.
                track.suspicion, track.doubt_since = "", None
            self._missing.clear()
            return []
        if isinstance(event, Looked):
            commands = self._judge(event)
            self._acted = self._acted or bool(commands)
            return commands
        if isinstance(event, Beats):
            self._hear(event)
            return []
        return self._poll(event)

    @property
    def suspicious(self) -> bool:
        """Something was seen once, and is to be confirmed after :data:`hpctrain.watchdog.causes.SURE_S`."""
        return any(track.suspicion for track in self.tracks.values())

    @property
    def unsettled(self) -> bool:
        """Something is on its way, so that the next poll should come soon."""
        return self._acted or bool(self._missing) or any(
            track.moving is not None or track.waiting_since is not None
            or (track.diagnosis is not None and track.diagnosis.way is Way.WAIT and track.view.job.state.finished)
            or ("COMPLETING" in track.view.job.flags and track.judged and self._now - track.since < CLEAN_UP_S)
            for track in self.tracks.values()
        )

    def reopen(self, command: Command) -> None:
        """What was decided on proved needless, or came too late: it may be decided on again.

        A start of the job that was to be restarted may be judged again; nodes that were to be given back to the job are so
        when it waits the next time.
        """
        track = self.tracks.get(command.job_id)
        if track is None:
            return
        if command.deed is Deed.INCLUDE:
            track.excluded |= dict.fromkeys(command.nodes, 0.0)
            return
        track.judged.discard(f"{command.restarts}:{Way.RESTART.value}")
        track.reopened += 1
        track.moving = None

    # -- polls ------------------------------------------------------------------------------------------------------

    def _poll(self, event: Polled) -> list[Command]:
        self.changed, self.alarmed, self.silent_since, self._now = False, False, None, event.time
        commands: list[Command] = []
        seen = set()
        for view in event.views:
            seen.add(int(view.job.job_id))
            track = self._update(view, event.time)
            commands += self._steps(track, event.time)
        commands += self._lost(seen)
        self._acted = any(command.deed not in (Deed.LOOK, Deed.RECORD, Deed.NOTIFY) for command in commands)
        return commands

    def _hear(self, event: Beats) -> None:
        """Look at signs of life only; what they say is acted upon after the next poll."""
        for job_id, beat in event.beats.items():
            track = self.tracks.get(job_id)
            if track is None or track.view.job.state is not JobState.RUNNING:
                continue
            track.view = replace(track.view, beat=beat)
            self._note_beat(track, beat, event.time)
            found = diagnose(track.view, event.time, beat_since=track.beat_since, since=track.since)
            if found is None or f"{track.view.job.restarts}:{found.way.value}" in track.judged:
                if track.suspicion and found is None:
                    track.suspicion = ""
            elif self._confirmed(track, found, event.time):
                self.alarmed = True

    @staticmethod
    def _note_beat(track: Track, beat: Beat | None, now: float) -> None:
        key = beat_key(beat)
        if key != track.beat or track.beat_since == 0.0:
            track.beat, track.beat_since, track.suspicion, track.doubt_since = key, now, "", None
        elif beat is not None and track.doubt_since is None and now - track.beat_since >= DOUBT_S:
            track.doubt_since = now


    def _update(self, view: JobView, now: float) -> Track:
        job = view.job
        shape = (job.restarts, job.state, job.reason, tuple(sorted(job.flags)), job.nodes)
        track = self.tracks.get(int(job.job_id))
        if track is None or track.view.managed.run_name != view.managed.run_name:
            track = self._track(view, now)
        if track.shape != shape:
            if track.shape[:2] != shape[:2]:
                track.doubt_since = None  # another start of the job, or no longer the same state of it
            track.shape, track.since = shape, now
            self.changed = True
        track.view = view
        self._note_beat(track, view.beat, now)
        if job.state is JobState.RUNNING and "COMPLETING" not in job.flags:
            track.nodes, track.started = tuple(str(node) for node in job.nodes), job.start_time
        return track

    def _track(self, view: JobView, now: float) -> Track:
        known = self._memory.get(int(view.job.job_id))
        track = self.tracks[int(view.job.job_id)] = Track(view, (), now)
        if known is not None and known.run_name == view.managed.run_name:
            track.judged, track.moving, track.excluded = set(known.judged), known.moving, dict(known.excluded)
            track.reopened = known.reopened
        return track

    def _steps(self, track: Track, now: float) -> list[Command]:
        job = track.view.job
        if track.moving is not None and (moved := self._move_on(track, now)) is not None:
            return moved
        if lift := self._lift(track, now):
            return [lift]
        found = diagnose(track.view, now, beat_since=track.beat_since, since=track.since)
        track.diagnosis = found
        if job.state is JobState.PENDING and (back := self._give_back(track, found, now)):
            return back
        if found is None or found.way in (Way.LEAVE, Way.WAIT, Way.UNEXCLUDE):
            track.suspicion = ""
            return []
        if f"{job.restarts}:{found.way.value}" in track.judged or not self._confirmed(track, found, now):
            return []
        if found.way is Way.TELL or not track.view.managed.requeue:
            track.judged.add(f"{job.restarts}:{found.way.value}")
            track.suspicion = ""
            return orders.tell(track.view, found, now)
        return [orders.look(track.view, found)]

    def _confirmed(self, track: Track, found: Diagnosis, now: float) -> bool:
        """Whether two looks, some time apart, have found the same; at once where one is enough.

        A coordinator is doubted before its silence is long enough to act upon, so that the first look which finds it long
        enough is the second that finds it silent.
        """
        what = f"{found.cause.value}:{found.way.value}"
        if track.suspicion != what:
            track.suspicion, track.suspicion_since = what, now
        if not found.confirm or now - track.suspicion_since >= SURE_S:
            return True
        return found.by_beat and track.doubt_since is not None and now - track.doubt_since >= SURE_S

    def _give_back(self, track: Track, found: Diagnosis | None, now: float) -> list[Command]:
        """Exclusions of ours that have run out, or all of them where with them the job fits nowhere."""
        fits_nowhere = found is not None and found.way is Way.UNEXCLUDE
        nodes = tuple(sorted(node for node, until in track.excluded.items() if fits_nowhere or until <= now))
        if not nodes or not self._may_repeat(track, "include", now):
            return []
        track.excluded = {node: until for node, until in track.excluded.items() if node not in nodes}
        why = found.reason if found is not None and fits_nowhere else "its time of being excluded is over"
        return orders.include(track.view, nodes, f"{', '.join(nodes)} may be used again: {why}", now)

    def _move_on(self, track: Track, now: float) -> list[Command] | None:
        """The way from a hold of ours to the release; None where the hold is no longer there."""
        job, nodes = track.view.job, track.moving or ()
        if job.state.finished:
            # Queued again from its end, it may be shown so until the request arrives; cancelled, it stays so.
            if job.state in (JobState.CANCELLED, JobState.COMPLETED):
                track.moving = None
            return None
        if job.state is not JobState.PENDING or "COMPLETING" in job.flags:
            if job.state is JobState.RUNNING and "COMPLETING" not in job.flags and now - track.since > AGAIN_S:
                track.moving = None  # it runs: somebody else released it
            return []
        if "held state" not in job.reason.replace("_", " ") and "REQUEUE_HOLD" not in job.flags:
            track.moving = None  # released, or held by a person since
            return None
        if not self._may_repeat(track, "release", now):
            return []
        self._keep_from(track, nodes, now)
        return orders.release(track.view, nodes, now)

    def _lift(self, track: Track, now: float) -> Command | None:
        """Lift Slurm's delay of a job that was queued again, some seconds after its old nodes are free."""
        job = track.view.job
        begin = job.eligible_time or job.start_time
        waits = (
            job.state is JobState.PENDING and "COMPLETING" not in job.flags and not job.held and job.restarts > 0
            and job.reason in ("BeginTime", "", "None") and begin is not None and begin > now
        )
        if not waits or begin is None or (track.waiting_since is None and begin - now > LONGEST_DELAY_S):
            track.waiting_since = None
            return None
        if track.waiting_since is None:
            track.waiting_since = now
        if now - track.waiting_since < SAFE_DELAY_S or not self._may_repeat(track, "lift", now):
            return None
        return orders.start_now(track.view, now)

    def _may_repeat(self, track: Track, step: str, now: float) -> bool:
        key = f"{step}:{track.view.job.restarts}"
        if now - track.steps.get(key, -AGAIN_S) < AGAIN_S:
            return False
        track.steps[key] = now
        return True

    def _keep_from(self, track: Track, nodes: Iterable[str], now: float) -> None:
        track.excluded |= dict.fromkeys(nodes, now + track.view.managed.limits.exclude_for_s)

    def _lost(self, seen: set[int]) -> list[Command]:
        """Jobs that Slurm knew and knows no more, though they had not ended: seen twice, to be sure, then looked at."""
        commands: list[Command] = []
        for job_id in [job_id for job_id in self.tracks if job_id not in seen]:
            track = self.tracks[job_id]
            if track.view.job.state.finished:
                self._drop(job_id)
                continue
            self._missing[job_id] = self._missing.get(job_id, 0) + 1
            if self._missing[job_id] >= 2:
                commands.append(orders.look_for(track.view))
        for job_id in [job_id for job_id in self._missing if job_id in seen]:
            del self._missing[job_id]
        return commands

    def _drop(self, job_id: int) -> None:
        del self.tracks[job_id]
        self._missing.pop(job_id, None)
        self.gone.append(job_id)
        self.changed = True

    # -- judgement --------------------------------------------------------------------------------------------------

    def _judge(self, event: Looked) -> list[Command]:
        track = self.tracks.get(event.job_id)
        if track is None:
            return []
        if event.job_id in self._missing:
            self._drop(event.job_id)
            return [] if event.over else orders.lost(track.view, event.time)
        found, view = track.diagnosis, track.view
        if found is None or found.way not in (Way.RESTART, Way.RELEASE, Way.CONTINUE) or view.job.restarts != event.restarts:
            return []
        mark = f"{event.restarts}:{found.way.value}"
        if mark in track.judged:
            return []
        track.judged.add(mark)
        track.suspicion = ""
        if found.way is Way.CONTINUE:
            return self._continue(track, found, event)
        attempt = self._attempt(track, found, event)
        usable = sum(node.available and view.job.partition in node.partitions for node in event.nodes)
        verdict = judge(
            with_present(event.attempts, attempt), view.managed.limits, now=event.time, nodes_usable=usable or None,
            nodes_needed=view.managed.nodes_needed,
        )
        known, number = end_among(event.attempts, attempt), len(event.attempts) + track.reopened
        if known is not None and known.rung == "R4":
            verdict = Verdict(False, f"that it stops was decided already: {known.message}")
        if not verdict.restart:
            stopped = orders.stop(view, replace(attempt, rung="R4"), verdict, number)
            return [*stopped, *self._drain(view, attempt, event, number)]
        exclude = set(verdict.exclude)
        if found.way is Way.RELEASE:
            # The prolog drained them; the job must not meet them again even if somebody undrains them too early.
            spare = usable - len(set(attempt.nodes) & _usable_names(event)) - len(exclude)
            exclude |= set(attempt.nodes) if spare >= view.managed.nodes_needed else set()
            self._keep_from(track, exclude, event.time)
            return orders.release_held(view, attempt, verdict, tuple(sorted(exclude)), number)
        if exclude:
            track.moving = tuple(sorted(exclude))
        restarted = orders.restart(view, attempt, verdict, tuple(sorted(exclude)), number)
        return [*restarted, *self._drain(view, attempt, event, number)]

    def _drain(self, view: JobView, attempt: Attempt, event: Looked, number: int) -> list[Command]:
        """Nodes that have failed too many jobs; what Slurm has drained for its prolog is out of service already."""
        commands: list[Command] = []
        for node in attempt.nodes if self._drain_after and attempt.cause is not Cause.PROLOG else ():
            if (times := event.blamed.get(node, 0) + 1) >= self._drain_after:
                commands += orders.drain(view, attempt, node, times, number)
        return commands

    @staticmethod
    def _continue(track: Track, found: Diagnosis, event: Looked) -> list[Command]:
        """Go on as another job without the dead nodes, if enough others are there; else wait as Slurm does."""
        view, names = track.view, {str(node) for node in track.view.job.nodes}
        dead = tuple(node for node in dead_nodes(event.nodes) if node in names)
        usable = sum(node.available and view.job.partition in node.partitions for node in event.nodes)
        if not dead or usable < view.managed.nodes_needed:
            track.judged.discard(f"{event.restarts}:{found.way.value}")
            return []
        return orders.carry_on(view, dead)

    def _attempt(self, track: Track, found: Diagnosis, event: Looked) -> Attempt:
        view, cause, nodes = track.view, found.cause, found.nodes
        job, beat = view.job, view.beat
        dead = dead_nodes(event.nodes)
        if cause is Cause.PROLOG:
            nodes = failed_prologs(event.nodes, since=_queued_again(job, event.time))
        elif cause is Cause.COORDINATOR and beat is not None and beat.host in dead:
            cause, nodes = Cause.NODE, (beat.host,)
        elif cause is Cause.NODE and not nodes:
            nodes = tuple(node for node in dead if node in track.nodes)
        if event.out_of_memory and cause in (Cause.COORDINATOR, Cause.UNKNOWN):
            cause = Cause.HOST_MEMORY
        words = "out of host memory" if cause is Cause.HOST_MEMORY else ""
        best = max((attempt.step for attempt in event.attempts if attempt.step is not None), default=0)
        ran_s = event.time - (track.started or event.time)
        return Attempt(
            time=event.time, cause=cause, rung="R3", incarnation=beat.incarnation if beat else 0, step=event.step,
            progressed=event.step > best if event.step is not None else ran_s >= UNKNOWN_PROGRESS_S,
            fingerprint=fingerprint(words, "", 137) if words else "", nodes=nodes, message=found.reason,
            job=int(job.job_id), restarts=job.restarts,
        )


def _usable_names(event: Looked) -> set[str]:
    return {str(node.name) for node in event.nodes if node.available}


def _queued_again(job: Job, now: float) -> float:
    """Slurm dates the submission of a job anew when it queues it again."""
    return job.submit_time if job.submit_time is not None else now - 600.0
