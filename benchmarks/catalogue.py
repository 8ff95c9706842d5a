"""Each architecture of the catalogue with each method, at toy width on CPUs, killed in the middle (entry point).

    python benchmarks/catalogue.py [--short | --sample] [--only WORD] [--jobs N] [--results FILE] [--seed N]

For every model_type of recipes/families.toml a model with the architecture's parts (experts, latent attention, ...) and a
width of 32 is made with random weights. Each method trains it for a few steps twice: once undisturbed, once with a SIGKILL
at a random moment after a random step and a second start that resumes. The table says how long all of that took, or what
was not as it should be: a number stands for weights with the same bytes. The judge and the teacher are a server of a few
lines on the loopback address; the reward model is what the reward run of the same architecture left.

Ranks are forked from one process that has imported everything and computed nothing, as hpctrain's warm process does.
--short takes each architecture and each row of the table, --sample each family and each of the recipes' methods.
--results writes each result at once, as a line of JSON; what is there and did not fail is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from catalogue_toys import (  # noqa: E402 - the path is set above
    KEY,
    SERVERS,
    STEPS,
    impossible,
    kinds,
    make_base,
    methods,
    recipe,
    write_rows,
)
from measure import machine  # noqa: E402

from hpctrain import process  # noqa: E402
from hpctrain.recipe.check_method import NO_REWARD_MODEL  # noqa: E402

PATIENCE_S = 240.0
SAMPLE = {
    "llama": "cpt", "qwen3": "sft, lora", "deepseek_v3": "dpo", "mistral": "reward", "gpt_oss": "rlvr", "gemma2": "rlaif",
    "qwen2": "rlhf", "llama4_text": "distill, lora",
}
"""An architecture of each family, and each method of the recipes."""
OTHERS = ("hpctrain.train.__main__", "hpctrain.train.tune.distill_trainer", "pydoc_data.topics")
"""What some recipes need besides, imported beforehand."""
Pair = tuple[str, str]
"""An architecture and a row of the table."""


def warm(architectures: Sequence[str]) -> None:
    """Import what ranks import. No tensor is touched, or forked ranks would hang."""
    import gc
    import importlib

    from hpctrain.train.preload import MODULES, TUNING_MODULES

    names = [kind.removesuffix("_text") for kind in architectures]
    modules = [f"transformers.models.{name}.modeling_{name}" for name in names]
    modules += [name for names in TUNING_MODULES.values() for name in names]
    for name in (*MODULES, *modules, "peft", "peft.tuners.lora", *OTHERS):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def forked(work: Callable[[], int], log: Path, env: Mapping[str, str] | None = None) -> int:
    """Start a function in a process of its own; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(env or {})
        code = work()
    except BaseException:  # noqa: BLE001 - this process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, timeout_s: float = PATIENCE_S) -> int:
    """Exit code of a process, negative for a signal; one that does not end is killed."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999


def start(run_dir: Path, values: Mapping[str, Any], key: str) -> int:
    """Start the only rank of a run."""
    run_dir.mkdir(mode=0o700, exist_ok=True)
    (run_dir / "recipe.resolved.json").write_text(json.dumps(values))
    (run_dir / "beat").unlink(missing_ok=True)
    env = {
        "HPCTRAIN_RUN_DIR": str(run_dir), "HPCTRAIN_DEVICE": "cpu", "HPCTRAIN_NODE": "n1",
        "HPCTRAIN_HEARTBEAT_FILE": str(run_dir / "beat"),
        "HPCTRAIN_STOP_FILE": str(run_dir / "stop"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", KEY: key,
    }

    def work() -> int:
        from hpctrain.train.__main__ import main as train

        sys.argv = ["train"]
        return int(train([]))

    return forked(work, run_dir / "log", env)


def kill_after(pid: int, beat: Path, step: int, later_s: float) -> bool:
    """SIGKILL a rank so long after it has completed a step; False if it ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found, _ = os.waitpid(pid, os.WNOHANG)
        if found:
            return False
        with contextlib.suppress(OSError, ValueError):
            if json.loads(beat.read_bytes()).get("step", 0) >= step:
                time.sleep(later_s)
                break
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 0


# ---------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one architecture with one method.

    Attributes:
        verdict: ``same bytes``, ``resumed``, ``not killed``, ``failed``, or ``none`` where the libraries cannot do it.
        seconds: of the run that was not killed and, at the same time, of the one that was, with its second start.
        killed: after which step.
        told: why it failed, or is none.
    """

    kind: str
    method: str
    verdict: str
    seconds: float
    killed: int = 0
    told: str = ""


def weights(run_dir: Path) -> bytes:
    """All bytes of the final model's weights."""
    return b"".join(path.read_bytes() for path in sorted((run_dir / "model").glob("*.safetensors")))


