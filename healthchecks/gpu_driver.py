"""A driver that is not loaded, or does not fit its library (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Judge why NVML could not be initialised; a node without any GPU may lack it."""
    error = reading.nvml_error
    on_bus = sum(device.kind == "gpu" for device in reading.pci)
    wanted = bool(on_bus or reading.expected.gpus)
    library, module = reading.versions.get("driver", ""), reading.versions.get("module", "")
    if error == "lib_rm_version_mismatch" or (library and module and library != module):
        versions = f" (module {module or 'unknown'}, library {library or 'unknown'})" if library or module else ""
        yield CHECK.critical("driver", f"driver and library do not fit{versions}", error=error)
    elif not error:
        return
    elif not wanted:
        yield CHECK.skipped("no GPU in this node")
    elif error in ("driver_not_loaded", "library_not_found"):
        what = "the NVIDIA driver is not loaded" if error == "driver_not_loaded" else "there is no NVML library"
        yield CHECK.critical("driver", f"{what}, and the node has {on_bus or reading.expected.gpus} GPUs", error=error)
    else:
        yield CHECK.unknown("driver", f"NVML cannot be initialised: {error}", error=error)


CHECK = Check(
    name="gpu_driver",
    what="Whether NVML can be initialised, and whether the driver in the kernel is of the library's version.",
    why=(
        "After an update without a reboot every new CUDA process fails, while those that run go on: the node looks healthy."
    ),
    remedy="Reboot, so that the kernel loads the driver that is installed.",
    false_alarms="None known: NVML returns its own error for it.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("nvml", "host", "devices"),
)
