"""Lines of the kernel log as events, and what is remembered of them between runs (pure).

Only records of the kernel itself count (facility 0): what programs write into the log proves nothing. Events are folded
with their repeats, forgotten when they are old, when the node has booted since, or when a reset has settled them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hpctrain.health.reading import KernelEvent

MOST_EVENTS = 512
TEXT_LENGTH = 240
_RECORD = re.compile(r"(\d{1,5}),(\d{1,19}),(\d{1,19}),[^;]{0,80};(.*)")
_PCI = r"(?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-7])?"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of /dev/kmsg.

    Attributes:
        sequence: grows by one with each record of a boot.
        since_boot_s: when it was written.
    """

    sequence: int
    since_boot_s: float
    text: str


def parse_record(line: str) -> Record | None:
    """A record of the kernel; None for continuation lines, for what programs wrote, and for anything else."""
    match = _RECORD.fullmatch(line.rstrip("\n"))
    if not match or int(match[1]) >= 8:  # priority = facility * 8 + level
        return None
    return Record(int(match[2]), int(match[3]) / 1e6, match[4])


def classify(record: Record, booted_at: float) -> KernelEvent | None:
    """The event that a record tells of; None for the great majority.

    Args:
        booted_at: seconds since the epoch at which the clock of the records began.
    """
    for word, pattern, make in _PATTERNS:
        if word in record.text:
            match = pattern.search(record.text)
            event = make(match) if match else None
            if event:
                time = booted_at + record.since_boot_s
                return replace(event, time=time, first=time, text=_printable(record.text))
    return None


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:TEXT_LENGTH])


def _event(kind: str, entity: str = "", number: int = 0, **detail: str) -> KernelEvent:
    return KernelEvent(kind, 0.0, entity, number, detail=detail)


def pci_entity(address: str) -> str:
    """``00000000:3B:00`` and ``0000:3b:00.0`` are the same device: ``0000:3b:00``."""
    domain, bus, slot = address.lower().split(":")
    return f"{domain[-4:].zfill(4)}:{bus}:{slot.split('.')[0]}"


_PID = re.compile(r"pid='?(\d+|<unknown>)'?")
_NAME = re.compile(r"name=([^,\s]+)")
_RECOVERY = re.compile(r"recovery action changed from \S+ \([^)]*\) to (0x[0-9a-fA-F]{1,8}) \(([^)]*)\)")
_NVLINK5 = re.compile(
    r"\b([A-Z][A-Z0-9_]+)\s+(Fatal|Nonfatal|Non-fatal)\b.*?Link\s+(-?\d{1,4})(?:\s+[(\[]((?:0x[0-9a-fA-F]{1,8}(?:\s+|\b)){1,8})[)\]])?"
)
_NVLINK4 = re.compile(r"link\s+(\d{1,4})\s*\(((?:0x[0-9a-fA-F]{1,8}(?:[\s,]+|\b)){1,8})\)", re.IGNORECASE)


def _xid(match: re.Match[str]) -> KernelEvent | None:
    number, rest = int(match[2]), match[3]
    if not 1 <= number <= 1000:
        return None
    detail: dict[str, str] = {}
    for name, pattern in (("pid", _PID), ("name", _NAME)):
        found = pattern.search(rest)
        if found and found[1] != "<unknown>":
            detail[name] = found[1][:32]
    recovery = _RECOVERY.search(rest)
    if recovery:
        detail["recovery"], detail["recovery_text"] = str(int(recovery[1], 16)), recovery[2][:40]
    nvlink5 = _NVLINK5.search(rest)
    if nvlink5:
        words = (nvlink5[4] or "").split()
        detail |= {"unit": nvlink5[1][:32], "fatal": str(int(nvlink5[2] == "Fatal")), "link": nvlink5[3]}
        if words:
            detail["subcode"] = str(int(words[0], 16) >> 20 & 0x3F)
        if len(words) > 1:
            detail["status"] = words[1].lower()
    nvlink4 = _NVLINK4.search(rest) if number == 74 else None
    if nvlink4:
        detail |= {"link": nvlink4[1], "registers": " ".join(nvlink4[2].replace(",", " ").split())}
    return _event("xid", pci_entity(match[1]), number, **detail)


