"""SIGKILL at random moments of saves, restores and prunes, and a restore after each (entry point).

    python benchmarks/checkpoint_campaign.py [--short] [--kills N] [--seed N]

Four gloo ranks with an FSDP2 model save after every step and keep two checkpoints. Each round forks them from a process
that has imported everything, lets them go for a random time, and kills one rank, some, or all of them (and then the rest).
The next round restores. A checkpoint that rank 0 had reported as saved and that is not restored, or one after it, counts as
*lost*; a state that differs from the one that was saved in any element, or any checkpoint with a commit record that is not
whole after a kill, counts as *corrupt*. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine  # noqa: E402 - the path is set above

RANKS = 4
WIDTH = 256
PHASES = ("start", "restore", "save", "prune", "between")
LONGEST_S = 60
"""A round's ranks end themselves after this, should the campaign be gone."""
REPORT_EVERY = 50


@dataclass
class Tally:
    """What the campaign has seen.

    Attributes:
        rounds: starts that were ended by SIGKILL.
        kills: processes killed.
        phases: what rank 0 was doing at the moment of the first kill.
        restored: starts that restored a checkpoint.
        problems: every loss and every corrupt restore, in words.
    """

    rounds: int = 0
    kills: int = 0
    restored: int = 0
    saved: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    corrupt: int = 0
    problems: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- one rank


class Position:
    """State that is no tensor, the same on all ranks."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {"step": self.step, "text": f"step {self.step}", "history": list(range(self.step % 50))}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take it back, if it is what was saved."""
        self.step = int(state_dict["step"])
        if dict(state_dict) != self.state_dict():
            raise ValueError(f"the position is {state_dict}")


def rank_main(rank: int, place: Path, board: mmap.mmap) -> None:
    """Restore, compare, then save after every step until killed."""
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from hpctrain.checkpoint import CheckpointConfig, Checkpointer

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'rendezvous'}", rank=rank, world_size=RANKS)
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 3))
    fully_shard(model)
    position = Position()
    report = Report(rank, place / "reports", board)
    checkpointer = Checkpointer(CheckpointConfig(place / "checkpoints"), notify=report.event)
    checkpointer.register(model=model, position=position, rng=True)
    fill(model, -1)
    report.phase("restore")
    step = checkpointer.restore()
    fault = "" if not step or (position.step == step and holds(model, step)) else f"rank {rank} holds another state"
    if fault:
        report.write({"kind": "corrupt", "step": step, "text": fault})
    report.event("restored", "", step, {})
    while True:
        step += 1
        report.phase("between")
        position.step = step
        fill(model, step)
        report.phase("save")
        checkpointer.save_now(step, "campaign")


def fill(model: Any, step: int) -> None:
    """Values that are another for every step and every element of every shard."""
    import torch

    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            local = parameter.to_local()
            local.copy_(expected(local, index, step))


def holds(model: Any, step: int) -> bool:
    """Every element of this rank's shards is that of a step."""
    import torch

    return all(
        torch.equal(parameter.to_local(), expected(parameter.to_local(), index, step))
        for index, parameter in enumerate(model.parameters())
    )


def expected(local: Any, index: int, step: int) -> Any:
    """What a shard holds after a step; all whole numbers below 2**24, which float32 keeps exactly."""
    import torch
    import torch.distributed as dist

    base = (step * 7919 + index * 104729 + dist.get_rank() * 15485863) % 8_000_000
    return (torch.arange(local.numel(), dtype=torch.float32) + base).reshape(local.shape)


class Report:
    """What the ranks tell the campaign: lines that outlive them, and one byte for what rank 0 is doing."""

    def __init__(self, rank: int, path: Path, board: mmap.mmap) -> None:
        self._rank, self._board = rank, board
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def phase(self, name: str) -> None:
        """Rank 0 begins something."""
        if self._rank == 0:
            self._board[0] = PHASES.index(name)

    def event(self, kind: str, reason: str, step: int, _evidence: Mapping[str, Any]) -> None:
        """An event of the checkpointer; the caller has done what it says."""
        if kind == "checkpoint.saved":
            self.phase("prune")
        if self._rank == 0:
            self.write({"kind": kind, "step": step, "text": reason})

    def write(self, record: Mapping[str, Any]) -> None:
        """One line, in one write."""
        os.write(self._handle, (json.dumps(record) + "\n").encode())


# ---------------------------------------------------------------- the campaign


def play(place: Path, rounds: int, dice: random.Random) -> Tally:
    """All rounds, in one directory; one more start at the end restores what the last kill left."""
    warm()
    tally, newest = Tally(), 0
    board = mmap.mmap(-1, mmap.PAGESIZE)
    for number in range(rounds + 1):
        pids = start(place, board)
        if number < rounds:
            kill(pids, board, dice, tally)
        else:
            wait_for_restore(place, pids)
        newest = judge(place, newest, tally, number)
        if number and number % REPORT_EVERY == 0:
            print(f"{number} rounds, {tally.lost} lost, {tally.corrupt} corrupt", file=sys.stderr, flush=True)
    return tally


def warm() -> None:
    """Import what the ranks need; the process that forks must not run one tensor operation."""
    import torch
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401

    import hpctrain.checkpoint.manager  # noqa: F401


