"""What each method makes of a small model: held-out measures before and after, one recipe after the other (entry point).

    python benchmarks/methods.py [--short] [--only NAME,NAME] [--keep DIRECTORY]

The recipes are those of docs/examples, run as a user runs them (``hpctrain run``, on a private cluster where there is no
Slurm); the measures are those of the recipes' ``evaluate:``, on rows that were kept out of training. Teacher and judge are
hpctrain's own small server on the loopback address, which computes sums. --keep runs in a directory that stays, and goes on
there after an interruption: a recipe that has finished is not run again. --short takes 4 steps of each, which says only
that all of it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402

HEAD = ("recipe", "method", "measure", "rows", "before", "after", "change", "wall")
SERVERS: Mapping[str, tuple[str, int, str]] = {
    "distill": ("arithmetic", 8123, "TEACHER_KEY"), "sums-rlaif": ("judge", 8124, "JUDGE_KEY"),
}
"""What must answer while a recipe runs: its script, port and the variable with its key, as the recipe names them."""
RECIPES: Mapping[str, str] = {
    "base": "methods/base.yaml", "cpt": "methods/cpt.yaml", "sft": "methods/sft.yaml", "sft-lora": "methods/sft_lora.yaml",
    "sft-dora": "methods/sft_dora.yaml", "dpo": "methods/dpo.yaml", "reward": "methods/reward.yaml",
    "distill": "methods/distill.yaml", "distill-local": "methods/distill_local.yaml",
    "rlvr": "reinforcement/rlvr.yaml", "rlhf": "reinforcement/rlhf.yaml",
    "sums-sft": "reinforcement/sums_sft.yaml", "sums-rlvr": "reinforcement/sums_rlvr.yaml",
    "sums-rlaif": "reinforcement/sums_rlaif.yaml",
}
"""By name, in an order in which each finds the models that it starts from."""
LONGEST_S = 3600.0


_Line = tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Run the recipes and print the table."""
    words = list(arguments)
    only = words[words.index("--only") + 1].split(",") if "--only" in words else list(RECIPES)
    kept = Path(words[words.index("--keep") + 1]).absolute() if "--keep" in words else None
    place = kept or Path(tempfile.mkdtemp(prefix="hpct-methods-"))
    place.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended on the way out
    print(machine() + "\n")
    lines: list[_Line] = []
    try:
        for name in (name for name in RECIPES if name in only):
            run = finished(name, place) or once(name, place, short="--short" in words)
            lines += measured(name, run)
            print(table(measured(name, run)).splitlines()[2], file=sys.stderr)
    finally:
        print(table(lines))
        if kept is None:
            shutil.rmtree(place, ignore_errors=True)
    return 0


def finished(name: str, place: Path) -> Path | None:
    """The newest run of a recipe that has left its model, and been measured where it is to be."""
    for run in sorted((place / "runs").glob(f"{name}-[0-9]*"), reverse=True):
        if (run / "model").is_dir() and (name == "base" or (run / "evaluation.json").is_file()):
            return run
    return None


def once(name: str, place: Path, *, short: bool) -> Path:
    """Run one recipe to its end."""
    sets = ["--set", "training.steps=4", "--set", "training.schedule.warmup_steps=1"] if short else []
    hpctrain = str(Path(sys.executable).with_name("hpctrain"))
    argv = [hpctrain, "run", str(ROOT / "docs/examples" / RECIPES[name]), *sets]
    keys = {key: secrets.token_urlsafe() for _, _, key in SERVERS.values()}
    env = {**os.environ, "HPCTRAIN_RUNS_DIR": str(place / "runs"), **keys}
    started = time.time()
    with server(name, env), (place / f"{name}.log").open("w") as log:
        child = process.start(argv, env=env, cwd=str(place), stdout=log, stderr=log)
        code = child.wait(timeout=LONGEST_S)
    run = finished(name, place)
    if code != 0 or run is None:
        sys.exit(f"{' '.join(argv)} ended with {code}:\n{(place / f'{name}.log').read_text()[-4000:]}")
    (run / "benchmark_wall_s").write_text(str(time.time() - started))
    return run


@contextlib.contextmanager
def server(name: str, env: Mapping[str, str]) -> Iterator[None]:
    """What a recipe's teacher or judge is, where it has one."""
    if name not in SERVERS:
        yield
        return
    script, port, key = SERVERS[name]
    options = ["--scripted", script, "--key-env", key, "--port", str(port)]
    child = process.start([sys.executable, "-m", "hpctrain.testing.openai_server", *options], env=env, cwd="/")
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield
    finally:
        process.kill_group(child)
        child.wait(timeout=20)


def measured(name: str, run: Path) -> list[_Line]:
    """A line for each measure of a run: the value before, after, and the difference."""
    recipe = json.loads((run / "recipe.resolved.json").read_text())
    try:
        wall_s = float((run / "benchmark_wall_s").read_text())
    except OSError:
        wall_s = 0.0
    wall = f"{wall_s / 60:.1f} min" if wall_s else "-"
    if not (run / "evaluation.json").is_file():
        return [(name, recipe["method"], *["-"] * 5, wall)]
    document = json.loads((run / "evaluation.json").read_text())
    values: dict[str, dict[str, dict[str, Any]]] = {}
    for model in document["models"]:
        for suite in model["suites"]:
            for measure in suite["measures"]:
                of = "" if suite["name"] == suite["kind"] else f" ({suite['name']})"
                found = values.setdefault(measure["name"] + of, {})
                found[model["label"]] = {**measure, "rows": suite["rows"]}
    lines: list[_Line] = []
    for measure, by_label in values.items():
        before, after = by_label.get("before"), by_label.get("after")
        if after is None:
            continue  # a reward model has no likelihoods
        change = f"{after['value'] - before['value']:+.3g}" if before else "-"
        lines.append((name, recipe["method"], measure, str(after["rows"]), _value(before), _value(after), change, wall))
    return lines


def table(lines: Sequence[_Line]) -> str:
    """All lines as Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _value(measure: Mapping[str, Any] | None) -> str:
    if measure is None:
        return "-"
    error = measure.get("error")
    return f"{measure['value']:.4g}" + (f" ± {error:.2g}" if error else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