def _sxid(match: re.Match[str]) -> KernelEvent | None:
    number = int(match[2])
    word = match[3].strip().split(",")[0].strip().lower()
    if word not in ("fatal", "non-fatal", "nonfatal") or not 1 <= number <= 99_999:
        return None  # the lines after it repeat the number with its registers
    link = re.search(r"Link (\d+)", match[3])
    return _event(
        "sxid", pci_entity(match[1]), number, fatal=str(int(word == "fatal")), **({"link": link[1]} if link else {})
    )


def _plain(kind: str, group: int = 1) -> Callable[[re.Match[str]], KernelEvent]:
    def make(match: re.Match[str]) -> KernelEvent:
        entity = match[group] if match.re.groups >= group and match[group] else ""
        return _event(kind, entity[:64])

    return make


def _mce(match: re.Match[str]) -> KernelEvent:
    corrected = "[Hardware Error]" in match.string and ("Corrected" in match.string or "corrected" in match.string)
    return _event("mce", match[1] or "", corrected=str(int(corrected)))


_PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], KernelEvent | None]], ...] = (
    ("NVRM: Xid", re.compile(rf"^NVRM: Xid \({_PCI}\): (\d{{1,4}}),?(.*)"), _xid),
    ("SXid", re.compile(rf"^nvidia-nvswitch\d+: SXid \({_PCI}\): (\d{{1,5}}),(.*)"), _sxid),
    (
        "fallen off the bus",
        re.compile(rf"^NVRM: GPU(?: at)? {_PCI}: GPU has fallen off the bus"),
        lambda match: _event("xid", pci_entity(match[1]), 79),
    ),
    ("Machine Check", re.compile(r"^mce: \[Hardware Error\]: CPU (\d+): Machine Check"), _mce),
    ("Hardware Error", re.compile(r"^mce: \[Hardware Error\]:.*?(?:CPU (\d+))?.*[Cc]orrected error"), _mce),
    ("EDAC", re.compile(r"^EDAC (\w+): \d+ [CU]E "), _plain("edac")),
    ("Out of memory", re.compile(r"Out of memory: Killed process (\d+)"), _plain("oom")),
    ("emory cgroup out of memory", re.compile(r"emory cgroup out of memory: Killed process (\d+)"), _plain("cgroup_oom")),
    ("soft lockup", re.compile(r"watchdog: BUG: soft lockup - CPU#(\d+)"), _plain("lockup")),
    ("hard LOCKUP", re.compile(r"hard LOCKUP on cpu (\d+)"), _plain("lockup")),
    ("blocked for more than", re.compile(r"^INFO: task (\S+?):\d+ blocked for more than \d+ seconds"), _plain("hung_task")),
    ("rcu", re.compile(r"^rcu: INFO: \S+ (?:self-)?detected (?:expedited )?stalls?"), _plain("lockup")),
    (
        "I/O error",
        re.compile(r"^(?:blk_update_request: )?(?:critical medium |critical target )?I/O error, dev (\w+),"),
        _plain("io_error"),
    ),
    (
        "emounting filesystem read-only",
        re.compile(r"^\S+ \(?(?:device )?([\w.-]+)\)?:.*[Rr]emounting filesystem read-only"),
        _plain("read_only"),
    ),
    ("Shutting down filesystem", re.compile(r"^XFS \(([\w.-]+)\):.*Shutting down filesystem"), _plain("read_only")),
    ("timeout, ", re.compile(r"^nvme (nvme\d+): I/O .*timeout, "), _plain("nvme")),
    ("controller is down", re.compile(r"^nvme (nvme\d+): controller is down"), _plain("nvme")),
    (
        "AER:",
        re.compile(
            r"AER: (?:Multiple )?Uncorrect\w+ (?:\((?:Non-)?Fatal\) )?error (?:message )?received:? (?:from )?([0-9a-f:.]+)"
        ),
        _plain("pcie"),
    ),
    ("Insufficient power", re.compile(r"^mlx5_core (\S+?):? .*Detected insufficient power"), _plain("network")),
    ("insufficient power", re.compile(r"^mlx5_core (\S+?):? .*Detected insufficient power"), _plain("network")),
    ("igh Temperature", re.compile(r"^mlx5_core (\S+?):? .*[Hh]igh [Tt]emperature"), _plain("network")),
    ("synd 0x", re.compile(r"^mlx5_core (\S+?):? .*(?:health compromised|synd 0x[1-9a-f])"), _plain("network")),
    ("not responding, still trying", re.compile(r"^nfs: server (\S+) not responding"), _plain("nfs")),
    ("Oops", re.compile(r"^(?:Oops|BUG: unable to handle)"), _plain("panic")),
    ("BUG:", re.compile(r"^(?:BUG: unable to handle|BUG: kernel NULL pointer)"), _plain("panic")),
)
"""(a word that is cheap to look for, the line's form, the event)."""


