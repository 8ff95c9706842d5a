"""What was done about nodes, as records, and what follows from them (pure).

Each act has two records: an ``intent`` before it and a ``done``, ``failed`` or ``dropped`` after it, with the same id. An
intent without its end is an act that was interrupted: whoever comes next looks whether it happened, and finishes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hpctrain.health.policy import Deed, Step

INTENT, DONE, FAILED, DROPPED = "intent", "done", "failed", "dropped"
SEEN, NEXT = "seen", "next"
SPARE = "spare"
"""The act that has no step of the policy: a hot spare is given to the partition."""
_ENDS = (DONE, FAILED, DROPPED)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record.

    Attributes:
        time: in seconds since the epoch.
        kind: ``intent``, ``done``, ``failed``, ``dropped`` (somebody else took over before it was done), ``seen``
            (somebody else did it), ``next`` (what the policy will do).
        step: value of :class:`hpctrain.health.policy.Step`, or ``spare``.
        id: of the act; "" for what is no act of ours.
        by: who; a person for what was asked for by command.
        due: when the next step may come, in seconds since the epoch.
        evidence: findings as the node's checks recorded them.
        detail: what finishing the act needs: a GPU, a spare, the node's state.
    """

    time: float
    node: str
    kind: str
    step: str
    id: str = ""
    reason: str = ""
    rule: str = ""
    fault: str = ""
    by: str = ""
    due: float | None = None
    evidence: tuple[Mapping[str, Any], ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


_NAMES = {item.name for item in fields(Entry)}


def to_json(entry: Entry) -> dict[str, Any]:
    """The record without what is empty."""
    return {key: value for key, value in asdict(entry).items() if value not in ("", None, (), {}, [])}


def from_json(record: Mapping[str, Any]) -> Entry | None:
    """The entry; None for a record that is no entry."""
    try:
        values = {key: value for key, value in record.items() if key in _NAMES}
        values["evidence"] = tuple(values.get("evidence", ()))
        entry = Entry(**values)
    except TypeError:
        return None
    return entry if isinstance(entry.time, int | float) and isinstance(entry.node, str) else None


def next_id(entries: Iterable[Entry], node: str, now: float) -> str:
    """The id of the node's next act: its name and the second, or the next one that is free."""
    used, second = {entry.id for entry in entries if entry.node == node}, int(now)
    while f"{node}-{second}" in used:
        second += 1
    return f"{node}-{second}"


def interrupted(entries: Sequence[Entry]) -> list[Entry]:
    """Intents without an end, oldest first."""
    ended = {entry.id for entry in entries if entry.kind in _ENDS}
    return [entry for entry in entries if entry.kind == INTENT and entry.id not in ended]


def deeds(entries: Iterable[Entry]) -> list[Deed]:
    """What the policy counts: acts that were done or are being done, at the time when they were done (or begun, in vain).

    A command whose end is unknown counts: it may have worked. So does a reset that failed: the ladder goes on.
    """
    steps = {step.value: step for step in (Step.DRAIN, Step.RESET, Step.REBOOT, Step.REPLACE)}
    found: dict[str, Deed] = {}
    for number, entry in enumerate(entries):
        step = steps.get(entry.step)
        if step is None or entry.kind == NEXT:
            continue
        key = entry.id or str(number)
        counts = entry.kind in (INTENT, DONE, SEEN) or (entry.kind == FAILED and bool(entry.detail.get("counts")))
        if not counts:
            found.pop(key, None)
        elif key in found and entry.kind == DONE and step is not Step.REPLACE:
            found[key] = Deed(entry.time, entry.node, step, found[key].fault)
        else:
            found.setdefault(key, Deed(entry.time, entry.node, step, entry.fault))
    return list(found.values())


def is_open_drain(entries: Iterable[Entry]) -> bool:
    """By what is on record, the node is drained by us."""
    out = False
    for entry in entries:
        if entry.kind in (DONE, SEEN):
            out = entry.step != Step.RETURN.value if entry.step in _MOVES else out
    return out


_MOVES = {Step.DRAIN.value, Step.RETURN.value, Step.REBOOT.value, Step.RESET.value, Step.REPLACE.value}


def verdict_used(entries: Iterable[Entry]) -> float:
    """Time of the newest verdict that has already drained the node, and of its newest return: older verdicts are spent."""
    used = [float(entry.detail.get("verdict_time") or 0.0) for entry in entries if entry.step == Step.DRAIN.value]
    back = [entry.time for entry in entries if entry.step == Step.RETURN.value and entry.kind in (DONE, SEEN)]
    return max([0.0, *used, *back])


def failed_lately(entries: Iterable[Entry], step: str, now: float, within_s: float) -> bool:
    """The same act was refused a short time ago: trying it again at once would only fill the log."""
    return any(entry.kind == FAILED and entry.step == step and now - entry.time < within_s for entry in entries)


class Book:
    """The journal's records, found by node without reading all of them for each."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = []
        self._by_node: dict[str, list[Entry]] = {}
        self._deeds: list[Deed] | None = None
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take a record in."""
        self.entries.append(entry)
        self._by_node.setdefault(entry.node, []).append(entry)
        if entry.kind != NEXT:
            self._deeds = None

    def of(self, node: str) -> Sequence[Entry]:
        """A node's records, in their order."""
        return self._by_node.get(node, ())

    @property
    def deeds(self) -> Sequence[Deed]:
        """What was done about all nodes, see :func:`deeds`."""
        if self._deeds is None:
            self._deeds = deeds(self.entries)
        return self._deeds

    def history(self, node: str, since: float) -> list[Deed]:
        """What the policy needs to decide about a node: all deeds about it, and the drains of others since a moment."""
        others = [deed for deed in self.deeds if deed.time >= since and deed.step is Step.DRAIN and deed.node != node]
        return [*deeds(self.of(node)), *others]
