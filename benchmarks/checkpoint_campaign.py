"""SIGKILL at random moments of saves, restores and prunes, and a restore after each (entry point).

    python benchmarks/checkpoint_campaign.py [--short] [--kills N] [--seed N]

Four gloo ranks with an FSDP2 model, on two nodes that are two keepers and two writers on this host. After every step
they save in memory, and what is not busy is copied to the peer node, to each node's own directory and to the shared one.
Each round forks the ranks from a process that has imported everything, lets them go for a random time, and kills ranks, a
writer, a keeper, a whole node or both keepers (and then all ranks). The next round restores.

What is there after a kill must be what is restored then, or something newer: the newest checkpoint of which every part is in
a living keeper's memory, or that is committed in the shared directory, or that had been reported as saved in a tier that
the kill has spared. Less counts as *lost*. A state that differs from the one that was saved in any element, a part that is
found damaged, and a committed checkpoint that is not whole count as *corrupt*. Of memory that a kill takes while the ranks
are restoring from it nothing is expected. Exit code 1 if there is any.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from checkpoint_campaign_rank import PHASES, RANKS, SAVED, rank_main  # noqa: E402 - the path is set above
from checkpoint_nodes import KEEPER, WRITER, Nodes  # noqa: E402
from measure import machine  # noqa: E402

from hpctrain.checkpoint.names import CheckpointName, parse_name  # noqa: E402

NODES = ("a", "b")
VICTIMS = {"ranks": 11, "a writer": 3, "a keeper": 3, "a node": 2, "all keepers": 1}
"""What is killed first, and how often of twenty times."""
SURVIVORS = {"ranks": ("ram", "peer", "shared"), "a writer": ("ram", "peer", "shared"), "all keepers": ("shared",),
             "a keeper": ("shared",), "a node": ("shared",)}
"""The tiers whose reported saves must survive. (Copies on peers are not reported: see :func:`take_stock`.)"""
NOTHING = CheckpointName(0, 0)
LONGEST_S = 60
"""A round's ranks end themselves after this, should the campaign be gone."""
REPORT_EVERY = 50


@dataclass
class Tally:
    """What the campaign has seen.

    Attributes:
        victims: what was killed first.
        phases: what rank 0 was doing at the moment of the first kill.
        sources: which tiers the starts restored from.
        saved: reports, by tier.
        problems: every loss and every corrupt restore, in words.
    """

    rounds: int = 0
    kills: int = 0
    restored: int = 0
    passed_over: int = 0
    victims: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    saved: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    corrupt: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stock:
    """What the last round has left.

    Attributes:
        memory: for each node, the ranks whose parts of each checkpoint its keeper holds.
        promised: the newest that was reported as saved in memory, and that the kill has spared.
        stored: the newest in the shared directory, there or reported as saved.
    """

    memory: dict[str, dict[CheckpointName, set[int]]] = field(default_factory=dict)
    promised: CheckpointName = NOTHING
    stored: CheckpointName = NOTHING

    def newest(self, emptied: tuple[str, ...]) -> CheckpointName:
        """The newest that a restore must be able to get at.

        Args:
            emptied: nodes whose memory went while the ranks were restoring: with luck they still had it, no more.
        """
        parts: dict[CheckpointName, set[int]] = {}
        for node, held in self.memory.items():
            for name, ranks in held.items() if node not in emptied else ():
                parts.setdefault(name, set()).update(ranks)
        whole = [name for name, ranks in parts.items() if ranks == set(range(RANKS))]
        return max([self.stored, *whole, *([] if emptied else [self.promised])])


@dataclass(frozen=True)
class Blow:
    """What was killed first, and the nodes whose memory went with it before the ranks had restored."""

    victim: str
    emptied: tuple[str, ...] = ()


def play(place: Path, nodes: Nodes, rounds: int, dice: random.Random) -> Tally:
    """All rounds, in one directory; one more start at the end restores what the last kill left."""
    warm()
    tally, stock = Tally(), Stock()
    board = mmap.mmap(-1, mmap.PAGESIZE)
    for number in range(1, rounds + 2):
        nodes.start()
        pids = start(place, nodes, board, number)
        blow = kill(nodes, pids, board, dice, tally) if number <= rounds else wait_for_restore(place, pids)
        promised = judge(place, number, stock.newest(blow.emptied), blow.victim, tally)
        stock = take_stock(place, nodes, promised)
        if number % REPORT_EVERY == 0:
            print(f"{number} rounds, {tally.lost} lost, {tally.corrupt} corrupt", file=sys.stderr, flush=True)
    return tally


