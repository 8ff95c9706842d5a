"""How long training stands still when a rank is killed: hpctrain against other launchers, one run, one machine.

    python benchmarks/recovery.py [--short] [--ranks N] [--faults N] [--systems NAME ...] [--environment DIR] [--json FILE]

Each system trains the same small model with gloo; a random rank is sent SIGKILL at a random moment, again and again, and
the time to the end of the first step after it is read from what the ranks wrote down. Rivals are installed into an
environment of their own (benchmarks/requirements-recovery.txt); those that do not run are named with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from checkpoint_systems.environment import make_environment
from measure import machine
from recovery_systems import hpctrain_job, ladder, launchers, summary, timeline

REQUIREMENTS = Path(__file__).resolve().parent / "requirements-recovery.txt"
STEPS_BETWEEN = (3, 12)
"""Steps of all ranks between a recovery and the next fault."""
SYSTEMS: dict[str, Callable[[Path, int, int, str], launchers.Job]] = {
    "hpctrain": hpctrain_job.trainer, "hpctrain, torchrun's program": hpctrain_job.script, "torchrun": launchers.torchrun,
    "NVRx ft_launcher": launchers.ft_launcher, "torchft": launchers.torchft,
}
RIVALS = {"NVRx ft_launcher", "torchft"}


MOST_PROBLEMS = 5


class NotRunningError(Exception):
    """A system did not get going, or did not come back; the message says what it printed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="few faults, and no rivals: it runs at all")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--faults", type=int, default=0, help="per system; 20, or 1 with --short")
    parser.add_argument("--rounds", type=int, default=4, help="turns of all systems, each with its share of faults")
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--systems", nargs="+", choices=sorted(SYSTEMS), default=[])
    parser.add_argument("--environment", default="", help="directory for the rivals' environment; made if it is not there")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds after which a system counts as stuck")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", default="", help="also write every number to this file")
    parser.add_argument("--ladder", action="store_true", help="instead: hpctrain's other rungs, without the rivals")
    parser.add_argument("--cases", nargs="+", default=[], metavar="TEXT",
                        help="with --ladder: those that have it in their name")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that clusters and jobs are taken down
    if options.ladder:
        return other_rungs(options)
    faults, rounds = options.faults or (1 if options.short else 20), 1 if options.short else options.rounds
    names = options.systems or [name for name in SYSTEMS if not (options.short and name in RIVALS)]
    where = machine()
    with tempfile.TemporaryDirectory(prefix="hpctrain-recovery-") as scratch:
        python, missing = _rivals(names, Path(options.environment or f"{scratch}/rivals"))
        results: dict[str, list[timeline.Recovery]] = {}
        problems = [f"{name}: {why}" for name, why in missing.items()]
        for turn, name in [(turn, name) for turn in range(rounds) for name in names]:
            if name in missing:
                continue
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            folder = Path(scratch, f"{''.join(c for c in name if c.isalnum())}-{turn}")
            folder.mkdir()
            chance = random.Random(f"{options.seed} {turn} {name}")
            job = SYSTEMS[name](folder, options.ranks, options.every, python)
            found, problem = measure(job, options.ranks, faults // rounds, chance, options.patience)
            results.setdefault(name, []).extend(found)
            if problem:
                problems.append(f"{name}, round {turn + 1}, after {len(found)} faults: {problem}")
    print(summary.report(results, problems, ranks=options.ranks, where=where, baseline="torchrun"))
    if options.json:
        numbers = {name: [asdict(one) for one in found] for name, found in results.items()}
        Path(options.json).write_text(json.dumps({"machine": where, "ranks": options.ranks, "problems": problems,
                                                  "systems": numbers}, indent=1))
    return 1 if options.short and problems else 0


def other_rungs(options: argparse.Namespace) -> int:
    """A node that dies, a requeue, a rank that stands still: what hpctrain takes for each."""
    print(f"{machine()}; {options.ranks} ranks with gloo.\n\n{ladder.HEAD}", flush=True)
    every: dict[str, list[ladder.Fault]] = {}
    problems: list[str] = []
    for name, case in ladder.CASES.items():
        wanted = min(options.faults or (1 if options.short else 20), case.in_all or 10**6)
        if options.cases and not any(part in name for part in options.cases):
            continue
        chance, found = random.Random(f"{options.seed} {name}"), every.setdefault(name, [])
        while len(found) < wanted and len(problems) < MOST_PROBLEMS:
            with tempfile.TemporaryDirectory(prefix="hpctrain-recovery-") as scratch:
                job = ladder.start(name, Path(scratch), options.ranks, options.every)
                try:
                    for _ in range(min(case.most, wanted - len(found))):
                        found.append(_one_of_ladder(job, name, options, chance))
                except NotRunningError as error:
                    problems.append(f"{name}, after {len(found)} faults: {error}")
                finally:
                    job.stop()
        if found:
            print(ladder.row(name, found), flush=True)
    print("".join(f"\nStuck: {problem}" for problem in problems))
    if options.json:
        Path(options.json).write_text(json.dumps({name: [asdict(one) for one in found] for name, found in every.items()}))
    return 1 if options.short and problems else 0


def _one_of_ladder(
    job: hpctrain_job.TrainerJob, name: str, options: argparse.Namespace, chance: random.Random
) -> ladder.Fault:
    steps = chance.randint(*STEPS_BETWEEN) + 60 * name.startswith("R1")  # until then no limit is learned
    _until(job, options.patience, lambda found: timeline.steps_since_start(found, options.ranks) >= steps)
    time.sleep(chance.uniform(0, 0.2))
    fault = ladder.cause(job, name, chance)
    moments = _until(job, options.patience, lambda found: ladder.result(job, list(found), fault) is not None)
    done = ladder.result(job, moments, fault)
    assert done is not None
    return done


def _rivals(names: Sequence[str], folder: Path) -> tuple[str, dict[str, str]]:
    """The rivals' Python, and which of them do not install."""
    if not RIVALS.intersection(names):
        return sys.executable, {}
    made = make_environment(folder, REQUIREMENTS)
    packages = {"NVRx ft_launcher": "nvidia-resiliency-ext", "torchft": "torchft-nightly"}
    return made.python, {name: made.problems[key] for name, key in packages.items() if key in made.problems}


def measure(
    job: launchers.Job, world: int, faults: int, chance: random.Random, patience_s: float
) -> tuple[list[timeline.Recovery], str]:
    """Kill a rank of a job that is just starting again and again, then stop it; what was measured, and what went wrong."""
    found: list[timeline.Recovery] = []
    try:
        while len(found) < faults:
            found.append(_one_fault(job, world, chance, patience_s))
    except NotRunningError as error:
        return found, str(error)
    finally:
        job.stop()
    return found, ""


def _one_fault(job: launchers.Job, world: int, chance: random.Random, patience_s: float) -> timeline.Recovery:
    steps = chance.randint(*STEPS_BETWEEN)
    moments = _until(job, patience_s, lambda found: timeline.steps_since_start(found, world) >= steps)
    times = [moment.time for moment in moments if moment.what == "step" and moment.rank == 0][-3:]
    time.sleep(chance.uniform(0, max(0.0, times[-1] - times[0]) / 2))
    victim = chance.randrange(world)
    pid = job.pids()[victim]
    fault = time.time()
    os.kill(pid, signal.SIGKILL)
    moments = _until(job, patience_s, lambda found: job.judged(found, fault, world) is not None)
    result = job.judged(moments, fault, world)
    assert result is not None
    return result


def _until(
    job: launchers.Job, limit_s: float, condition: Callable[[Sequence[timeline.Moment]], bool]
) -> list[timeline.Moment]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        moments = job.moments()
        if condition(moments):
            return moments
        if job.has_ended():
            break
        time.sleep(0.05)
    lines = job.log().strip().splitlines()
    raise NotRunningError("it ended or stood still; its last lines: " + " | ".join(lines[-6:]))


if __name__ == "__main__":
    sys.exit(main())
