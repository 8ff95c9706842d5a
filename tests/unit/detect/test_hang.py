"""Hangs: ranks that live and make no progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.hang import HangDetector
from hpctrain.detect.settings import DetectionSettings

START = 1000.0


class Job:
    """A few ranks that take steps of some seconds, and a coordinator that looks twice a second."""

    def __init__(self, ranks: int = 4, *, is_trainer: bool = True, **hang: Any) -> None:
        self.detector = HangDetector(DetectionSettings.read({"hang": hang}).hang, is_trainer=is_trainer)
        self.detector.begin(0, START)
        self.now = START
        phase = "step" if is_trainer else ""
        self.beats = [
            RankBeat(rank, f"n{rank // 2}", 0, time=START if is_trainer else 0.0, seen=START, phase=phase,
                     step=0 if is_trainer else None)
            for rank in range(ranks)
        ]
        self.look()

    def look(self) -> Sequence[Detection]:
        """The coordinator looks, after the agents have told what they know."""
        self.beats = [replace(beat, seen=self.now) for beat in self.beats]
        return self.detector.look(self.beats, self.now)

    def beat(self, *ranks: int, **values: Any) -> None:
        """These ranks write their heartbeats; all when none is named."""
        self.beats = [
            replace(beat, time=self.now, **values) if not ranks or beat.rank in ranks else beat for beat in self.beats]

    def train(self, steps: int, step_s: float) -> None:
        """Take steps; nothing may be found."""
        for _ in range(steps):
            assert self.wait(step_s) is None
            self.beat(step=(self.beats[0].step or 0) + 1)

    def wait(self, seconds: float, each: Callable[[], None] | None = None) -> Detection | None:
        """Let time pass until something is found."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            if each:
                each()
            if found := self.look():
                return found[0]
        return None


def test_a_stopped_step_is_found_after_the_learned_limit() -> None:
    """When no rank makes progress any more, it is told after factor x step time, and before three times of that."""
    job = Job(at_least=5)
    job.train(20, 2.0)
    stopped = job.now

    found = job.wait(1000)

    assert found is not None
    assert found.cause == "hang"
    assert found.action == "restart"
    assert found.stacks
    assert found.step == 20
    assert 20 <= job.now - stopped < 3 * 20
    assert found.fault_time == pytest.approx(stopped, abs=1)
    assert found.evidence["limit_s"] == pytest.approx(20, rel=0.1)


def test_a_short_step_has_a_floor() -> None:
    """Steps of milliseconds do not make a hang of a pause of a second."""
    job = Job(at_least=60)
    job.train(50, 0.5)

    assert job.wait(59) is None
    assert job.wait(3) is not None


def test_the_first_step_may_take_long_until_one_was_seen() -> None:
    """Compiling takes minutes: the first step has half an hour, and later starts what the first ones have shown."""
    job = Job(at_least=5)
    assert job.wait(1700) is None
    job.beat(step=1)
    job.train(5, 1.0)
    job.detector.begin(1, job.now)
    job.beat(step=5)
    job.look()

    assert job.wait(1800) is None
    found = job.wait(1800 * 10)

    assert found is not None
    assert found.evidence["phase"] == "first_step"


def test_who_lags_is_named() -> None:
    """A rank that has not completed the step that the others have completed is to blame."""
    job = Job(at_least=5)
    job.train(10, 1.0)
    job.now += 0.5
    job.beat(0, 1, 3, step=11)

    found = job.wait(100)

    assert found is not None
    assert found.ranks == (2,)
    assert found.nodes == ("n1",)
    assert "rank 2 on n1 lags behind" in found.reason


def test_ranks_that_wait_are_not_to_blame() -> None:
    """Where all have done the same steps, those that say they wait point at the one that does not."""
    job = Job(at_least=5)
    job.train(10, 1.0)
    job.beat(0, 2, 3, detail="waiting for the other ranks")

    found = job.wait(100)

    assert found is not None
    assert found.ranks == (1,)


def test_a_single_silent_rank_is_found_while_others_go_on() -> None:
    """Ranks that do not wait for each other in every step: one that is silent for long is found all the same."""
    job = Job(at_least=5)
    job.train(10, 1.0)

    def others() -> None:
        if job.now == int(job.now):
            job.beat(0, 1, 2, step=(job.beats[0].step or 0) + 1)

    found = job.wait(100, others)

    assert found is not None
    assert found.ranks == (3,)
    assert "while other ranks did" in found.reason


def test_ranks_wait_for_one_that_tokenises() -> None:
    """While rank 0 prepares data and says so, the others that wait for it are not hanging, however long it takes."""
    job = Job(limits={"data": 100})
    job.detector.begin(0, job.now)
    job.beat(phase="data")

    def progress() -> None:
        if job.now % 10 == 0:
            job.beat(0, detail=f"{job.now} documents")

    assert job.wait(2000, progress) is None
    assert job.wait(110) is not None


def test_a_paused_job_is_no_hang() -> None:
    """When coordinator and agents were stopped for an hour, nobody was silent in that time."""
    job = Job(at_least=5)
    job.train(10, 1.0)
    job.now += 3600.0

    assert not job.look()
    assert job.wait(3) is None
    job.train(3, 1.0)
    assert job.wait(60) is not None


def test_an_agent_that_does_not_answer_is_no_hang() -> None:
    """Only what an agent has seen counts: its own silence is another detector's."""
    job = Job(at_least=5)
    job.train(10, 1.0)
    for _ in range(1000):
        job.now += 0.5
        assert not job.detector.look(job.beats, job.now)  # the beats keep the time at which they were heard


