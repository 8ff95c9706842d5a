"""What ``hpctrain doctor`` finds, as values (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is, the same in every release.
        status: ``ok``; ``note`` for what some commands lack or what is only slower; ``problem`` for what hpctrain cannot
            work without.
        text: what was found, in one line.
        advice: what to do about it; "" where nothing needs doing.
    """

    name: str
    status: Status
    text: str
    advice: str = ""


def healthy(checks: Sequence[Check]) -> bool:
    """Nothing essential is broken."""
    return all(check.status != "problem" for check in checks)