def take_stock(place: Path, nodes: Nodes, promised: dict[bool, CheckpointName]) -> Stock:
    """What is there now that all ranks are dead."""
    from hpctrain.checkpoint.tier_shared import SharedTier

    memory: dict[str, dict[CheckpointName, set[int]]] = {}
    for node in nodes.names:
        held = memory.setdefault(node, {})
        for tier in ("own", "peer"):
            for name, ranks in nodes.holdings(node, tier).items():
                held.setdefault(name, set()).update(ranks)
    stored = max([promised[False], *SharedTier(place / "checkpoints").checkpoints(committed=True)])
    return Stock(memory, promised[True], stored)


def warm() -> None:
    """Import what the ranks need; the process that forks must not run one tensor operation."""
    import torch
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401

    import hpctrain.checkpoint.manager  # noqa: F401


def start(place: Path, nodes: Nodes, board: mmap.mmap, number: int) -> list[int]:
    """Fork all ranks."""
    (place / "rendezvous").unlink(missing_ok=True)
    board[0] = 0
    return [fork(rank, place, nodes, board, number) for rank in range(RANKS)]


def node_of(rank: int) -> str:
    """Which node a rank runs on."""
    return NODES[rank * len(NODES) // RANKS]


def fork(rank: int, place: Path, nodes: Nodes, board: mmap.mmap, number: int) -> int:
    """Fork one rank; a failure of its own is a line in the reports, because nothing may fail here but by being killed."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(LONGEST_S)
    try:
        log = os.open(place / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(nodes.environment(node_of(rank)))
        rank_main(rank, place, board, number)
    except BaseException:  # noqa: BLE001 - a child must never return into the parent's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def kill(nodes: Nodes, pids: list[int], board: mmap.mmap, dice: random.Random, tally: Tally) -> Blow:
    """Kill something at a random time, and all ranks a moment later, as an agent would."""
    phase = dice.choice(("start", "restore", "save", "any", "any"))
    victim = dice.choices(list(VICTIMS), list(VICTIMS.values()))[0]
    if phase != "any":
        wait_for_phase(phase, board, pids)
    time.sleep(dice.uniform(0, {"any": 1.0, "start": 0.3, "restore": 0.03, "save": 0.05}[phase]))
    phase = PHASES[board[0]]
    tally.phases[phase] += 1
    tally.victims[victim] += 1
    emptied = strike(victim, nodes, pids, dice)
    time.sleep(dice.uniform(0, 0.05) if victim in ("ranks", "a node") else dice.uniform(0, 0.5))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        tally.kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    tally.rounds += 1
    return Blow(victim, emptied if phase in ("start", "restore") else ())


def strike(victim: str, nodes: Nodes, pids: list[int], dice: random.Random) -> tuple[str, ...]:
    """The first blow; returns the nodes whose memory is gone."""
    node = dice.choice(NODES)
    doomed = dice.sample(range(RANKS), dice.choice((1, 1, 2, RANKS, RANKS))) if victim == "ranks" else []
    if victim == "a writer":
        nodes.kill(node, WRITER)
    if victim in ("a keeper", "a node"):
        nodes.kill(node, KEEPER)
    if victim == "all keepers":
        for each in NODES:
            nodes.kill(each, KEEPER)
    if victim == "a node":
        nodes.kill(node, WRITER)
        doomed = [rank for rank in range(RANKS) if node_of(rank) == node]
    for rank in doomed:
        os.kill(pids[rank], signal.SIGKILL)
    return NODES if victim == "all keepers" else (node,) if victim in ("a keeper", "a node") else ()


def wait_for_phase(phase: str, board: mmap.mmap, pids: list[int]) -> None:
    """Until rank 0 is in a phase, or a rank has ended by itself."""
    deadline = time.monotonic() + LONGEST_S
    while PHASES[board[0]] != phase and time.monotonic() < deadline and all(map(runs, pids)):
        time.sleep(0.0002)


def wait_for_restore(place: Path, pids: list[int]) -> Blow:
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
    return Blow("ranks")


def runs(pid: int) -> bool:
    """The child has not ended (and stays to be waited for)."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def judge(
    place: Path, number: int, expected: CheckpointName, victim: str, tally: Tally
) -> dict[bool, CheckpointName]:
    """Compare what this round restored with what was there; returns the newest reports that must hold, by "in memory"."""
    promised, source, restored_text = {True: NOTHING, False: NOTHING}, NOTHING, ""
    for record in read(place):
        kind, step, tier = record["kind"], int(record["step"]), record.get("tier", "")
        if kind == "checkpoint.restored":
            source = parse_name(record["checkpoint"]) or NOTHING
            restored_text = record["text"]
            tally.sources[record["tiers"]] += 1
        elif kind == "restored":
            tally.restored += step > 0
            if source < expected:
                tally.lost += 1
                tally.problems.append(f"round {number}: {expected} was there, {source} was restored: {restored_text}")
        elif kind == SAVED:
            tally.saved[tier] += 1
            if tier in SURVIVORS[victim]:
                in_memory = tier != "shared"
                promised[in_memory] = max(promised[in_memory], CheckpointName(number, step))
        elif kind == "corrupt" or (kind == "checkpoint.skipped" and "damage" in record["text"]):
            tally.corrupt += 1
            tally.problems.append(f"round {number}: {kind} {record['text']}")
        tally.passed_over += kind == "checkpoint.skipped"
    halves = half_ones(place)
    tally.corrupt += len(halves)
    tally.problems += [f"round {number}: {text}" for text in halves] + failures(place, number)
    (place / "reports").unlink(missing_ok=True)
    return promised


