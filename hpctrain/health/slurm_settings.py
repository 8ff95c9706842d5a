"""What slurm.conf must say so that Slurm checks its nodes, and how to change its text (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ALLOC = {"alloc", "contain", "deferbatch", "nohold", "forcerequeueonfail", "runinjob", "x11"}
"""Flags of PrologFlags that run the prolog when a node is allocated; without one it runs at the first step."""
NO_HOLD = "nohold_on_prolog_fail"
PROGRAMS = {"Prolog": "prolog.sh", "Epilog": "epilog.sh", "HealthCheckProgram": "health_program.sh"}
BUDGET_S = 5
"""What a prolog takes at most."""
DEFAULT_WAIT_S = 10
DEFAULT_RESUME_S = 60
"""Slurm's default of MessageTimeout and BatchStartTimeout."""
INTERVAL_S, TIMEOUT_S = 300, 60
_LINE = re.compile(r"^(\s*)([A-Za-z]\w*)(\s*=\s*)([^#]*?)(\s*(?:#.*)?)$")
_MARK = "# Health checks, added by 'hpctrain health install'."


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs from what health checks need.

    Attributes:
        before: "" if slurm.conf does not have it.
        why: one sentence for a person.
    """

    name: str
    before: str
    after: str
    why: str


def parse_settings(text: str) -> dict[str, str]:
    """The settings of a slurm.conf by lower-case name; of a name that is there twice, the last."""
    matches = (_LINE.match(line) for line in text.splitlines())
    return {match[2].lower(): match[4].strip() for match in matches if match}


def find_changes(settings: Mapping[str, str], directory: str, *, replace: bool = False) -> tuple[list[Change], list[str]]:
    """What to change, and what a person has to decide or to look at.

    Args:
        directory: where our programs are.
        replace: also take the place of a prolog, epilog or health program that is not ours.
    """
    changes: list[Change] = []
    notes: list[str] = []
    for name, script in PROGRAMS.items():
        before, ours = settings.get(name.lower(), ""), f"{directory}/{script}"
        if before and before != ours and not replace:
            notes.append(f"{name} is {before} and stays: let it call {ours}, or use --replace")
        elif before != ours:
            changes.append(Change(name, before, ours, f"Slurm runs our checks as its {name}"))
    changes += [*_flags(settings), *_periods(settings)]
    for change in [one for one in changes if one.before.endswith("\\")]:
        # Only its first line was read, and a word put behind the backslash would end up inside the value.
        changes.remove(change)
        notes.append(f"{change.name} goes over several lines: change it by hand, {change.why}")
    return changes, notes + _waits(settings) + _mending(settings)


def _flags(settings: Mapping[str, str]) -> list[Change]:
    changes = []
    flags = settings.get("prologflags", "")
    if not ALLOC & set(_words(flags.lower())):
        why = "without it the prolog runs at a job's first step only"
        changes.append(Change("PrologFlags", flags, _joined(flags, "Alloc"), why))
    parameters = settings.get("schedulerparameters", "")
    if NO_HOLD not in _words(parameters.lower()):
        why = "without it a job whose prolog failed is held, instead of starting on another node"
        changes.append(Change("SchedulerParameters", parameters, _joined(parameters, NO_HOLD), why))
    return changes


def _periods(settings: Mapping[str, str]) -> list[Change]:
    changes = []
    interval = settings.get("healthcheckinterval", "")
    if not interval or interval == "0":
        changes.append(Change("HealthCheckInterval", interval, str(INTERVAL_S), "0, the default, is never"))
    if not settings.get("healthchecknodestate"):
        changes.append(Change("HealthCheckNodeState", "", "ANY,CYCLE", "CYCLE spreads the nodes over the interval"))
    if not {"prologepilogtimeout", "prologtimeout"} & settings.keys():
        why = "without it Slurm waits for ever for a program that hangs"
        changes.append(Change("PrologEpilogTimeout", "", str(TIMEOUT_S), why))
    return changes


def _waits(settings: Mapping[str, str]) -> list[str]:
    """Timeouts that are shorter than what they wait for; a person set them, so they are told and left alone."""
    notes = []
    for name in ("MessageTimeout", "BatchStartTimeout", "PrologEpilogTimeout", "PrologTimeout", "EpilogTimeout"):
        value = settings.get(name.lower(), str(DEFAULT_WAIT_S))
        if value.isdecimal() and int(value) <= BUDGET_S:
            notes.append(f"{name} is {value} s, but a prolog or epilog may take {BUDGET_S} s: make it longer")
    interval = settings.get("healthcheckinterval", "")
    if interval.isdecimal() and 0 < int(interval) < TIMEOUT_S:
        notes.append(f"HealthCheckInterval is {interval} s, but one run may take {TIMEOUT_S} s: make it longer")
    return notes


def _mending(settings: Mapping[str, str]) -> list[str]:
    """What keeps ``hpctrain nodes tend`` from rebooting nodes and checking them before they return."""
    notes = []
    states = _words(settings.get("healthchecknodestate", "ANY").upper())
    if "ANY" not in states:
        notes.append("HealthCheckNodeState lacks ANY: a node that is drained or DOWN is never checked, and so never returns")
    if not settings.get("rebootprogram"):
        return notes
    resume = settings.get("resumetimeout", str(DEFAULT_RESUME_S))
    if resume.isdecimal() and int(resume) <= DEFAULT_RESUME_S:
        notes.append(f"ResumeTimeout is {resume} s: a node that takes longer to boot is given up, so make it longer")
    if settings.get("returntoservice") == "2":
        notes.append("ReturnToService is 2: Slurm returns a rebooted node before its checks have seen it; use 1")
    return notes


def rewrite(text: str, changes: list[Change]) -> str:
    """The text with the changes made: a setting that is there in its own line, the others at the end."""
    wanted = {change.name.lower(): change for change in changes}
    lines = []
    for line in text.splitlines():
        match = _LINE.match(line)
        change = wanted.get(match[2].lower()) if match else None
        lines.append(f"{match[1]}{match[2]}{match[3]}{change.after}{match[5]}" if match and change else line)
    missing = [f"{change.name}={change.after}" for change in changes if change.name.lower() not in parse_settings(text)]
    if missing:
        lines += ([] if _MARK in lines else ["", _MARK]) + missing
    return "\n".join(lines) + "\n" if lines else ""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _joined(text: str, word: str) -> str:
    return ",".join([*_words(text), word])
