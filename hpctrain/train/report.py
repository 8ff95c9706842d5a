"""What the run tells people and machines: log lines, metrics, events, progress (adapter over standard output and files).

Only rank 0 speaks; the other ranks have a reporter that says nothing.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpctrain.clock import Clock, SystemClock
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.recipe.units import format_duration
from hpctrain.train.environment import RankEnvironment
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.metrics import MetricsLog

_RECENT_STEPS = 20
_METHODS_OWN = {"reward": "reward", "rewards/accuracies": "accuracy", "accuracy": "accuracy"}
"""What a method learns by, where the loss says little: its name in metrics, and in the log."""


@dataclass(slots=True)
class StepReport:
    """One completed step, over all ranks.

    Attributes:
        loss: mean per token.
        grad_norm: before clipping.
        epoch: passes over the data so far.
        tokens: in this step.
        seconds: it took.
        validation_loss: mean per token, where it was measured.
        total_tokens: since the beginning of the run; None where every step has as many as this one.
        more: what else the method tells of this step, by name.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    epoch: float
    tokens: int
    seconds: float
    validation_loss: float | None = None
    total_tokens: int | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """What is stored with a checkpoint of this step, for ``checkpoint.keep_best``."""
        measured = {} if self.validation_loss is None else {"validation_loss": self.validation_loss}
        return {**self.more, "loss": self.loss, **measured}


class Reporter:
    """Speaks for the run.

    Args:
        heartbeat: of this rank; it exists on every rank.
        log_every_steps: steps between log lines.
    """

    def __init__(
        self, run_dir: RunDir, environment: RankEnvironment, heartbeat: Heartbeat, *, log_every_steps: int = 1,
        tensorboard: bool = False, clock: Clock | None = None,
    ) -> None:
        self._speaks = environment.rank == 0
        self._clock: Clock = clock or SystemClock()
        self._heartbeat, self._log_every, self._node = heartbeat, log_every_steps, environment.node
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._total, self._first, self._warned = 0, True, ""
        self.incarnation = environment.incarnation
        if self._speaks:
            job = os.environ.get("SLURM_JOB_ID", "")
            host = environment.node or socket.gethostname()
            self._events = EventWriter(run_dir, "trainer", host, self._clock, int(job) if job.isdigit() else None)
            self._metrics = MetricsLog(run_dir.metrics, run_dir.tensorboard if tensorboard else None)

    def say(self, line: str) -> None:
        """One line for people."""
        if self._speaks:
            print(line, flush=True)  # noqa: T201 - the trainer's standard output is its log

    def event(self, kind: str, reason: str, step: int | None = None, evidence: Mapping[str, Any] | None = None) -> None:
        """One event, and the same as a log line."""
        if self._speaks:
            self._events.note(kind, reason, node=self._node, step=step, evidence=evidence)
            self.say(f"{kind}: {reason}")

    def start(self, step: int, total_steps: int, summary: str) -> None:
        """Training begins after ``step`` completed steps."""
        self._total = total_steps
        self._heartbeat.beat("step", step=step, total_steps=total_steps)
        where = f"continues after step {step} of {total_steps}" if step else f"starts, {total_steps} steps"
        self.event("trainer.started", f"training {where}: {summary}", step, {"total_steps": total_steps})

    def step(self, line: StepReport) -> None:
        """A step is complete."""
        self._recent.append(line.seconds)
        pace = sum(self._recent) / len(self._recent)
        rate, eta = line.tokens / max(line.seconds, 1e-9), pace * (self._total - line.step)
        self._heartbeat.first_step()
        self._heartbeat.beat(
            "step", step=line.step, loss=line.loss, learning_rate=line.learning_rate,
            tokens_per_s=round(line.tokens / pace, 1), eta_s=round(eta, 1),
        )
        if not self._speaks:
            return
        self._metrics.write(self._record(line, rate))
        self._warn_of(self._metrics.problem)
        if self._first:
            self._first = False
            evidence = {"seconds": round(line.seconds, 3)}
            self.event("step.first", f"step {line.step} took {line.seconds:.2f} s", line.step, evidence)
        if line.step % self._log_every == 0 or line.step == self._total or line.validation_loss is not None:
            self.say(self._text(line, rate, eta))

    def close(self) -> None:
        """Close the files."""
        if self._speaks:
            self._metrics.close()
        self._heartbeat.close()

    def _warn_of(self, problem: str) -> None:
        if problem and problem != self._warned:
            text = f"warning: metrics.jsonl cannot be written: {problem}; training goes on"
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - once, not per step
        self._warned = problem

    def _record(self, line: StepReport, tokens_per_s: float) -> dict[str, Any]:
        tokens = line.step * line.tokens if line.total_tokens is None else line.total_tokens
        record: dict[str, Any] = {
            **line.more, "step": line.step, "time": round(self._clock.time(), 3), "loss": line.loss,
            "learning_rate": line.learning_rate,
            "grad_norm": line.grad_norm, "tokens": tokens, "tokens_per_s": round(tokens_per_s, 2),
            "step_time_s": round(line.seconds, 5), "epoch": round(line.epoch, 6), "incarnation": self.incarnation,
        }
        if line.validation_loss is not None:
            record["validation_loss"] = line.validation_loss
        return record

    def _text(self, line: StepReport, tokens_per_s: float, eta_s: float) -> str:
        width = len(str(self._total))
        validation = f"  validation {line.validation_loss:.4f}" if line.validation_loss is not None else ""
        measure = "".join(f"  {name} {line.more[key]:.3f}" for key, name in _METHODS_OWN.items() if key in line.more)
        return (
            f"step {line.step:>{width}}/{self._total}  loss {line.loss:.4f}{validation}{measure}  "
            f"lr {line.learning_rate:.2e}  grad {line.grad_norm:.3f}  {tokens_per_s:,.0f} tokens/s  "
            f"ETA {format_duration(eta_s)}"
        )
