"""CPUs that save power (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report a governor that lets clocks drop."""
    slow = sorted(set(reading.governors) & {"powersave", "conservative", "ondemand"})
    if slow and not (slow == ["powersave"] and limits["powersave_is_fine"]):
        yield CHECK.warning("cpu", f"CPU frequency governor is {', '.join(slow)}")


CHECK = Check(
    name="cpu_governor",
    what="The CPU frequency governor.",
    why="Launching kernels and loading data is work of one CPU core, and a core that clocks up late delays every step.",
    remedy="Set the governor to performance (cpupower frequency-set -g performance).",
    false_alarms=(
        "With the intel_pstate and amd_pstate drivers in active mode, powersave lets the hardware choose; a site may "
        "accept that."
    ),
    limits={"powersave_is_fine": 0},
    run=run,
    action=Action.CONFIGURE,
    needs=("host",),
    contexts=("periodic",),
)
