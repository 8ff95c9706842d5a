"""Incidents in words (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.jobs.incident import CANCELLED, OPEN, OVERTAKEN, RECOVERED, RUNGS, STOPPED, Incident, cause_words
from hpctrain.jobs.text import duration, plural

PHASE_WORDS = {
    "detect": "detect", "kill": "kill", "queue": "queue", "regroup": "regroup", "init": "init", "state": "state",
    "data": "data", "first_step": "first step",
}
_TIERS = {"ram": "the node's own memory", "peer": "another node's memory", "local": "the node's disk",
          "shared": "the shared file system", "object": "the object store"}


def seconds(value: float) -> str:
    """A short time with two significant digits below a second: ``0.05s``, ``1.2s``, ``34s``, ``3m 05s``."""
    if 0.0005 <= value < 0.995:
        return f"{value:.2g}s" if value >= 0.01 else f"{value:.3f}s"
    return duration(value)


def title(one: Incident) -> str:
    """What happened: the sentence that was recorded, else the cause, with the nodes where that does not name them."""
    text = one.reason or cause_words(one.cause)
    unnamed = [node for node in one.nodes if node not in text]
    return text + (f" (on {', '.join(unnamed)})" if unnamed else "")


def outcome(one: Incident) -> str:
    """How it ended, as a clause: ``recovered on R1 in 0.9s``."""
    rung = f" on {one.rung}" if one.rung else ""
    if one.outcome == RECOVERED and one.total_s is not None:
        return f"recovered{rung} in {seconds(one.total_s)}"
    words = {STOPPED: "the job was stopped", CANCELLED: "the job was cancelled", OPEN: f"being recovered{rung}",
             OVERTAKEN: f"the next failure came before {one.rung or 'a recovery'} was through",
             RECOVERED: f"recovered{rung}"}
    return words.get(one.outcome, one.outcome)


def phases(one: Incident) -> str:
    """``detect 0.05s, kill 0.1s, ...``; "" where none is known."""
    return ", ".join(f"{PHASE_WORDS[name]} {seconds(value)}" for name, value in one.phases.items())


def kept(one: Incident) -> str:
    """From where training went on: ``step 20 from the node's own memory, 1 step done again``."""
    source = _TIERS.get(one.tier, one.tier)
    said = [f"step {one.restored_step}" + (f" from {source}" if source else "")] if one.restored_step is not None else []
    if one.redone_steps is not None:
        said.append(f"{plural(one.redone_steps, 'step')} done again" if one.redone_steps else "no step done again")
    return ", ".join(said)


def lines(incidents: Sequence[Incident], costs: Sequence[float | None], unit: str) -> list[tuple[float, list[str]]]:
    """(fault time, lines) of each incident for a terminal."""
    found = []
    for one, cost in zip(incidents, costs, strict=True):
        rows = [f"{one.number}. {title(one)}: {outcome(one)}"]
        details = [text for text in (phases(one), kept(one)) if text]
        rows += details
        if cost:
            rows.append(f"cost {cost:.3g} {unit}")
        found.append((one.fault_time, rows))
    return found


def rung_words(rung: str) -> str:
    """What a rung does, as a clause; "" for none."""
    return RUNGS.get(rung, "")
