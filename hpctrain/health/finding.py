"""What a check says about a reading, and the form a check has (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

from hpctrain.health.gpu import Gpu
from hpctrain.health.reading import Reading


class Severity(IntEnum):
    """How bad a fact is; the first four are the exit codes of the Nagios convention."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3
    SKIPPED = 4


class Mode(IntEnum):
    """How far a check may go; a site sets it per check."""

    OFF = 0
    OBSERVE = 1
    WARN = 2
    DRAIN = 3


class Action(str, Enum):
    """What mends it, the mildest first; policies climb from one to the next."""

    NONE = "none"
    APP = "restart the application"
    CLEAN = "end leftover processes"
    CONFIGURE = "correct the configuration"
    RESET = "reset the GPU"
    REBOOT = "reboot the node"
    INSPECT = "have a person look at the hardware"
    REPLACE = "replace the part or the node"


class Blame(str, Enum):
    """Whose problem it is: a job is not moved for its own mistake, and a node is not drained for a job's."""

    NODE = "node"
    USER = "user"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing.

    Attributes:
        check: name of the check.
        entity: what it is about: a mount, a GPU (``gpu3:GPU-uuid``), a port, or the name of a whole area.
        message: one sentence with the numbers that led to it.
        evidence: the same numbers for machines, units in the names.
        rule: which rule of a policy with several fired, "" where the check is the rule.
    """

    check: str
    severity: Severity
    entity: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    action: Action = Action.NONE
    blame: Blame = Blame.NODE
    rule: str = ""


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
        mode: how far it may go unless the site says otherwise; a new check begins as OBSERVE.
        action: what usually mends what it finds.
        needs: the probes it reads from: ``nvml``, ``host``, ``devices``, ``mounts``, ``processes``, ``kernel_log``.
        gpu_fields: fields of a GPU it reads. Where no GPU has any of them the check is skipped; where one of them could not
            be read the check is UNKNOWN for that GPU.
        contexts: where it runs unless it is asked for by name.
    """

    name: str
    what: str
    why: str
    remedy: str
    false_alarms: str
    limits: Limits
    run: Callable[[Reading, Limits], Iterable[Finding]]
    mode: Mode = Mode.OBSERVE
    action: Action = Action.NONE
    blame: Blame = Blame.NODE
    needs: tuple[str, ...] = ("host",)
    gpu_fields: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ("prolog", "epilog", "periodic")

    def found(
        self,
        severity: Severity,
        entity: str,
        message: str,
        *,
        action: Action | None = None,
        blame: Blame | None = None,
        rule: str = "",
        **evidence: Any,
    ) -> Finding:
        """A finding of this check; action and blame are the check's own unless given."""
        return Finding(self.name, severity, entity, message, evidence, action or self.action, blame or self.blame, rule)

    def critical(self, entity: str, message: str, **more: Any) -> Finding:
        """A fault: with mode DRAIN it takes the node out of service."""
        return self.found(Severity.CRITICAL, entity, message, **more)

    def warning(self, entity: str, message: str, **more: Any) -> Finding:
        """Something to look at; it never drains."""
        return self.found(Severity.WARNING, entity, message, **more)

    def unknown(self, entity: str, message: str, **more: Any) -> Finding:
        """The check could not tell."""
        return self.found(Severity.UNKNOWN, entity, message, **{"action": Action.NONE, **more})

    def skipped(self, message: str) -> Finding:
        """The check does not apply here."""
        return self.found(Severity.SKIPPED, "node", message, action=Action.NONE)


def numbers(reading: Reading, name: str) -> Iterator[tuple[Gpu, float]]:
    """The GPUs that have this field, with its value."""
    for gpu in reading.gpus:
        value = gpu.number(name)
        if value is not None:
            yield gpu, value


def worst(findings: Iterable[Finding]) -> Severity:
    """The severity over all findings: CRITICAL beats UNKNOWN beats WARNING, as a known fault needs an action."""
    order = (Severity.OK, Severity.SKIPPED, Severity.WARNING, Severity.UNKNOWN, Severity.CRITICAL)
    found = max((finding.severity for finding in findings), key=order.index, default=Severity.OK)
    return Severity.OK if found is Severity.SKIPPED else found
