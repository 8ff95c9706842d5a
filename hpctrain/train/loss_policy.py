"""What the trainer does about a bad loss: tell, go back, or end (service over the run directory's ``control/rewind.json``).

The losses are numbers on the host already, added up over all ranks: judging them costs no transfer from the device, and
every rank comes to the same decision in the same step. A step whose loss or gradient is bad is never saved.
"""

from __future__ import annotations

import json
from dataclasses import replace

from hpctrain.checkpoint.manager import Checkpointer
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.restore_search import NothingOlderError
from hpctrain.clock import Clock, SystemClock
from hpctrain.detect.loss import LossFinding, LossWatch
from hpctrain.detect.rewind import RewindOrder, next_order
from hpctrain.detect.settings import LossSettings
from hpctrain.errors import HpctrainError
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.units import several
from hpctrain.train.data import DataCursor
from hpctrain.train.environment import EXIT_DIVERGED
from hpctrain.train.report import Reporter


class DivergedError(HpctrainError):
    """The loss went wrong, and the run may not or cannot go back."""

    exit_code = EXIT_DIVERGED
    hint = "look at the data and the learning rate around that step; 'detection.loss' in the recipe says what is done"


class RewindRequested(Exception):  # noqa: N818 - it asks for something, nothing failed
    """The ranks are to end and to be started again, from an older checkpoint."""


class LossPolicy:
    """Judges every step; the same on every rank.

    Args:
        settings: ``detection.loss`` of the recipe.
        incarnation: of these ranks.
    """

    def __init__(
        self, settings: LossSettings, run_dir: RunDir, *, ranks: Ranks, report: Reporter, incarnation: int,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._run_dir, self._ranks, self._report = settings, run_dir, ranks, report
        self._incarnation, self._clock = incarnation, clock or SystemClock()
        self._watch = LossWatch(settings)
        self._order: RewindOrder | None = None

    def restore(self, checkpointer: Checkpointer, cursor: DataCursor, *, reached: int | None, resume: bool) -> int:
        """Continue where an order says, or where the newest checkpoint left off; return the step.

        Args:
            cursor: registered with the checkpointer; moves past the data that is to be left out.
            reached: see :meth:`Checkpointer.restore`.
            resume: the recipe lets starts continue from checkpoints.

        Raises:
            CheckpointError: see :meth:`Checkpointer.restore`.
            DivergedError: there is nothing old enough to go back to.
        """
        order = self._order = self._ranks.on_first(lambda: read_order(self._run_dir))
        fresh = order is not None and order.restored_step is None
        if not resume:
            step = 0
        elif order is not None and fresh:
            try:
                step = checkpointer.restore(before=order.restore_before, back=order.checkpoints_back, reached=reached)
            except NothingOlderError as error:
                raise DivergedError(f"{order.reason}, and {error}", hint=error.advice) from None
        else:
            step = checkpointer.restore(reached=reached)
        if order is not None and fresh:
            # From here on newer checkpoints are those of the run that went back, and must not be passed over.
            order = self._order = replace(order, restored_step=step)
            self._write(order)
        if order is not None and cursor.consumed < order.skip_to_samples:
            left_out = order.skip_to_samples - cursor.consumed
            cursor.skip(left_out)
            evidence = {"samples": left_out, "to": order.skip_to_samples, "step_bad": order.step_bad}
            reason = f"{several(left_out, 'sample')} left out after step {step}: {order.reason}"
            self._report.event("data.skipped", reason, step, evidence)
        return step

    def judge(self, step: int, loss: float, *, gradient_ok: bool, consumed: int, global_batch: int) -> None:
        """Look at a step before it is saved; called by every rank with the same numbers.

        Args:
            consumed: samples that all ranks together have seen, those of this step included.

        Raises:
            RewindRequested: the order is written; end with EXIT_REWIND.
            DivergedError: the recipe wants an end, or no rewind is left.
        """
        found = self._watch.add(step, loss, gradient_ok=gradient_ok)
        if found is None:
            return
        order = None
        if found.action == "rewind":
            order = next_order(self._order, found, self._settings, incarnation=self._incarnation, time=self._clock.time(),
                               consumed=consumed, global_batch=global_batch)
        self._tell(found, order)
        if order is not None:
            self._write(order)
            raise RewindRequested(found.reason)
        if found.action == "rewind":
            rewinds = several(self._settings.max_rewinds, "rewind")
            raise DivergedError(f"{found.reason}, and the run has had its {rewinds} (detection.loss.max_rewinds)")
        if found.action == "stop":
            raise DivergedError(f"{found.reason}; the recipe ends the run then")

    def _tell(self, found: LossFinding, order: RewindOrder | None) -> None:
        evidence = {**found.evidence, "detector": "loss", "kind": found.kind, "action": found.action,
                    "step_bad": found.step_bad}
        reason = found.reason
        if order is not None:
            reason += (f"; going back to before step {order.restore_before} and leaving out the data seen since "
                       f"(rewind {order.rewinds} of {self._settings.max_rewinds})")
            evidence |= {"restore_before": order.restore_before, "skip_to_samples": order.skip_to_samples,
                         "rewinds": order.rewinds}
        self._report.event("loss.bad", reason, found.step, evidence)

    def _write(self, order: RewindOrder) -> None:
        """Rank 0 writes; nobody goes on before it is written, so that no rank's end can cut it short."""
        def work() -> None:
            make_private_dir(self._run_dir.control)
            write_json_atomic(self._run_dir.rewind, order.to_json())

        self._ranks.on_first(work)


def read_order(run_dir: RunDir) -> RewindOrder | None:
    """The newest order of a run; None when the loss never went wrong.

    Raises:
        HpctrainError: there is one that cannot be read: going on without it would train on the bad data again.
    """
    try:
        text = run_dir.rewind.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HpctrainError(f"cannot be read: {error.strerror}", where=str(run_dir.rewind)) from None
    try:
        order = RewindOrder.from_json(json.loads(text))
    except (ValueError, AttributeError):
        order = None
    if order is None:
        raise HpctrainError("is not an order to rewind", where=str(run_dir.rewind), hint="remove it to go on without it")
    return order