def learned(run_dir: Path) -> bool:
    """Whether every step is there and some had a gradient: a run that changes nothing is easily the same twice."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"] for line in lines} == set(range(1, STEPS + 1)) and any(line["grad_norm"] > 0 for line in lines)


@contextlib.contextmanager
def servers(place: Path, key: str) -> Iterator[dict[str, str]]:
    """The judge and the teacher; their URLs by name."""
    started, urls = [], {}
    try:
        for name in SERVERS:
            command = [sys.executable, "-m", "hpctrain.testing.openai_server", "--scripted", name, "--name", name,
                       "--key-env", KEY, "--ready-file", str(place / f"{name}.json")]
            started.append(process.start(command, env={**os.environ, KEY: key}, stdout=process.DEVNULL, new_session=True))
        for name in SERVERS:
            ready, deadline = place / f"{name}.json", time.monotonic() + 60
            while not ready.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            urls[name] = json.loads(ready.read_text())["url"]
        yield urls
    finally:
        for server in started:
            process.kill_group(server)
            server.wait()


def wanted(options: argparse.Namespace, rows: Sequence[str]) -> list[Pair]:
    """The cells of the table."""
    every = list(kinds())
    if options.sample:
        return list(SAMPLE.items())
    if options.short:
        return [(every[index % len(every)], row) for index, row in enumerate(rows)]
    return [(kind, row) for kind in every for row in rows if options.only in f"{kind} {row}"]


def groups_of(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """What one process does one after the other: rlhf after the reward run of its architecture, or of any."""
    trained = [kind for kind, method in pairs if method == "reward" and kind not in NO_REWARD_MODEL]
    after_reward = {kind: [(kind, "reward")] for kind in trained}
    first = [(kind, "reward") for kind in trained]
    alone = [[pair] for pair in pairs if not pair[1].startswith("rlhf") and pair not in first]
    for kind, method in pairs:
        if method.startswith("rlhf"):
            own = "llama" if kind in NO_REWARD_MODEL else kind
            home = trained[0] if trained and own not in trained else own
            after_reward.setdefault(home, [(home, "reward")]).append((kind, method))
    return [*after_reward.values(), *alone]


def table(cells: Sequence[Cell], rows: Sequence[str]) -> str:
    """The cells as a Markdown table, methods down and architectures across: seconds, or what was not the same."""
    across = [kind for kind in kinds() if any(cell.kind == kind for cell in cells)]
    by_place = {(cell.kind, cell.method): {"same bytes": f"{cell.seconds:.1f}", "none": "-"}.get(cell.verdict, cell.verdict)
                for cell in cells}
    head = [f"| method | {' | '.join(f'`{kind}`' for kind in across)} |", f"|---|{'---:|' * len(across)}"]
    return "\n".join([*head, *(
        f"| {row} | {' | '.join(by_place.get((kind, row), '') for kind in across)} |"
        for row in rows if any(cell.method == row for cell in cells))])


def summary(cells: Sequence[Cell]) -> str:
    """How many of each verdict."""
    count = Counter(cell.verdict for cell in cells)
    runs = len(cells) - count["none"] - count["not killed"]
    return (f"{runs} runs killed and resumed, {count['same bytes']} with the same bytes, {count['failed']} failed"
            + "".join(f", {count[verdict]} {verdict}" for verdict in ("not killed", "none") if count[verdict]))


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells share."""

    place: Path
    urls: Mapping[str, str]
    key: str
    seed: int
    results: Path

    def run_cell(self, pair: Pair, values: Mapping[str, Any], chance: random.Random) -> Cell:
        """Train undisturbed and disturbed, and compare."""
        begun, name = time.monotonic(), "-".join(pair).replace(" ", "-").replace(",", "")
        calm, stormy = self.place / f"{name}-calm", self.place / f"{name}-stormy"
        step = chance.randint(2, STEPS - 1)  # the checkpoint of the step before is complete then
        calm_pid = start(calm, values, self.key)
        killed = kill_after(start(stormy, values, self.key), stormy / "beat", step, chance.uniform(0, 0.05))
        code = ended(start(stormy, values, self.key)) if killed else 0
        calm_code = ended(calm_pid)
        found = partial(Cell, *pair, seconds=round(time.monotonic() - begun, 1), killed=step)
        for run_dir, exit_code in ((calm, calm_code), (stormy, code)):
            if exit_code or not weights(run_dir):
                return found("failed", told=f"exit code {exit_code}\n{(run_dir / 'log').read_text()[-1500:]}")
        if not learned(calm):
            return found("failed", told="no step had a gradient, or some step is missing")
        if not killed:
            shutil.rmtree(calm)
            shutil.rmtree(stormy)
            return found("not killed")
        if not any("checkpoint.restored" in path.read_text() for path in (stormy / "events").glob("*.jsonl")):
            return found("failed", told="the second start restored nothing")
        return found("same bytes" if weights(calm) == weights(stormy) else "resumed")

    def run_group(self, group: Sequence[Pair]) -> None:
        """Run cells one after the other, and write each result at once."""
        reward = self.place
        for kind, method in group:
            base, chance = self.place / kind, random.Random(f"{self.seed} {kind} {method}")
            values = recipe(kind, methods(self.urls, self.place, base, reward)[method], base)
            why = impossible(kind, values)
            cell = Cell(kind, method, "none", 0.0, told=why)
            for _ in range(0 if why else 3):  # one that was too quick for its end is run again
                cell = self.run_cell((kind, method), values, chance)
                if cell.verdict != "not killed":
                    break
            if method == "reward":
                reward = self.place / f"{kind}-reward-calm" / "model"
            with self.results.open("a") as file:
                file.write(json.dumps(asdict(cell)) + "\n")

    def run(self, groups: Sequence[Sequence[Pair]], jobs: int) -> bool:
        """Run the groups in some processes, each of which takes the next that nobody has taken; whether all ended well."""
        tickets, fill = os.pipe()
        os.write(fill, bytes(range(len(groups))))  # a pipe gives each byte to one reader
        os.close(fill)

        def work() -> int:
            while ticket := os.read(tickets, 1):
                self.run_group(groups[ticket[0]])
            return 0

        logs = [self.place / f"worker{number}.log" for number in range(jobs)]
        codes = [ended(pid, PATIENCE_S * len(groups)) for pid in [forked(work, log) for log in logs]]
        os.close(tickets)
        for log in logs:
            sys.stderr.write(log.read_text()[-2000:])
        return not any(codes)