def half_ones(place: Path) -> list[str]:
    """Checkpoints that have a commit record and are not whole, whether or not a restore would come to them."""
    from hpctrain.checkpoint.catalogue import verify
    from hpctrain.checkpoint.tier_shared import SharedTier

    tier, found = SharedTier(place / "checkpoints"), []
    for name in tier.checkpoints(committed=True):
        problems = verify(tier, name).problems
        # The writers go on while we look: what they have pruned meanwhile is no half one.
        if problems and name in tier.checkpoints(committed=True):
            found += [f"{name}: {problem}" for problem in verify(tier, name).problems]
    return found


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


def table(tally: Tally) -> str:
    """For people, and for docs/benchmarks.md."""
    rows = {f"starts of {RANKS} ranks ended by SIGKILL": tally.rounds, "ranks killed": tally.kills}
    rows |= {f"first killed: {victim}": tally.victims[victim] for victim in VICTIMS}
    rows |= {f"killed during {phase}": tally.phases[phase] for phase in PHASES if phase != "prune"}
    rows |= {f"saves reported: {tier}": count for tier, count in sorted(tally.saved.items())}
    rows |= {"starts that restored one": tally.restored}
    rows |= {f"restored from {tier}": count for tier, count in sorted(tally.sources.items())}
    rows |= {"checkpoints passed over": tally.passed_over, "checkpoints lost": tally.lost, "corrupt restores": tally.corrupt}
    return "\n".join(["| what | count |", "|---|---:|", *(f"| {what} | {count} |" for what, count in rows.items())])


def main(arguments: list[str]) -> int:
    """Run the campaign and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help="50 rounds")
    parser.add_argument("--kills", type=int, default=1000, help="rounds, each ended by SIGKILL")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    rounds = 50 if options.short else options.kills
    place = Path(tempfile.mkdtemp(prefix="hpctrain-campaign-"))
    begun = time.monotonic()
    print(machine() + "\n", flush=True)
    nodes = Nodes(place / "keeper.secret", NODES)
    try:
        tally = play(place, nodes, rounds, random.Random(options.seed))
    finally:
        nodes.stop()
        shutil.rmtree(place, ignore_errors=True)
    print(table(tally) + f"\n\nSeed {options.seed}, {time.monotonic() - begun:.0f} s.")
    for problem in tally.problems:
        print(problem)
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
