"""GPUs that are set up otherwise than the site wants (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Compare persistence, ECC, MIG and compute mode with the site's, and ECC with what is pending."""
    expected = reading.expected
    wanted = (
        ("persistence", expected.persistence),
        ("ecc_mode", expected.ecc),
        ("mig_mode", expected.mig),
        ("compute_mode", expected.compute_mode),
    )
    for gpu in reading.gpus:
        for field, want in wanted:
            have = gpu.number(field)
            if want is not None and have is not None and have != int(want):
                message = f"GPU {gpu.index}: {field} is {have:g}, the site wants {int(want)}"
                yield CHECK.critical(gpu.entity, message, field=field, have=have, expected=int(want))
        now, later = gpu.number("ecc_mode"), gpu.number("ecc_mode_pending")
        if now is not None and later is not None and now != later:
            yield CHECK.warning(gpu.entity, f"GPU {gpu.index}: ECC will be {'on' if later else 'off'} after the next reset")


CHECK = Check(
    name="gpu_config",
    what="Persistence mode, ECC, MIG and compute mode against what the site expects.",
    why=(
        "Without persistence mode each job start loads the driver anew (seconds per GPU); without ECC bit flips go "
        "into the weights."
    ),
    remedy="Set it with nvidia-smi (-pm, -e, -mig, -c); ECC and MIG need a reset of the GPU.",
    false_alarms="Nodes that users may reconfigure; leave the expectation out there.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.CONFIGURE,
    needs=("nvml",),
    gpu_fields=("persistence", "ecc_mode", "mig_mode", "compute_mode"),
)
