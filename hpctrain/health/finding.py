"""What a check says about a reading, and the form a check has (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from hpctrain.health.reading import Reading


class Severity(IntEnum):
    """How bad it is; the order is the order of exit codes in the Nagios convention."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing.

    Attributes:
        check: name of the check.
        entity: what it is about: a mount, later a GPU uuid or a port.
        message: one sentence with the numbers that led to it.
        evidence: the same numbers for machines, units in the names.
    """

    check: str
    severity: Severity
    entity: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


Limits = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Check:
    """A check and its documentation, in one form.

    Attributes:
        what: what it looks at.
        why: why it hurts training.
        remedy: what a person does about it.
        false_alarms: when it is known to be wrong.
        limits: default limits, units in the names; ``healthchecks/limits.json`` and the site may change them.
        run: from a reading and limits to findings; says nothing when all is well, and UNKNOWN when it cannot tell.
    """

    name: str
    what: str
    why: str
    remedy: str
    false_alarms: str
    limits: Limits
    run: Callable[[Reading, Limits], Iterable[Finding]]


def worst(findings: Iterable[Finding]) -> Severity:
    """The verdict over all findings: CRITICAL beats UNKNOWN beats WARNING, as a known fault needs an action."""
    order = (Severity.OK, Severity.WARNING, Severity.UNKNOWN, Severity.CRITICAL)
    return max((finding.severity for finding in findings), key=order.index, default=Severity.OK)
