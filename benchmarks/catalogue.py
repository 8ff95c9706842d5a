"""Each architecture of the catalogue with each method, at toy width on CPUs, killed in the middle (entry point).

    python benchmarks/catalogue.py [--short] [--only WORD]

For every model_type of recipes/families.toml a model with the architecture's parts (experts, latent attention, ...) and a
width of 32 is made with random weights. Each method trains it for a few steps twice: once undisturbed, once with a SIGKILL
after a step and a second start that resumes. The table says whether both end with the same bytes. The judge and the teacher
are a server of a few lines on the loopback address; the reward model is what the reward run of the same architecture left.

Ranks are forked from one process that has imported everything and computed nothing, as hpctrain's warm process does.
--short takes each architecture once and each method at least once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402
from hpctrain.recipe.schema import Recipe  # noqa: E402
from hpctrain.recipe.tables import tables  # noqa: E402

STEPS, KILL_AT, VOCABULARY = 4, 2, 258
KEY = "HPCTRAIN_BENCHMARK_KEY"
PATIENCE_S = 240.0
_Sections = Mapping[str, Any]

TOY: Mapping[str, int] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 257,
}
PARTS: Mapping[str, Mapping[str, Any]] = {
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 2},
    "mixtral": {"num_local_experts": 4}, "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {"head_dim": 8}, "gemma2": {"head_dim": 8}, "gemma3_text": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1,
                    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16,
                    "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
}
"""What an architecture has besides, small."""
_NAMED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def kinds() -> list[str]:
    """The architectures of the table, each once."""
    return list(dict.fromkeys(str(model.config["model_type"]) for model in tables().models.values()))


def methods(url: Mapping[str, str], base: Path, reward: Path) -> dict[str, _Sections]:
    """Sections of a recipe by the name of a column.

    Args:
        url: of the judge and the teacher.
        base: the model's own directory.
        reward: where the reward run of the same architecture has left its model.
    """
    questions = {"source": "docstring-questions", "sequence_length": 160, "rows": 64}
    sums = {"source": "arithmetic", "sequence_length": 96, "rows": 64}
    prompts = {**questions, "format": "prompts"}
    answers = {"completions_per_prompt": 2, "max_new_tokens": 8, "engine": "transformers"}
    nowhere = "http://127.0.0.1:9/v1"
    ask = {role: {"url": url.get(role, nowhere), "model": role, "api_key_env": KEY} for role in ("judge", "arithmetic")}
    lora = {"kind": "lora", "rank": 4, "alpha": 8}
    return {
        "cpt": {"method": "cpt", "data": {"source": "python-docs", "sequence_length": 64}},
        "sft": {"method": "sft", "data": questions},
        "sft lora": {"method": "sft", "data": questions, "adapter": lora},
        "sft dora": {"method": "sft", "data": questions, "adapter": {**lora, "kind": "dora"}},
        "dpo": {"method": "dpo", "data": questions},
        "dpo lora": {"method": "dpo", "data": questions, "adapter": lora},
        "reward": {"method": "reward", "data": questions},
        "rlvr": {"method": "rlvr", "data": sums, "generation": answers, "rewards": [{"kind": "math"}]},
        "rlvr lora": {"method": "rlvr", "data": sums, "generation": answers, "rewards": [{"kind": "math"}], "adapter": lora},
        "rlaif": {"method": "rlaif", "data": {**sums, "format": "prompts"}, "generation": answers, "judge": ask["judge"]},
        "rlhf": {"method": "rlhf", "data": prompts, "generation": {**answers, "algorithm": "rloo"},
                 "rewards": [{"kind": "model", "path": str(reward)}]},
        "distill, endpoint": {"method": "distill", "data": {**sums, "format": "prompts"},
                              "teacher": {"endpoint": ask["arithmetic"]}},
        "distill, local": {"method": "distill", "data": prompts, "teacher": {"path": str(base)}},
    }


def recipe(kind: str, sections: _Sections, base: Path) -> dict[str, Any]:
    """A whole recipe, as the trainer reads it."""
    values = {
        "version": 1, "name": "toy", "model": {"path": str(base)},
        "training": {"steps": STEPS, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32",
                     "optimizer": {"learning_rate": 1e-3}, "schedule": {"warmup_steps": 1}},
        "checkpoint": {"every_steps": 1, "ram": {"enabled": False}}, **sections,
    }
    if "adapter" in values and kind == "llama4_text":
        values["adapter"] = {**values["adapter"], "target_modules": _NAMED}
    return Recipe.model_validate(values).model_dump(mode="json")


# ---------------------------------------------------------------- processes


def warm() -> None:
    """Import what ranks import. No tensor is touched, or forked ranks would hang."""
    import importlib

    for name in ("torch", "torch._dynamo", "torch.distributed.fsdp", "transformers", "peft", "trl", "accelerate", "datasets",
                 "hpctrain.train.__main__", "hpctrain.train.loop", "hpctrain.train.tune.run", "pydoc_data.topics"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


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


def kill_after(pid: int, beat: Path, step: int) -> bool:
    """SIGKILL a rank once it has completed a step; False if it ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found, _ = os.waitpid(pid, os.WNOHANG)
        if found:
            return False
        with contextlib.suppress(OSError, ValueError):
            if json.loads(beat.read_bytes()).get("step", 0) >= step:
                break
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