def start(place: Path, board: mmap.mmap) -> list[int]:
    """Fork all ranks."""
    (place / "rendezvous").unlink(missing_ok=True)
    board[0] = 0
    return [fork(rank, place, board) for rank in range(RANKS)]


def fork(rank: int, place: Path, board: mmap.mmap) -> int:
    """Fork one rank; a failure of its own is a line in the reports, because nothing may fail here but by being killed."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(LONGEST_S)
    try:
        log = os.open(place / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        rank_main(rank, place, board)
    except BaseException:  # noqa: BLE001 - a child must never return into the parent's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def kill(pids: list[int], board: mmap.mmap, dice: random.Random, tally: Tally) -> None:
    """Kill one rank, some or all at a random time; the rest a moment later, as an agent would."""
    phase = dice.choice(("start", "restore", "save", "prune", "any", "any"))
    if phase != "any":
        wait_for_phase(phase, board, pids)
    # Prunes are short; a uniform time in the whole start would hardly ever meet one.
    time.sleep(dice.uniform(0, {"any": 1.0, "start": 0.3, "restore": 0.03, "save": 0.05, "prune": 0.003}[phase]))
    first = dice.sample(pids, dice.choice((1, 1, 2, RANKS, RANKS)))
    tally.phases[PHASES[board[0]]] += 1
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    time.sleep(dice.uniform(0, 0.05))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        tally.kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    tally.rounds += 1


def wait_for_phase(phase: str, board: mmap.mmap, pids: list[int]) -> None:
    """Until rank 0 is in a phase, or a rank has ended by itself."""
    deadline = time.monotonic() + LONGEST_S
    while PHASES[board[0]] != phase and time.monotonic() < deadline and all(map(runs, pids)):
        time.sleep(0.0002)


def wait_for_restore(place: Path, pids: list[int]) -> None:
    """Until the last start has restored; then it may go."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and all(map(runs, pids)):
        if any(record["kind"] == "restored" for record in read(place)):
            break
        time.sleep(0.01)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def runs(pid: int) -> bool:
    """The child has not ended (and stays to be waited for)."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def judge(place: Path, newest: int, tally: Tally, number: int) -> int:
    """Compare what this round restored with what earlier ones had saved; the newest step that is saved now."""
    for record in read(place):
        kind, step = record["kind"], int(record["step"])
        if kind == "restored":
            tally.restored += step > 0
            if step < newest:
                tally.lost += 1
                tally.problems.append(f"round {number}: step {newest} was saved, step {step} was restored")
            # A save whose commit nobody lived to report is restored too: that is more than was promised.
            newest = step
        elif kind == "checkpoint.saved":
            tally.saved += 1
            newest = max(newest, step)
        elif kind in ("corrupt", "checkpoint.skipped", "checkpoint.failed"):
            tally.corrupt += kind != "checkpoint.failed"
            tally.problems.append(f"round {number}: {kind} {record['text']}")
    halves = half_ones(place)
    tally.corrupt += len(halves)
    tally.problems += [f"round {number}: {text}" for text in halves] + failures(place, number)
    (place / "reports").unlink(missing_ok=True)
    return newest


def half_ones(place: Path) -> list[str]:
    """Checkpoints that have a commit record and are not whole, whether or not a restore would come to them."""
    from hpctrain.checkpoint.catalogue import verify
    from hpctrain.checkpoint.tier_shared import SharedTier

    tier = SharedTier(place / "checkpoints")
    verdicts = [verify(tier, name) for name in tier.checkpoints(committed=True)]
    return [f"{verdict.name}: {problem}" for verdict in verdicts for problem in verdict.problems]


def failures(place: Path, number: int) -> list[str]:
    """Ranks that failed before they were killed, other than for the loss of a killed peer."""
    found = []
    for rank in range(RANKS):
        log = place / f"log-{rank}"
        text = log.read_text(errors="replace") if log.exists() else ""
        log.unlink(missing_ok=True)
        last = text.strip().splitlines()[-1:] or [""]
        if any(word in last[0] for word in ("CheckpointError", "ValueError", "StorageError", "KeyError", "TypeError")):
            found.append(f"round {number}: rank {rank}: {last[0]}")
    return found


def read(place: Path) -> list[dict[str, Any]]:
    """This round's reports; the last line may be torn."""
    records = []
    with contextlib.suppress(FileNotFoundError):
        for line in (place / "reports").read_text().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records


def main(arguments: list[str]) -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help="12 rounds")
    parser.add_argument("--kills", type=int, default=1000, help="rounds, each ended by SIGKILL")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rounds = 12 if options.short else options.kills
    place = Path(tempfile.mkdtemp(prefix="hpctrain-campaign-"))
    begun = time.monotonic()
    print(machine() + "\n", flush=True)
    try:
        tally = play(place, rounds, random.Random(options.seed))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print("\n".join([
        "| what | count |", "|---|---:|",
        f"| starts of {RANKS} ranks ended by SIGKILL | {tally.rounds} |", f"| ranks killed | {tally.kills} |",
        *(f"| killed during {phase} | {tally.phases[phase]} |" for phase in PHASES),
        f"| checkpoints saved | {tally.saved} |", f"| starts that restored one | {tally.restored} |",
        f"| checkpoints lost | {tally.lost} |", f"| corrupt restores | {tally.corrupt} |",
        "", f"Seed {options.seed}, {time.monotonic() - begun:.0f} s.",
    ]))
    for problem in tally.problems:
        print(problem)
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
