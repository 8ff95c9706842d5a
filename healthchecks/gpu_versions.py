"""GPUs of one node with different firmware, or another driver than the fleet (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Compare VBIOS, InfoROM and firmware between the GPUs, and the versions with what the site expects."""
    for field, words in (("vbios", "VBIOS"), ("inforom", "InfoROM"), ("gsp_firmware", "GSP firmware"), ("name", "model")):
        found = {gpu.text(field) for gpu in reading.gpus} - {""}
        if len(found) > 1:
            yield CHECK.critical(
                "gpus", f"the GPUs have different {words} versions: {', '.join(sorted(found))}", field=field
            )
    name = reading.expected.gpu_name
    for gpu in reading.gpus:
        if name and gpu.text("name") and name not in gpu.text("name"):
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index} is a {gpu.text('name')}, not a {name}")


CHECK = Check(
    name="gpu_versions",
    what="VBIOS, InfoROM, GSP firmware and model of all GPUs of the node.",
    why=(
        "A part that was replaced with another firmware can be slower than its neighbours, and a job is as fast as "
        "its slowest GPU."
    ),
    remedy="Update the firmware of the odd GPU.",
    false_alarms="Nodes that mix models on purpose.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.CONFIGURE,
    needs=("nvml",),
    gpu_fields=("vbios", "inforom", "name"),
    contexts=("periodic",),
)