@dataclass(frozen=True, slots=True)
class LogMemory:
    """What is kept of the kernel log between runs.

    Attributes:
        boot_id: the boot that everything here belongs to.
        cursor: sequence number of the newest record that was read; -1 for none.
        events: folded, oldest first.
        cleared: entity -> seconds since the epoch; what is older about that entity is settled.
        source: the log that the cursor belongs to, ``kmsg`` or ``journal``; "" if none was read.
    """

    boot_id: str = ""
    cursor: int = -1
    events: tuple[KernelEvent, ...] = ()
    cleared: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


_SAME_S = 1.0
"""Two logs give the same line nearly the same time."""


def remember(
    memory: LogMemory,
    boot_id: str,
    cursor: int,
    new: Iterable[KernelEvent],
    *,
    now: float,
    age_s: float,
    source: str = "",
) -> LogMemory:
    """Add events to what is known, and drop what no longer counts.

    Args:
        cursor: newest record read now; -1 if none was.
        age_s: events whose newest repeat is older are forgotten.
        source: the log that was read now; "" if none could be. Where it is not the one read before, it tells again what is
            known already, which is then not counted twice.
    """
    if memory.boot_id != boot_id:
        memory = LogMemory(boot_id)
    again = bool(source and memory.source and source != memory.source)
    folded: dict[tuple[object, ...], KernelEvent] = {_key(event): event for event in memory.events}
    for event in new:
        old = folded.get(_key(event))
        if old and again and event.time <= old.time + _SAME_S:
            continue
        if old:
            times = (min(old.first, event.first), max(old.time, event.time))
            event = replace(event, first=times[0], time=times[1], count=old.count + event.count)  # noqa: PLW2901 - itself
        folded[_key(event)] = event
    kept = sorted(
        (event for event in folded.values() if _counts(event, memory.cleared, now, age_s)), key=lambda event: event.time
    )
    cleared = {entity: when for entity, when in memory.cleared.items() if now - when < age_s}
    newest = cursor if again else max(cursor, memory.cursor)
    return LogMemory(boot_id, newest, tuple(kept[-MOST_EVENTS:]), cleared, source or memory.source)


def clear(memory: LogMemory, entity: str, when: float) -> LogMemory:
    """Settle what the log says about an entity up to now: a reset, or a person, has dealt with it. "" settles all."""
    cleared = {**memory.cleared, entity: when}
    kept = tuple(event for event in memory.events if _counts(event, cleared, when, float("inf")))
    return replace(memory, events=kept, cleared=cleared)


def _counts(event: KernelEvent, cleared: Mapping[str, float], now: float, age_s: float) -> bool:
    settled = max(cleared.get(event.entity, 0.0), cleared.get("", 0.0))
    # A record from the future is one of a clock that was set back since: its age is not known, so it counts as new.
    return event.time > settled and now - event.time <= age_s


def _key(event: KernelEvent) -> tuple[object, ...]:
    same = tuple(event.detail.get(name, "") for name in ("unit", "link", "fatal", "recovery", "pid"))
    return (event.kind, event.entity, event.number, *same)
