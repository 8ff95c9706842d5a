"""What a prolog costs on a node with eight GPUs, compared with Python and NVML alone, and with other ways (entry point).

    python benchmarks/health.py [--short] [--rounds N] [--gpucm DIRECTORY]

All cases load the same simulated NVML library; the cases take turns. ``--gpucm`` names the ``bin`` directory of an
environment in which ``pip install gpucm`` was run; without it its rows are left out. The aims: at most three times a bare
Python that initialises NVML, and ten times as fast as one process per check.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import Row, machine, summarise, table, take_turns  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402
from hpctrain.devcluster.node_files import NodeFiles  # noqa: E402
from hpctrain.devcluster.nvml_library import build_nvml  # noqa: E402
from hpctrain.devcluster.simulated_node import NodeKind, health_config  # noqa: E402
from hpctrain.health.registry import load_checks  # noqa: E402

NODE = "bench"
BASELINE = 'python -c "import pynvml; pynvml.nvmlInit()"'
PROLOG, SCRIPT = "hpctrain, python -m hpctrain.health prolog", "hpctrain, prolog.sh"
APART = "hpctrain's checks, one process per check"
MOST, LEAST = 3.0, 10.0

# GCM's checks that this library and an ordinary machine can answer; each is named as its command line names it.
GCM_GPU = (
    "gpu_num --gpu_num 8", "gpu_temperature --gpu_temperature_threshold 90",
    "gpu_mem_usage --gpu_mem_usage_threshold 100000",
    "ecc_uncorrected_volatile_total", "ecc_corrected_volatile_total", "row_remap", "row_remap_pending", "row_remap_failed",
)
GCM_HOST = ("check-storage disk-usage --volume /", "check-process check-zombie", "check-syslogs xid", "check-node uptime")


class Meter:
    """Runs commands in an environment of their own, and keeps the CPU time of each run, children included."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.cpu_s: dict[str, list[float]] = {}
        self._environment, self._directory = dict(environment), directory

    def case(self, name: str, *commands: Sequence[str]) -> tuple[str, Callable[[], None]]:
        """A case: these commands, one after the other; each must exit 0."""
        seconds = self.cpu_s.setdefault(name, [])

        def once() -> None:
            before = _cpu_s()
            for argv in commands:
                result = process.run(argv, timeout_s=120, env=self._environment, cwd=str(self._directory))
                if not result.ok:
                    sys.exit(f"{shlex.join(argv)} exited {result.returncode}:\n{result.stdout}{result.stderr}")
            seconds.append(_cpu_s() - before)
        return name, once


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_node(directory: Path) -> dict[str, str]:
    """A healthy simulated node with eight GPUs, all of them the job's; the environment in which to look at it."""
    files = directory / "nodes" / NODE
    NodeFiles(files, NODE, NodeKind(gpus=8)).create(build_nvml(directory))
    config, settings = directory / "health.json", directory / "health.env"
    document = health_config(str(directory / "nodes"), kind=NodeKind(gpus=8), state_dir=str(directory / "state"))
    config.write_text(json.dumps(document))
    settings.write_text(f"HPCTRAIN_PYTHON={shlex.quote(sys.executable)}\n")
    return {
        "PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(files), "SLURMD_NODENAME": NODE, "SLURM_JOB_ID": "7",
        "SLURM_JOB_UID": str(os.getuid()), "SLURM_JOB_GPUS": "0,1,2,3,4,5,6,7",  # gpucm does not read 0-7
        "HPCTRAIN_HEALTH_CONFIG": str(config),
        "HPCTRAIN_HEALTH_SETTINGS": str(settings),
    }


def gcm_cases(meter: Meter, binaries: Path, logs: Path) -> list[tuple[str, Callable[[], None]]]:
    """GCM's GPU checks in one process, and what of it a prolog would run, a process each."""
    program = str(binaries / "health_checks")
    options = ["bench", "prolog", "--log-folder", str(logs), "--sink", "do_nothing"]
    gpu = [program, "check-nvidia-smi", *options]
    together = [*gpu, *(word for check in GCM_GPU for word in ["-c", *check.split()])]
    apart = [[*gpu, "-c", *check.split()] for check in GCM_GPU]
    for check in GCM_HOST:
        group, name, *rest = check.split()
        apart.append([program, group, name, *options, *rest])
    return [
        meter.case(f"gpucm, {len(GCM_GPU)} GPU checks in one process", together),
        meter.case(f"gpucm, {len(apart)} checks, one process per check", *apart),
    ]


def cases(meter: Meter, directory: Path, gpucm: Path | None) -> dict[str, Callable[[], None]]:
    """Every case by name, the baseline first."""
    names = [check.name for check in load_checks() if "prolog" in check.contexts]
    single = [[sys.executable, "-m", "hpctrain", "health", "check", "--context", "prolog", "--only", name] for name in names]
    found = [
        meter.case('python -c ""', [sys.executable, "-c", ""]),
        meter.case(BASELINE, [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"]),
        meter.case(f"{PROLOG} ({len(names)} checks)", [sys.executable, "-I", "-m", "hpctrain.health", "prolog"]),
        meter.case(f"{SCRIPT} ({len(names)} checks)", ["/bin/sh", str(ROOT / "slurm_scripts" / "prolog.sh")]),
        meter.case(f"{APART} ({len(names)})", *single),
    ]
    return dict(found + (gcm_cases(meter, gpucm, directory / "gcm-logs") if gpucm else []))


def report(wall: Sequence[Row], cpu: Sequence[Row], gpucm: Path | None) -> None:
    """Print both tables and how the aims were met."""
    print("Wall time\n\n" + table(wall, BASELINE))
    print("\nCPU time, user and system, of all processes\n\n" + table(cpu, BASELINE))
    by_name = {row.name.partition(" (")[0]: row for row in wall}
    ratio, others = by_name[SCRIPT].ratio, by_name[APART].ratio
    print(f"\nprolog.sh: {ratio:.2f} times the baseline (aim: at most {MOST:g}); "
          f"one process per check takes {others / ratio:.1f} times as long as it (aim: at least {LEAST:g})")
    if gpucm is None:
        print("gpucm was not measured: no environment that has it was named")


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gpucm", type=Path)
    chosen = parser.parse_args(arguments)
    rounds = 2 if chosen.short else chosen.rounds
    print(machine() + "\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        meter = Meter(make_node(directory), directory)
        seconds = take_turns(cases(meter, directory, chosen.gpucm), rounds)
    cpu_s = {name: values[-rounds:] for name, values in meter.cpu_s.items()}
    report(summarise(seconds, BASELINE), summarise(cpu_s, BASELINE), chosen.gpucm)


if __name__ == "__main__":
    main(sys.argv[1:])
