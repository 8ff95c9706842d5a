"""What a site sets about mending nodes: the ``remedies`` section of the health configuration (pure).

The node itself needs of it how a GPU is reset, the machine that runs ``hpctrain nodes tend`` the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hpctrain.health.policy import Limits

DEFAULT_JOURNAL = "/var/lib/hpctrain/nodes"


@dataclass(frozen=True, slots=True)
class RemedySettings:
    """All of it. A command is a list of arguments, in which ``{node}`` and the like are replaced; no shell sees it.

    Attributes:
        journal: directory of what was done about nodes, and of the hooks' receipts.
        reset: resets a GPU; run on the node by its own health program. ``{node}``, ``{gpu}`` (its index). Empty: reboot.
        replace: asks whoever can for another node. ``{node}``, ``{reason}``, ``{fault}``, ``{id}``. Empty: only the spare.
        spares: name of the reservation that keeps hot spares.
        spare_users: who may use the spares meanwhile.
        reset_timeout_s, replace_timeout_s: how long each command may take.
        limits: the numbers of the policy.
    """

    journal: str = DEFAULT_JOURNAL
    reset: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    spares: str = "hpctrain-spares"
    spare_users: tuple[str, ...] = ("root",)
    reset_timeout_s: float = 25.0
    replace_timeout_s: float = 600.0
    limits: Limits = field(default_factory=Limits)


def parse_remedies(document: Mapping[str, Any], *, settle_s: float) -> tuple[RemedySettings, list[str]]:
    """The settings, and what is wrong with them, one sentence per mistake; what cannot be understood keeps its default.

    Args:
        document: the section.
        settle_s: of the health configuration; the section's own ``limits.settle_s`` comes first.
    """
    problems: list[str] = []
    default = RemedySettings()
    values: dict[str, Any] = {}
    known = {item.name for item in fields(RemedySettings)}
    for key, value in document.items():
        if key == "limits":
            continue
        old = getattr(default, key) if key in known else None
        if old is None:
            problems.append(f"unknown key 'remedies.{key}'")
        elif isinstance(old, tuple) and isinstance(value, list) and all(isinstance(one, str) and one for one in value):
            values[key] = tuple(value)
        elif isinstance(old, str) and isinstance(value, str) and value:
            values[key] = value
        elif isinstance(old, float) and _is_number(value):
            values[key] = float(value)
        else:
            problems.append(f"'remedies.{key}' cannot be {value!r}")
    limits = _limits(document.get("limits", {}), settle_s, problems)
    return RemedySettings(**values, limits=limits), problems


def filled(command: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    """The arguments with ``{name}`` replaced; other braces stay."""
    found = []
    for argument in command:
        for name, value in values.items():
            argument = argument.replace(f"{{{name}}}", value)  # noqa: PLW2901 - step by step
        found.append(argument)
    return found


def _limits(section: Any, settle_s: float, problems: list[str]) -> Limits:
    values: dict[str, Any] = {"settle_s": settle_s}
    names = {item.name for item in fields(Limits)}
    if not isinstance(section, dict):
        problems.append("'remedies.limits' is not an object of numbers")
        return Limits(**values)
    for key, value in section.items():
        if key not in names or not _is_number(value):
            problems.append(f"'remedies.limits.{key}' cannot be {value!r}" if key in names else f"unknown limit '{key}'")
        else:
            values[key] = type(getattr(Limits(), key))(value)
    return Limits(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
