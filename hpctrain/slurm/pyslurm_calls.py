"""Ask the pyslurm helper so that it answers or fails clearly: bounded retries, giving up (adapter over the helper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import ControllerDownError, MissingDependencyError
from hpctrain.slurm import refusal
from hpctrain.slurm.commands import pauses
from hpctrain.slurm.pyslurm_helper import (
    Helper,
    HelperBrokeError,
    HelperDiedError,
    HelperError,
    HelperRefusedError,
    HelperSilentError,
    HelperUnusableError,
)

GIVE_UP_AFTER = 3
"""So many failed calls in a row, each of which was tried twice."""

T = TypeVar("T")


class Elsewhere(Exception):  # noqa: N818 - not an error: the call takes the other road
    """Not through pyslurm, this time or any more."""


class OutcomeUnknown(Exception):  # noqa: N818 - told to the caller, who looks
    """A change was sent, and its answer was lost."""


class PyslurmCalls:
    """Requests to a helper, repeated where that is safe.

    Args:
        helper: the process that runs pyslurm.
        required: a pyslurm that has never worked is an error, not a reason to use the commands.
        timeout_s: longest wait for one answer.
        retries: further tries when the controller does not answer.
        announce: told in one sentence before each further try, and when pyslurm is given up.

    Attributes:
        given_up: why pyslurm is not used any more; "" while it is.
    """

    def __init__(
        self,
        helper: Helper,
        *,
        required: bool = False,
        timeout_s: float = 20.0,
        retries: int = 3,
        clock: Clock | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        self.helper, self.given_up = helper, ""
        self._required, self._timeout_s, self._retries = required, timeout_s, retries
        self._clock, self._announce = clock or SystemClock(), announce or (lambda _: None)
        self._failures = 0

    def through(
        self, read: Callable[[Any], T], otherwise: Callable[[], T], action: str, call: str, **arguments: Any
    ) -> T:
        """``read`` of pyslurm's answer, or ``otherwise`` where pyslurm cannot; see :meth:`ask`."""
        try:
            return read(self.ask(action, call, **arguments))
        except Elsewhere:
            return otherwise()

    def ask(self, action: str, call: str, *, once: bool = False, **arguments: Any) -> Any:
        """An answer from pyslurm.

        Args:
            action: what is tried, such as ``cannot hold job 17``; begins the message if Slurm refuses.
            once: the request must not be sent again after it may have arrived.

        Raises:
            Elsewhere: pyslurm cannot; ask Slurm's commands.
            OutcomeUnknown: with ``once``, if the request may or may not have been carried out.
            ControllerDownError: slurmctld does not answer.
            SlurmError: Slurm refused, in one of its typed forms.
        """
        waits, lost = iter(pauses(self._retries)), 0
        while not self.given_up:
            try:
                answer = self.helper.ask(call, self._timeout_s, **arguments)
            except HelperRefusedError as error:
                self._failures = 0
                self._refused(str(error), action, waits, once=once)
            except HelperUnusableError as error:
                raise self._unusable(error) from None
            except (HelperDiedError, HelperSilentError, HelperBrokeError) as error:
                lost += 1
                if once:
                    self._count(error)
                    raise OutcomeUnknown from None
                # The same Python error would come again; a dead or silent process may have been bad luck.
                if lost == 2 or isinstance(error, HelperBrokeError):
                    self._count(error)
                    break
            else:
                self._failures = 0
                return answer
        raise Elsewhere

    def _refused(self, text: str, action: str, waits: Iterator[float], *, once: bool) -> None:
        """Raise what Slurm meant, or wait for the next try."""
        if not refusal.unreachable(text):
            raise refusal.explain(text, action) from None
        if once and not refusal.never_arrived(text):
            raise OutcomeUnknown from None
        why = f"Slurm's controller does not answer ({refusal.in_slurms_words(text)})"
        pause_s = next(waits, None)
        if pause_s is None:
            tries = f", in {self._retries + 1} tries" if self._retries else ""
            raise ControllerDownError(f"{why}{tries}") from None
        self._announce(f"{why}; trying again in {pause_s:g} s")
        self._clock.sleep(pause_s)

    def _count(self, error: HelperError) -> None:
        self._failures += 1
        if self._failures >= GIVE_UP_AFTER:
            self._give_up(f"{self._failures} calls in a row failed, the last with: {error}")

    def _unusable(self, error: HelperUnusableError) -> Exception:
        if self._required and not self.helper.requests:
            hint = "'hpctrain doctor' says more; with slurm_adapter = \"auto\" Slurm's commands are used where pyslurm fails"
            return MissingDependencyError(f"pyslurm cannot be used: {error}", hint=hint)
        self._give_up(str(error))
        return Elsewhere()

    def _give_up(self, why: str) -> None:
        self.given_up = why
        self.helper.close()
        self._announce(f"pyslurm is not used any more ({why}); Slurm's commands take over")