def read_cells(results: Path) -> dict[Pair, Cell]:
    """The latest result of each cell."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {(cell.kind, cell.method): cell for cell in (Cell(**json.loads(line)) for line in lines)}


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kill and resume each architecture of the catalogue with each method.")
    few = parser.add_mutually_exclusive_group()
    few.add_argument("--short", action="store_true", help="each architecture and each row at least once")
    few.add_argument("--sample", action="store_true", help="each family and each method of the recipes once")
    parser.add_argument("--only", default="", metavar="WORD", help="cells with this in 'ARCHITECTURE COLUMN'")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep each result here, and go on where it ends")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N", help="of the moments of death")
    return parser.parse_args(words)


def run_missing(options: argparse.Namespace, place: Path, pairs: Sequence[Pair], results: Path) -> bool:
    """Run what has no result yet; whether that went well."""
    known = {pair for pair, cell in read_cells(results).items() if cell.verdict != "failed"}
    groups = groups_of([pair for pair in pairs if pair not in known])
    architectures = list(dict.fromkeys(kind for group in groups for kind, _ in group))
    if not groups:
        return True
    key = secrets.token_urlsafe()
    with servers(place, key) as urls:
        warm(architectures)
        write_rows(place)
        for kind in architectures:
            if ended(forked(partial(make_base, kind, place / kind), place / f"{kind}.log")):
                print((place / f"{kind}.log").read_text()[-2000:], file=sys.stderr)
                return False
        return Bench(place, urls, key, options.seed, results).run(groups, options.jobs)


def main(words: Sequence[str]) -> int:
    """Run all cells, print the table and what failed; exit code 1 if something did."""
    options, begun = arguments_of(words), time.monotonic()
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"})
    place = Path(tempfile.mkdtemp(prefix="hpct-catalogue-"))
    rows = list(methods({}, place, place, place))
    pairs, results = wanted(options, rows), options.results or place / "results.jsonl"
    print(f"{machine()}; seed {options.seed}\n", flush=True)
    try:
        well = run_missing(options, place, pairs, results)
        found = read_cells(results)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    cells = [found[pair] for pair in pairs if pair in found]
    print(table(cells, rows))
    print(f"\n{summary(cells)}; {time.monotonic() - begun:.0f} s.")
    for cell in cells:
        if cell.told:
            print(f"\n{cell.kind} {cell.method}: {cell.told}", file=sys.stdout if cell.verdict == "none" else sys.stderr)
    return 0 if well and len(cells) == len(pairs) and not any(cell.verdict == "failed" for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
