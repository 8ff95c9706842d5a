"""When to save (pure)."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class Decision:
    """To save or not, and why (the reason is shown and stored)."""

    save: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Saves at multiples of ``every_steps``, and once ``every_s`` seconds have passed since the last save.

    Attributes:
        every_steps: None for no saving by steps.
        every_s: seconds, None for no saving by time. With neither: every 10 minutes.
    """

    every_steps: int | None = None
    every_s: float | None = None

    @property
    def period_s(self) -> float | None:
        """Seconds between saves, None where only steps count."""
        if self.every_steps is None and self.every_s is None:
            return DEFAULT_EVERY_S
        return self.every_s

    @property
    def uses_time(self) -> bool:
        """Ranks' clocks differ, so one rank must decide for all."""
        return self.period_s is not None

    def due(self, step: int, *, seconds_since_save: float, retry_at: int | None = None) -> Decision:
        """Whether to save after ``step`` completed steps.

        Args:
            seconds_since_save: since the last save ended or was restored.
            retry_at: see :func:`retry_step`; None when the last save went well.
        """
        if retry_at is not None and step >= retry_at:
            return Decision(True, "the last save failed")
        if self.every_steps is not None and step > 0 and step % self.every_steps == 0:
            return Decision(True, f"every {self.every_steps} steps")
        if self.period_s is not None and seconds_since_save >= self.period_s:
            return Decision(True, f"every {self.period_s:g} s")
        return Decision(False)


def retry_step(step: int, failures: int) -> int:
    """First step at which a save that failed is tried again: the next one, then 2, 4, 8 ... up to 64 steps later.

    Counted in steps, not seconds, so that all ranks agree without asking each other.

    Args:
        step: at which the save failed.
        failures: saves that failed in a row, this one included.
    """
    return step + min(1 << (failures - 1), 64)
