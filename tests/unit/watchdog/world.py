"""A fake Slurm, a clock and run directories of real files, with a watchdog over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain.files import make_private_dir, read_jsonl, write_json_atomic
from hpctrain.ids import JobId
from hpctrain.jobs.event import Event
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.slurm.model import Job, Submission
from hpctrain.submit.plan_model import Plan, RankCommand, SlurmRequest
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm
from hpctrain.watchdog.continuation import Continuation
from hpctrain.watchdog.daemon import Daemon
from hpctrain.watchdog.executor import Executor
from hpctrain.watchdog.journal import Journal
from hpctrain.watchdog.model import Command
from hpctrain.watchdog.pacing import Pace
from hpctrain.watchdog.runs import RunFiles


class Always:
    """A lease that is never lost."""

    def check(self) -> None:
        """Fine."""

    def renew(self) -> None:
        """Fine."""


class Told:
    """Remembers what people were told."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def send(self, command: Command) -> str:
        """Keep it."""
        self.commands.append(command)
        return "by test"


class World:
    """One user's jobs and their watchdog; times pass when a test says so."""

    def __init__(self, path: Path, nodes: Sequence[str] = ("n1", "n2", "n3", "n4")) -> None:
        self.path = path
        self.clock = FakeClock()
        self.slurm = FakeSlurm(nodes, clock=self.clock)
        self.told = Told()
        self.point: Callable[[str], None] = lambda _: None
        self.start()

    def start(self, token: int = 1) -> None:
        """A new watchdog process over the same journal."""
        self.journal = Journal(self.path / "state" / "journal.sqlite", token)
        self.files = RunFiles("login1", self.clock)
        self.executor = Executor(
            self.slurm, self.journal, Always(), records=self.files, notifier=self.told, clock=self.clock,
            point=self._at, settle_s=25.0, continuation=Continuation(self.slurm, self.clock, self._at),
        )
        self.daemon = Daemon(self.slurm, self.files, self.executor, self.journal, clock=self.clock, pace=Pace())

    def _at(self, name: str) -> None:
        self.point(name)

    def submit(self, name: str = "run-1", *, nodes: int = 2, options: Sequence[str] = (), **plan: Any) -> JobId:
        """A run with its directory, submitted."""
        run = RunDir(make_private_dir(self.path / name))
        for directory in (run.control, run.events, run.logs):
            make_private_dir(directory)
        request = SlurmRequest(name, nodes, str(run.job_log), requeue=plan.pop("requeue", True))
        made = Plan(
            run_name=name, run_dir=str(run.path), python="python3", nodes=nodes, spares=0, ranks_per_node=1, device="cpu",
            command=RankCommand(("true",), "/"), slurm=request,
        )
        write_json_atomic(run.plan, replace(made, **plan).to_json(), durable=False)
        lines = [f"--job-name={name}", f"--comment=hpctrain:{name}", f"--nodes={nodes}", "--no-kill", *options]
        script = "#!/bin/sh\n" + "".join(f"#SBATCH {line}\n" for line in lines)
        run.script.write_text(script)
        job_id = self.slurm.submit(Submission(script, str(run.path)))
        write_json_atomic(run.record, {"job_id": job_id, "submitted_time": self.clock.time()}, durable=False)
        return job_id

    def beat(self, job_id: JobId, *, state: str = "run", ago_s: float = 0.0, beat: int = 1, **values: Any) -> None:
        """What the coordinator of a job writes."""
        job = self.job(job_id)
        record = {
            "time": self.clock.time() - ago_s, "beat": beat, "host": job.batch_host or "n1", "pid": 1, "srun_pid": 2,
            "job": job_id, "restarts": job.restarts, "incarnation": job.restarts, "state": state,
            "exit_code": None, **values,
        }
        write_json_atomic(Path(job.work_dir) / "control" / "coordinator.json", record, durable=False)

    def job(self, job_id: JobId) -> Job:
        """The job now."""
        return self.slurm.jobs([job_id])[0]

    def run(self, name: str = "run-1") -> RunDir:
        """The run's directory."""
        return RunDir(self.path / name)

    def turns(self, count: int, step_s: float = 10.0) -> None:
        """Poll, and let time pass between."""
        for _ in range(count):
            self.daemon.turn()
            self.clock.advance(step_s)

    def events(self, name: str = "run-1") -> list[Event]:
        """What the watchdog told of a run."""
        return [event for event in read_events(self.run(name)) if event.source == "watchdog"]

    def attempts(self, name: str = "run-1") -> list[dict[str, Any]]:
        """The failures counted."""
        return list(read_jsonl(self.run(name).control / "attempts.jsonl"))

    def deeds(self) -> list[str]:
        """What was done, as ``deed:state``."""
        return [f"{entry.command.deed.value}:{entry.state}" for entry in self.journal.newest(200)]


def as_text(value: object) -> str:
    """For messages of failed tests."""
    return json.dumps(value, default=str, indent=1)