def test_a_rank_that_has_ended_does_not_hide_the_others() -> None:
    """Nobody tells of a rank that has ended any more; those that finish later can hang all the same."""
    job = Job(limits={"finish": 60})
    job.train(5, 1.0)
    job.beat(phase="finish")
    job.look()
    ended = job.beats.pop()
    found: Sequence[Detection] = ()
    while not found and job.now < START + 1000:
        job.now += 0.5
        job.beats = [replace(beat, seen=job.now) for beat in job.beats]
        found = job.detector.look([*job.beats, ended], job.now)

    assert [one.evidence["phase"] for one in found] == ["finish"]
    assert set(found[0].evidence["steps"]) == {"0", "1", "2"}


def test_a_clock_that_jumps_is_no_hang_and_teaches_nothing() -> None:
    """A node's clock that is set by hours changes neither verdicts nor limits."""
    job = Job(at_least=5)
    job.train(5, 1.0)
    job.now += 0.5
    job.beats = [replace(beat, time=job.now + 7200, step=6) for beat in job.beats]
    job.look()
    job.now += 0.5
    job.beats = [replace(beat, time=job.now, step=7) for beat in job.beats]
    job.look()

    assert job.detector.limit_s("step") < 20


def test_a_hang_is_told_once_and_again_after_progress() -> None:
    """The same silence is not told twice; another one after progress is."""
    job = Job(at_least=5, action="alert")
    job.train(10, 1.0)

    assert job.wait(100) is not None
    assert job.wait(100) is None
    job.train(2, 1.0)
    found = job.wait(100)
    assert found is not None
    assert found.action == "alert"


def test_a_set_limit_counts_as_it_is() -> None:
    """A limit in the recipe is neither learned nor raised to the floor."""
    job = Job(at_least=60, limits={"step": 2, "first_step": 7, "save": 9})

    assert job.detector.limit_s("step") == 2
    assert job.detector.limit_s("first_step") == 7
    job.train(3, 1.0)
    job.beat(phase="save")
    assert job.wait(8) is None
    found = job.wait(3)
    assert found is not None
    assert found.evidence["phase"] == "save"


def test_a_save_waits_for_the_slowest_phase_of_any_rank() -> None:
    """Ranks that wait in a step for one that saves are judged by the limit of the save."""
    job = Job(at_least=5, limits={"save": 100})
    job.train(10, 1.0)
    job.beat(0, phase="save")

    assert job.wait(95) is None
    assert job.wait(10) is not None


def test_a_rank_that_never_starts() -> None:
    """A trainer that has written no heartbeat has the time for starting, and no longer."""
    job = Job(limits={"init": 50})
    job.detector.begin(1, job.now)
    job.beats = [RankBeat(rank, "n0", 1, seen=job.now) for rank in range(2)]
    job.look()

    assert job.wait(49) is None
    found = job.wait(3)
    assert found is not None
    assert found.evidence["phase"] == "init"


def test_off_finds_nothing() -> None:
    """Detection can be switched off."""
    job = Job(action="off", at_least=5)
    job.train(10, 1.0)

    assert job.wait(10_000) is None


# ---------------------------------------------------------------- scripts without heartbeats


def test_a_script_that_prints_or_computes_is_alive() -> None:
    """Output or CPU work is progress; without both, the limit for scripts counts."""
    job = Job(is_trainer=False)

    def prints() -> None:
        job.beats[1] = replace(job.beats[1], output_bytes=job.beats[1].output_bytes + (job.now % 100 == 0))

    def computes() -> None:
        job.beats[2] = replace(job.beats[2], cpu_s=job.beats[2].cpu_s + 0.2)

    assert job.wait(3000, prints) is None
    assert job.wait(3000, computes) is None
    assert job.wait(590) is None
    found = job.wait(30)
    assert found is not None
    assert found.evidence["phase"] == "script"


def test_idle_threads_are_no_work() -> None:
    """Timers and watchdog threads use a little CPU also in a process that hangs."""
    job = Job(is_trainer=False, limits={"script": 30})

    def idles() -> None:
        job.beats = [replace(beat, cpu_s=beat.cpu_s + 0.005) for beat in job.beats]

    assert job.wait(60, idles) is not None


def test_a_script_that_spins_needs_an_output_limit() -> None:
    """Ranks that wait for NCCL use their CPUs: only a limit on the silence of their output finds them."""

    def spins(job: Job) -> Callable[[], None]:
        def work() -> None:
            job.beats = [replace(beat, cpu_s=beat.cpu_s + 0.5) for beat in job.beats]

        return work

    free, limited = Job(is_trainer=False), Job(is_trainer=False, output_limit=120)

    assert free.wait(4000, spins(free)) is None
    found = limited.wait(4000, spins(limited))
    assert found is not None
    assert 119 <= limited.now - START <= 125


def test_a_script_with_heartbeats_is_judged_by_them() -> None:
    """A script that writes our heartbeat file has the limits of the trainer's phases."""
    job = Job(is_trainer=False, limits={"step": 10, "first_step": 10})
    job.beats = [replace(beat, time=job.now, phase="step", step=0) for beat in job.beats]
    job.look()
    job.train(5, 1.0)

    assert job.wait(12) is not None


def test_a_copy_into_memory_is_no_long_save() -> None:
    """A rank stopped while it copies, as after every step, is found as soon as in a step; one that writes files has time."""
    for detail, expected in (("", True), ("writing the shared checkpoint", False)):
        job = Job(at_least=60)
        for step in range(1, 12):
            job.beat(phase="step", step=step)
            job.wait(1)
            job.beat(phase="save", step=step)
            job.wait(1)
        job.beat(phase="save", step=12, detail=detail)

        assert expected is (job.wait(400) is not None)
