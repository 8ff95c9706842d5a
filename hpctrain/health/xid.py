"""From the Xids and SXids of a node to what should be done about each GPU (pure).

In this order of trust: the driver's recovery action, an Xid 154 in the log, hard flags of the GPU (a failed remapping, SRAM
errors over the threshold), the table. Every decision names the rule that fired, and one GPU gets one decision: the root, not
its consequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpctrain.health.finding import Action, Blame
from hpctrain.health.gpu import Gpu
from hpctrain.health.reading import KernelEvent
from hpctrain.health.xid_table import NEVER_LINKED, NVLINK4_BITS, NVLINK5, NVLINK5_ASK_154, NVLINK5_FATAL, UNLISTED, XIDS

TOGETHER_S = 60.0
"""Events of one fault lie within so many seconds."""
SWITCH_AND_LINK_S = 30.0
REPEATED = 3
"""So many different processes with a program's error on one GPU, and no other GPU with it: then it is the GPU."""
RECOVERY: Mapping[int, tuple[Action, str]] = {
    0: (Action.NONE, "nothing"),
    1: (Action.RESET, "a reset of the GPU"),
    2: (Action.REBOOT, "a reboot of the node"),
    3: (Action.RESET, "the end of peer-to-peer traffic"),
    4: (Action.RESET, "the end of all traffic, then a reset"),
    5: (Action.REBOOT, "a recovery of the IMEX domain"),
    6: (Action.RESET, "a reset of the bus"),
    7: (Action.REBOOT, "a reboot of the system"),
}
_ORDER = list(Action)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one GPU.

    Attributes:
        entity: PCI address as in the events.
        numbers: every Xid of that GPU, the root first.
        rule: ``recovery_action``, ``xid_154``, ``sram_threshold``, ``remap_failed``, ``nvlink5``, ``nvlink4``, ``switch``,
            ``repeated``, ``table`` or ``unlisted``.
    """

    entity: str
    numbers: tuple[int, ...]
    action: Action
    blame: Blame
    rule: str
    reason: str
    newest: float


def decide(events: Sequence[KernelEvent], gpus: Iterable[Gpu] = (), driver: str = "") -> list[Decision]:
    """One decision for each GPU of which the kernel log tells.

    Args:
        events: those of kind ``xid`` and ``sxid``.
        gpus: what NVML says now; without it the log alone decides.
        driver: the driver's version, such as ``580.65.06``.
    """
    by_bus = {gpu.pci_bus.rpartition(".")[0]: gpu for gpu in gpus if gpu.pci_bus}
    switch = [event.time for event in events if event.kind == "sxid" and event.detail.get("fatal") == "1"]
    xids = [event for event in events if event.kind == "xid"]
    entities = dict.fromkeys(event.entity for event in xids)
    return [
        _one([event for event in xids if event.entity == entity], xids, switch, by_bus.get(entity), _major(driver))
        for entity in entities
    ]


def _major(driver: str) -> int:
    first = driver.partition(".")[0]
    return int(first) if first.isdigit() and len(first) < 6 else 0


@dataclass(frozen=True, slots=True)
class _Opinion:
    event: KernelEvent
    action: Action
    blame: Blame
    rule: str
    reason: str
    linked: int


def _one(
    events: list[KernelEvent], everywhere: list[KernelEvent], switch: list[float], gpu: Gpu | None, driver: int
) -> Decision:
    opinions = [_opinion(event, events, everywhere, switch) for event in events if event.number != 154]
    opinions = [opinion for opinion in opinions if not _is_victim(opinion.event, events)] or opinions
    root = max(opinions, key=lambda opinion: (_ORDER.index(opinion.action), -opinion.event.first), default=None)
    if root is None:  # nothing but a 154: it speaks for itself
        root = _Opinion(events[-1], Action.NONE, Blame.NODE, "xid_154", "the recovery action changed", 0)
    final = _trusted(root, events, gpu, driver)
    order = sorted({event.number for event in events}, key=lambda number: (number != root.event.number, number))
    newest = max(event.time for event in events)
    return Decision(events[0].entity, tuple(order), final.action, final.blame, final.rule, final.reason, newest)


def _trusted(root: _Opinion, events: list[KernelEvent], gpu: Gpu | None, driver: int) -> _Opinion:
    """Let those who know better than the table speak."""
    said = gpu.number("recovery_action") if gpu else None
    if said in RECOVERY:
        wanted, words = RECOVERY[int(said or 0)]
        if wanted is not Action.NONE:
            return _overruled(root, wanted, "recovery_action", f"the driver asks for {words}")
        if driver >= root.linked and _ORDER.index(root.action) >= _ORDER.index(Action.RESET):
            return replace(root, action=wanted, rule="recovery_action", reason=f"{root.reason}; the driver asks for {words}")
    told = max((one for one in events if "recovery" in one.detail), key=lambda one: one.time, default=None)
    if told is not None and told.time >= root.event.time - TOGETHER_S:
        fallback = (Action.INSPECT, told.detail.get("recovery_text", "something unknown"))
        wanted, words = RECOVERY.get(_decimal(told.detail["recovery"]), fallback)
        if wanted is not Action.NONE:
            return _overruled(root, wanted, "xid_154", f"Xid 154 asks for {words}")
        if root.linked < NEVER_LINKED:
            return replace(root, action=wanted, rule="xid_154", reason=f"{root.reason}; Xid 154 asks for {words}")
    if gpu and root.action is not Action.NONE and root.blame is not Blame.USER:
        if gpu.number("remap_failed"):
            return _overruled(root, Action.REPLACE, "remap_failed", "a memory row could not be remapped")
        if gpu.number("sram_threshold_exceeded"):
            return _overruled(root, Action.REPLACE, "sram_threshold", "too many SRAM errors")
    return root


def _overruled(root: _Opinion, action: Action, rule: str, because: str) -> _Opinion:
    return replace(root, action=action, blame=Blame.NODE, rule=rule, reason=f"{root.reason}; {because}")


def _opinion(event: KernelEvent, here: list[KernelEvent], everywhere: list[KernelEvent], switch: list[float]) -> _Opinion:
    entry = XIDS.get(event.number, UNLISTED)
    reason = f"Xid {event.number}: {entry.title}"
    action, blame, rule = entry.action, entry.blame, "table" if entry is not UNLISTED else "unlisted"
    if event.number in NVLINK5:
        action, reason, rule = *_nvlink5(event, reason), "nvlink5"
    elif event.number == 74:
        action, reason, rule = _nvlink4(event, here, switch, reason)
    elif blame is Blame.USER and action is Action.APP and _is_the_gpu(event, here, everywhere):
        action, blame, rule = Action.INSPECT, Blame.UNCLEAR, "repeated"
        reason = f"{reason}; from {REPEATED} or more different programs, on this GPU only"
    return _Opinion(event, action, blame, rule, reason, entry.linked)


def _nvlink5(event: KernelEvent, reason: str) -> tuple[Action, str]:
    unit, status = event.detail.get("unit", ""), _hex(event.detail.get("status", ""))
    link = f" on link {event.detail['link']}" if "link" in event.detail else ""
    if event.detail.get("fatal") == "1" or status & NVLINK5_FATAL.get(unit, 0):
        return Action.RESET, f"{reason}: {unit} fatal{link}"
    if status & NVLINK5_ASK_154.get(unit, 0):
        return Action.APP, f"{reason}: {unit}{link}, the program was ended"
    return Action.NONE, f"{reason}: {unit or 'unit unknown'} not fatal{link}"


def _nvlink4(event: KernelEvent, here: list[KernelEvent], switch: list[float], reason: str) -> tuple[Action, str, str]:
    if any(abs(event.time - time) <= SWITCH_AND_LINK_S for time in switch):
        return Action.NONE, f"{reason}; an NVSwitch reported a fatal error at that time and is the cause", "switch"
    registers = event.detail.get("registers", "").split()
    if not registers:
        return Action.RESET, reason, "table"
    bits = [bit for bit in range(32) if _hex(registers[0]) >> bit & 1]
    known = [NVLINK4_BITS[bit] for bit in bits if bit in NVLINK4_BITS]
    if not known:
        return Action.RESET, f"{reason} (registers {' '.join(registers[:2])})", "table"
    action, words = max(known, key=lambda pair: _ORDER.index(pair[0]))
    same = sum(other.count for other in here if other.number == 74 and other.detail.get("link") == event.detail.get("link"))
    if {4, 5} & set(bits) and same > 2:
        action, words = Action.INSPECT, f"{words}; {same} times on this link"
    return action, f"{reason} on link {event.detail.get('link', '?')}: {words}", "nvlink4"


def _is_victim(event: KernelEvent, here: list[KernelEvent]) -> bool:
    """A clean-up (45) or channel reset (43) beside another error of the same GPU at the same time."""
    if event.number not in (43, 45):
        return False
    return any(other.number not in (43, 45, 154) and abs(other.time - event.time) <= TOGETHER_S for other in here)


def _is_the_gpu(event: KernelEvent, here: list[KernelEvent], everywhere: list[KernelEvent]) -> bool:
    if any(other.number == event.number and other.entity != event.entity for other in everywhere):
        return False
    return len({other.detail.get("pid", "") for other in here if other.number == event.number} - {""}) >= REPEATED


def _decimal(word: str) -> int:
    return int(word) if word.isdecimal() and len(word) < 12 else -1


def _hex(word: str) -> int:
    try:
        return int(word, 16)
    except ValueError:
        return 0
