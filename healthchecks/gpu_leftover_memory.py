"""GPU memory that nobody owns (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report memory in use on a GPU on which no process runs."""
    for gpu, used in numbers(reading, "memory_used_bytes"):
        if gpu.processes or "processes" in gpu.errors or reading.context == "manual":
            continue
        if used > limits["used_bytes"]:
            message = f"GPU {gpu.index}: {used / 2**20:.0f} MiB in use and no process that uses it"
            yield CHECK.critical(gpu.entity, message, used_bytes=used)


CHECK = Check(
    name="gpu_leftover_memory",
    what="Memory in use on GPUs without any process.",
    why="The next job runs out of memory although it fits; usually a process hangs half dead in the kernel.",
    remedy="Look for zombies and processes in state D that hold /dev/nvidia*; reset the GPU if there are none.",
    false_alarms="Other container runtimes hide their processes from NVML; display servers and MPS keep memory.",
    limits={"used_bytes": 1024 * 2**20},
    run=run,
    mode=Mode.WARN,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("memory_used_bytes",),
    contexts=("prolog", "periodic"),
)
