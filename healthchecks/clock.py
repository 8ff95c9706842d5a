"""A clock that is wrong (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare the measured offset, and the kernel's bound of the error, with the limits."""
    clock = reading.clock
    if clock.offset_s is not None and abs(clock.offset_s) > limits["offset_s"]:
        message = f"the clock is {abs(clock.offset_s):.3f} s {'ahead' if clock.offset_s > 0 else 'behind'}"
        yield CHECK.critical("clock", message, offset_s=clock.offset_s)
    elif clock.synchronised and clock.error_s is not None and clock.error_s > limits["error_s"]:
        yield CHECK.warning("clock", f"the clock may be off by {clock.error_s:.1f} s", error_s=clock.error_s)
    elif clock.synchronised is False and clock.offset_s is None:
        yield CHECK.warning("clock", "nothing synchronises the clock", error_s=clock.error_s)


CHECK = Check(
    name="clock",
    what="The offset to the site's time server, where one is named, and whether the kernel's clock is synchronised.",
    why=(
        "Munge refuses credentials that are minutes old, TLS fails, file time stamps confuse checkpoints, and logs of "
        "several nodes cannot be put in order."
    ),
    remedy="Start chronyd or ntpd; look at the network to the time server.",
    false_alarms="chrony without rtcsync does not tell the kernel that it is synchronised: that alone is a warning.",
    limits={"offset_s": 1, "error_s": 5},
    run=run,
    action=Action.CONFIGURE,
    needs=("host",),
    contexts=("periodic",),
)
