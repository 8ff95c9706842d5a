"""Say what an Xid, an SXid or a check means, as a colleague would (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.errors import NotFoundError
from hpctrain.health.finding import Action, Blame, Check
from hpctrain.health.kernel_log import Record, classify
from hpctrain.health.xid import REPEATED, decide
from hpctrain.health.xid_table import (
    NEVER_LINKED,
    NVLINK4_BITS,
    NVLINK5,
    NVLINK5_ASK_154,
    NVLINK5_FATAL,
    SXID_TITLES,
    UNLISTED,
    XIDS,
    Entry,
)

SOURCES = {
    "N": "NVIDIA Xid catalogue",
    "F": "NVIDIA fabric manager guide",
    "G": "gpud",
    "S": "NVSentinel",
    "D": "DCGM",
    "C": "GCM",
    "A": "AWS HyperPod",
    "Z": "Azure health checks",
}
_WE = {
    Action.NONE: "We record it and do nothing.",
    Action.APP: "We record it; the job restarts from its checkpoint, the node stays in service.",
    Action.CONFIGURE: "We warn; a person has to correct something.",
    Action.RESET: "We drain the node; the GPU is reset once its jobs have ended, and validated before it returns.",
    Action.REBOOT: "We drain the node; it is rebooted once its jobs have ended, and validated before it returns.",
    Action.INSPECT: "We report it to a person: no command mends it.",
    Action.REPLACE: "We drain the node, and it stays out until the part is replaced.",
    Action.CLEAN: "We end the leftovers.",
}
_BLAME = {
    Blame.USER: "Nearly always the program's own mistake, not the node's.",
    Blame.NODE: "The node's fault, not the program's.",
    Blame.UNCLEAR: "May be the program or the node.",
}


def explain_xid(number: int) -> str:
    """What is known of an Xid, and what hpctrain does about it."""
    entry = XIDS.get(number, UNLISTED)
    lines = [f"Xid {number}: {entry.title}."]
    if number == 154:
        lines.append(entry.note)
    elif number in NVLINK5:
        lines += _nvlink5()
    else:
        lines += [_BLAME[entry.blame], _WE[entry.action]]
        lines += [entry.note] if entry.note else []
    lines += _nvlink4() if number == 74 else ()
    if entry.action is Action.APP and entry.blame is Blame.USER:
        lines.append(f"From {REPEATED} different programs on one GPU, and on no other: we report the GPU to a person.")
    lines += _linked(entry)
    named = [SOURCES[letter] for letter in entry.sources if letter in SOURCES]
    return "\n".join([*lines, f"Sources: {', '.join(named)}." if named else "Sources: none."])


def _linked(entry: Entry) -> Iterator[str]:
    if entry.number == 154 or entry.action not in (Action.RESET, Action.REBOOT):
        return
    if entry.linked < NEVER_LINKED:
        yield (
            f"With a driver of R{entry.linked} or later its own recovery action (NVML field 230) has the last word, "
            "also if it asks for nothing."
        )
    else:
        yield (
            "The driver's recovery action does not take this number into account unless it asks for something, "
            "so the table decides."
        )


def _nvlink5() -> Iterator[str]:
    yield "The line names unit, severity, link and a status word. Fatal: the GPU is reset. Not fatal: it is recorded only."
    fatal = ", ".join(f"{unit} {bits:#x}" for unit, bits in NVLINK5_FATAL.items())
    yield f"Status bits that are fatal also without the word: {fatal}."
    ask = ", ".join(f"{unit} {bits:#x}" for unit, bits in NVLINK5_ASK_154.items())
    yield f"Status bits for which the Xid 154 that follows decides: {ask}."


def _nvlink4() -> Iterator[str]:
    yield "Bits of the first register on Hopper:"
    for bit, (action, words) in sorted(NVLINK4_BITS.items()):
        yield f"  bit {bit:>2}: {words} -> {action.value}"


def explain_sxid(number: int) -> str:
    """What is known of an SXid."""
    title = SXID_TITLES.get(number, "a fault of an NVSwitch that this version has no words for")
    return "\n".join(
        [
            f"SXid {number}: {title}.",
            "An NVSwitch reports it; the word Fatal or Non-fatal in the line decides, not the number.",
            "Fatal: we drain the node, which is rebooted and validated; the GPUs' Xid 74 of that moment are its victims.",
            "Non-fatal: we record it, and warn when there are many.",
            "Sources: NVIDIA fabric manager guide, gpud, NVSentinel.",
        ]
    )


def explain_line(line: str) -> str:
    """What a line of the kernel log means, with its sub-codes."""
    event = classify(
        Record(0, 0.0, line[line.find("NVRM:") :] if "NVRM:" in line else line[max(0, line.find("nvidia-nvswitch")) :]), 0.0
    )
    if event is None:
        return "hpctrain reads nothing from this line."
    if event.kind == "sxid":
        return explain_sxid(event.number)
    if event.kind != "xid":
        return f"An event of kind {event.kind}" + (f" about {event.entity}." if event.entity else ".")
    decision = decide([event])[0]
    ours = f"{decision.reason}.\n{_WE[decision.action]}\nRule: {decision.rule}. GPU: {event.entity}."
    return f"{ours}\n\n{explain_xid(event.number)}"


def explain_check(check: Check) -> str:
    """A check's own documentation."""
    limits = ", ".join(f"{name} = {value:g}" for name, value in check.limits.items()) or "none"
    return "\n".join(
        [
            f"{check.name}: {check.what}",
            f"Why it hurts training: {check.why}",
            f"Remedy: {check.remedy}",
            f"Known false alarms: {check.false_alarms}",
            f"Defaults: mode {check.mode.name.lower()}; limits: {limits}; contexts: {', '.join(check.contexts)}.",
        ]
    )


def explain(words: tuple[str, ...], checks: tuple[Check, ...]) -> str:
    """What ``hpctrain health explain`` prints: ``xid 79``, ``sxid 20034``, the name of a check, or a line of the log.

    Raises:
        NotFoundError: it is none of these.
    """
    kind, rest = words[0].lower(), words[1:]
    if kind in ("xid", "sxid") and len(rest) == 1 and rest[0].isdecimal() and len(rest[0]) < 7:
        return explain_xid(int(rest[0])) if kind == "xid" else explain_sxid(int(rest[0]))
    known = {check.name: check for check in checks}
    if len(words) == 1 and words[0] in known:
        return explain_check(known[words[0]])
    line = " ".join(words)
    if "Xid" in line:
        return explain_line(line)
    hint = (
        "say 'xid NUMBER', 'sxid NUMBER', the name of a check ('hpctrain health list'), or a quoted line of the kernel log"
    )
    raise NotFoundError(f"cannot explain '{line}'", hint=hint)
