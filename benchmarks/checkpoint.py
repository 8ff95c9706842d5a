"""What saving and restoring one state costs: hpctrain's tiers and other systems, side by side (entry point).

    python benchmarks/checkpoint.py [--short] [--gib 0.25 1 2] [--blocks 4] [--saves 3] [--systems NAME ...]
                                    [--rivals DIR | --no-rivals] [--json FILE] [--docs FILE]
    python benchmarks/checkpoint.py --from FILE --docs docs/benchmarks.md

The systems take turns: in every block each one, in another order, gets a process of its own that makes the same state, saves
it several times, restores every save from every tier that it has, and compares all bits. docs/benchmarks.md tells what the
columns mean. Systems that hpctrain does not need are installed into an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path[:0] = [str(ROOT), str(BENCHMARKS)]

from checkpoint_systems import SYSTEMS, Entry  # noqa: E402 - the path is set above
from checkpoint_systems.environment import Rivals, make_environment  # noqa: E402
from checkpoint_systems.summary import RATES, Results, markdown  # noqa: E402
from checkpoint_systems.usage import MemoryUse, tree  # noqa: E402
from measure import machine  # noqa: E402

from hpctrain import process  # noqa: E402

SAMPLE_S = 0.025
LONGEST_S = 1800.0
FULL, SHORT = ([0.25, 1.0, 2.0], 4, 3, 8, 1024), ([1 / 128], 2, 2, 3, 128)
"""Sizes in GiB, blocks, saves of a block, steps for the baseline, width of the matrices that a step multiplies."""

BEGIN, END = "<!-- checkpoint benchmark: begin -->", "<!-- checkpoint benchmark: end -->"


class WorkerError(Exception):
    """A system could not be measured; the message is the last thing it said."""


def run_worker(python: str, spec: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Measure one system in a process of its own; its memory is watched from here.

    Raises:
        WorkerError: it ended without a result.
    """
    place.mkdir(mode=0o700)
    spec_path, result_path, log_path = (place.with_suffix(suffix) for suffix in (".spec", ".result", ".log"))
    spec_path.write_text(json.dumps({**spec, "place": str(place)}))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(BENCHMARKS))), "TMPDIR": str(place.parent)}
    argv = [python, "-m", "checkpoint_systems.worker", str(spec_path), str(result_path)]
    with log_path.open("wb") as log:
        child = process.start(argv, env=env, stdin=process.DEVNULL, stdout=process.PIPE, stderr=log)
    try:
        memory = _watch(child)
        code = child.wait()
    finally:
        _end(child)
    if code or not result_path.exists():
        raise WorkerError(_last_words(log_path.read_text(errors="replace")) or f"it ended with {code} and said nothing")
    return {**json.loads(result_path.read_text()), "memory_bytes": memory}


def _last_words(log: str) -> str:
    """The last line that names an error, else the last."""
    lines = log.strip().splitlines()
    return next((line for line in reversed(lines) if re.search(r"Error\b|Exception\b", line)), lines[-1] if lines else "")


def _watch(child: process.Popen[bytes]) -> dict[str, int]:
    """Peak of every phase above what there was before the first save, until the worker closes its output."""
    assert child.stdout is not None
    use, phase, base = MemoryUse(child.pid), "", 0
    peaks = {"save": 0, "restore": 0}
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        ready, _, _ = select.select([child.stdout], [], [], SAMPLE_S)
        if ready:
            line = child.stdout.readline().decode()
            if not line:
                return peaks
            if line.startswith("phase "):
                phase = line.split()[1]
        now = use.now_bytes()
        if phase == "base":
            base = now
        elif phase in peaks:
            peaks[phase] = max(peaks[phase], now - base)
    raise WorkerError(f"it took more than {LONGEST_S:.0f} s")