# ---------------------------------------------------------------- cells


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one architecture with one method.

    Attributes:
        verdict: ``same bytes``, ``resumed``, ``not killed`` or ``failed``.
        told: the last lines of what failed.
    """

    kind: str
    method: str
    verdict: str
    seconds: float
    told: str = ""


def make_base(kind: str, folder: Path) -> int:
    """A model with random weights and the tokenizer of bytes, as a run leaves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hpctrain.train.byte_tokenizer import byte_tokenizer

    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **{**TOY, **PARTS.get(kind, {})})
    kind_of_model: Any = AutoModelForCausalLM
    kind_of_model.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return 0


def weights(run_dir: Path) -> bytes:
    """All bytes of the final model's weights."""
    return b"".join(path.read_bytes() for path in sorted((run_dir / "model").glob("*.safetensors")))


def run_cell(kind: str, method: str, values: Mapping[str, Any], place: Path, key: str) -> Cell:
    """Train undisturbed and disturbed, and compare."""
    begun = time.monotonic()
    name = f"{kind}-{method.replace(' ', '-').replace(',', '')}"
    calm, stormy = place / f"{name}-calm", place / f"{name}-stormy"
    calm_pid = start(calm, values, key)
    killed = kill_after(start(stormy, values, key), stormy / "beat", KILL_AT)
    code = ended(start(stormy, values, key)) if killed else 0
    calm_code = ended(calm_pid)
    seconds = time.monotonic() - begun
    for run_dir, found in ((calm, calm_code), (stormy, code)):
        if found or not weights(run_dir):
            return Cell(kind, method, "failed", seconds, f"exit code {found}\n{(run_dir / 'log').read_text()[-1500:]}")
    restored = any("checkpoint.restored" in path.read_text() for path in (stormy / "events").glob("*.jsonl"))
    verdict = "not killed" if not killed else "failed" if not restored else (
        "same bytes" if weights(calm) == weights(stormy) else "resumed")
    return Cell(kind, method, verdict, seconds, "" if restored or not killed else "the second start restored nothing")


@contextlib.contextmanager
def servers(place: Path, key: str) -> Iterator[dict[str, str]]:
    """The judge and the teacher; their URLs by name."""
    started, urls = [], {}
    try:
        for name in ("judge", "arithmetic"):
            ready = place / f"{name}.json"
            command = [sys.executable, "-m", "hpctrain.testing.openai_server", "--scripted", name, "--name", name,
                       "--key-env", KEY, "--ready-file", str(ready)]
            started.append(process.start(command, env={**os.environ, KEY: key}, stdout=process.DEVNULL, new_session=True))
            deadline = time.monotonic() + 60
            while not ready.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            urls[name] = json.loads(ready.read_text())["url"]
        yield urls
    finally:
        for server in started:
            process.kill_group(server)
            server.wait()


def wanted(short: bool, only: str, columns: list[str]) -> list[tuple[str, str]]:
    """The cells, row by row."""
    found = kinds()
    if short:
        rows = [(found[index % len(found)], column) for index, column in enumerate(columns)]
        trained = next(kind for kind, column in rows if column == "reward")  # its model marks the answers of rlhf
        return [(trained if column == "rlhf" else kind, column) for kind, column in rows]
    return [(kind, column) for kind in found for column in columns
            if only in f"{kind} {column}" or (column == "reward" and only in f"{kind} rlhf")]


def table(cells: list[Cell], columns: list[str]) -> str:
    """The cells as a Markdown table, architectures down and methods across."""
    by_place = {(cell.kind, cell.method): cell.verdict for cell in cells}
    head = [f"| architecture | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    return "\n".join([*head, *(
        f"| `{kind}` | {' | '.join(by_place.get((kind, column), '') for column in columns)} |"
        for kind in dict.fromkeys(cell.kind for cell in cells))])


def main(arguments: list[str]) -> int:
    """Run all cells, print the table and what failed; exit code 1 if something did."""
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"})
    only = arguments[arguments.index("--only") + 1] if "--only" in arguments else ""
    place, key, begun = Path(tempfile.mkdtemp(prefix="hpct-catalogue-")), secrets.token_urlsafe(), time.monotonic()
    print(machine() + "\n", flush=True)
    try:
        with servers(place, key) as urls:
            warm()
            columns = list(methods(urls, place, place))
            cells: list[Cell] = []
            pairs = wanted("--short" in arguments, only, columns)
            for kind in dict.fromkeys(kind for kind, _ in pairs):
                base = place / kind
                if ended(forked(partial(make_base, kind, base), place / f"{kind}.log")):
                    print((place / f"{kind}.log").read_text()[-2000:], file=sys.stderr)
                    return 1
            for kind, method in pairs:
                base = place / kind
                sections = methods(urls, base, place / f"{kind}-reward-calm" / "model")[method]
                cell = run_cell(kind, method, recipe(kind, sections, base), place, key)
                print(f"{cell.kind} {cell.method}: {cell.verdict}, {cell.seconds:.1f} s", file=sys.stderr, flush=True)
                cells.append(cell)
        print(table(cells, columns))
        failed = [cell for cell in cells if cell.verdict == "failed"]
        same = sum(cell.verdict == "same bytes" for cell in cells)
        print(f"\n{len(cells)} runs killed and resumed, {same} with the same bytes, {len(failed)} failed; "
              f"{time.monotonic() - begun:.0f} s.")
        for cell in failed:
            print(f"\n{cell.kind} {cell.method}: {cell.told}", file=sys.stderr)
        return 1 if failed else 0
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
