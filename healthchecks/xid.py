"""Faults that the NVIDIA driver writes into the kernel log (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, Severity
from hpctrain.health.reading import Reading
from hpctrain.health.xid import decide

_SEVERITY = {
    Action.RESET: Severity.CRITICAL,
    Action.REBOOT: Severity.CRITICAL,
    Action.REPLACE: Severity.CRITICAL,
    Action.INSPECT: Severity.CRITICAL,
    Action.CONFIGURE: Severity.WARNING,
}
"""A program's mistake, or a number to be ignored, is worth no more than a record."""


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """One finding for each GPU: what its Xids, taken together, ask for."""
    events = reading.events("xid", "sxid")
    mine = {gpu.pci_bus.rpartition(".")[0] for gpu in reading.gpus}
    index = {gpu.pci_bus.rpartition(".")[0]: gpu for gpu in reading.gpus}
    for decision in decide(events, reading.gpus, reading.versions.get("driver", "")):
        if reading.job and reading.job.gpus is not None and mine and decision.entity not in mine:
            continue  # another job's GPU
        gpu = index.get(decision.entity)
        where = f"GPU {gpu.index}" if gpu else f"GPU at {decision.entity}"
        severity = _SEVERITY.get(decision.action, Severity.OK)
        if decision.rule == "unlisted":
            severity = Severity.WARNING
        yield CHECK.found(
            severity,
            gpu.entity if gpu else decision.entity,
            f"{where}: {decision.reason}",
            action=decision.action,
            blame=decision.blame,
            rule=decision.rule,
            xids=list(decision.numbers),
            newest=decision.newest,
            pci=decision.entity,
        )


CHECK = Check(
    name="xid",
    what="Xid lines of the kernel log since the last boot or reset, together with the driver's recovery action.",
    why=(
        "They are how the driver says that a GPU, its memory or a link failed, and often come minutes before jobs die of it."
    ),
    remedy="What the finding names; 'hpctrain health explain xid NUMBER' tells more.",
    false_alarms=(
        "Most numbers are a program's own mistake: those are recorded and never drain. Events older than a day, or "
        "from before a reset that hpctrain made, do not count."
    ),
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("kernel_log", "nvml"),
)