def _end(child: process.Popen[bytes]) -> None:
    """Kill what is left of the worker: some systems leave helpers."""
    if child.poll() is None:
        for pid in tree(child.pid)[1:]:
            _kill(pid)
    process.kill_group(child)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def play(options: argparse.Namespace, rivals: Rivals | None, place: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All sizes, blocks and systems; what could not be measured, and why."""
    chance, blocks, missing = random.Random(0), [], {}
    names = list(options.systems or SYSTEMS)
    for name in list(names):
        if SYSTEMS[name].rival and (rivals is None or name.split()[0] in rivals.problems):
            missing[name] = "left out" if rivals is None else rivals.problems[name.split()[0]]
            names.remove(name)
    for gib in options.gib:
        for number in range(options.blocks):
            for name in [RATES, *chance.sample(names, len(names))]:  # who follows whom matters to a disk
                if name in missing:
                    continue
                try:
                    result = one_block(SYSTEMS.get(name, Entry(RATES)), spec_of(gib, number, options), rivals, place)
                except WorkerError as error:
                    missing[name] = f"{gib:g} GiB: {error}"
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                blocks.append({**result, "system": name, "gib": gib, "block": number, "load": os.getloadavg()[0]})
                print(f"{gib:g} GiB, block {number + 1}: {name}", file=sys.stderr, flush=True)
    return blocks, missing


def spec_of(gib: float, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """What to measure in a block, whatever the system."""
    return {"size_bytes": int(gib * 2**30), "seed": number, "saves": options.saves,
            "baseline_steps": options.baseline_steps, "width": options.width}


def one_block(entry: Entry, spec: Mapping[str, Any], rivals: Rivals | None, place: Path) -> dict[str, Any]:
    """One system, once, in a directory that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=place))
    python = rivals.python if entry.rival and rivals else sys.executable
    try:
        return run_worker(python, {**spec, "module": entry.module, "options": dict(entry.options)}, folder / "place")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``--short`` makes everything small."""
    parser = argparse.ArgumentParser(description="Compare hpctrain's checkpoints with other systems.")
    parser.add_argument("--short", action="store_true", help="8 MiB, 2 blocks of 2 saves, no rivals: to see that it works")
    parser.add_argument("--gib", type=float, nargs="+", help="sizes of the state; default: 0.25 1 2")
    parser.add_argument("--blocks", type=int, help="turns of every system; default: 4")
    parser.add_argument("--saves", type=int, help="measured saves of a turn, after the first, which allocates; default: 3")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), metavar="NAME", help=f"of: {', '.join(SYSTEMS)}")
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--rivals", type=Path, help="environment of the rivals, made if need be; default: a temporary one")
    parser.add_argument("--no-rivals", action="store_true", help="only what runs in this environment")
    parser.add_argument("--json", type=Path, help="also write all raw numbers")
    parser.add_argument("--docs", type=Path, help="replace the section between the two marks of this file")
    parser.add_argument("--from", dest="source", type=Path, help="report from an earlier --json instead of measuring")
    options = parser.parse_args(arguments)
    gib, blocks, saves, options.baseline_steps, options.width = SHORT if options.short else FULL
    options.gib, options.blocks, options.saves = options.gib or gib, options.blocks or blocks, options.saves or saves
    wanted = any(SYSTEMS[name].rival for name in options.systems or SYSTEMS)
    options.no_rivals = options.no_rivals or not wanted or (options.short and options.rivals is None)
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run, as JSON."""
    about, started = machine(), time.time()
    place = Path(tempfile.mkdtemp(prefix="hpct-bench-", dir=options.dir))
    try:
        rivals = None if options.no_rivals else make_environment(options.rivals or place / "rivals")
        blocks, missing = play(options, rivals, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    loads = [block["load"] for block in blocks]
    return {
        "machine": about, "started": started, "seconds": round(time.time() - started), "blocks": blocks, "missing": missing,
        "rivals": rivals.versions if rivals else {}, "load": [min(loads, default=0.0), max(loads, default=0.0)],
    }


def report(run: Mapping[str, Any]) -> str:
    """The run as Markdown."""
    blocks = run["blocks"]
    versions = ", ".join(["torch " + "/".join(sorted({block["torch"] for block in blocks})), *run["rivals"].values()])
    low, high = run["load"]
    threads = max((block["threads"] for block in blocks), default=0)
    head = (f"Measured on {run['machine']}; between {low:.1f} and {high:.1f} during the run (its own work included); "
            f"{versions}; {threads} threads of torch; {run['seconds']} s in all.")
    return head + "\n\n" + markdown(Results(blocks), run["missing"])


def main() -> int:
    """Measure, or read what was measured, and report."""
    options = read_options(None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    run = json.loads(options.source.read_text()) if options.source else measure(options)
    text = report(run)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(run, indent=1))
    if options.docs:
        page = options.docs.read_text()
        before, _, rest = page.partition(BEGIN)
        options.docs.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
    return 1 if any(not SYSTEMS[name].rival for name in run["missing"] if name in SYSTEMS) else 0


if __name__ == "__main__":
    sys.exit(main())
