"""Real trainers on 4 ranks, started and killed at will."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.recipe.schema import Recipe

RANKS = 4


def make_recipe(**overrides: Any) -> dict[str, Any]:
    """A tiny but whole recipe, as the trainer reads it; ``training__steps=3`` sets one value deep inside."""
    values: dict[str, Any] = {
        "version": 1, "name": "tiny", "method": "pretrain",
        "model": {"config": {
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "attention_dropout": 0.1,
        }},
        "data": {"source": "python-docs", "sequence_length": 32},
        "training": {"global_batch_size": 16, "micro_batch_size": 2, "steps": 12, "precision": "fp32",
                     "schedule": {"warmup_steps": 2}, "optimizer": {"learning_rate": 3e-3}},
        "checkpoint": {"every_steps": 3},
    }
    for path, value in overrides.items():
        place, (*parents, last) = values, path.split("__")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return Recipe.model_validate(values).model_dump(mode="json")


class Start:
    """One start of all ranks of a run."""

    def __init__(self, server: WarmRanks, run_dir: Path, pids: list[int]) -> None:
        self._server, self.run_dir, self.pids = server, run_dir, pids

    def beat(self, rank: int = 0) -> dict[str, Any]:
        """A rank's newest heartbeat; empty before the first one or while it is overwritten."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.run_dir / f"beat-{rank}").read_bytes()))
        return {}

    def wait_until(self, condition: Callable[[dict[str, Any]], bool], rank: int = 0, timeout_s: float = 60) -> None:
        """Wait for a heartbeat that fulfils a condition."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.beat(rank)):
            assert time.monotonic() < deadline, f"never came: last beat {self.beat(rank)}\n{logs(self.run_dir)}"
            time.sleep(0.0005)

    def kill(self, *ranks: int) -> None:
        """SIGKILL these ranks, or all."""
        for rank in ranks or range(len(self.pids)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[rank], signal.SIGKILL)

    def wait(self) -> list[int]:
        """Exit codes by rank."""
        codes: list[int] = self._server.read()["codes"]
        return codes


class WarmRanks:
    """The process that forks ranks; see warm_ranks.py."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": root}
        program = str(Path(__file__).with_name("warm_ranks.py"))
        self._process = process.start(
            [sys.executable, program], env=env, stdin=process.PIPE, stdout=process.PIPE, new_session=True
        )
        assert self.read() == {"ready": True}

    def start(
        self, run_dir: Path, recipe: dict[str, Any], ranks: int = RANKS, *, target: str = "hpctrain.train.__main__:main",
        modules: tuple[str, ...] = (), **env: str,
    ) -> Start:
        """Start all ranks; the run directory is made if need be.

        Args:
            modules: imported before the ranks are forked.
        """
        run_dir.mkdir(mode=0o700, exist_ok=True)
        (run_dir / "recipe.resolved.json").write_text(json.dumps(recipe))
        for beat in run_dir.glob("beat-*"):
            beat.unlink()
        shared = {
            "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()), "HPCTRAIN_RUN_DIR": str(run_dir), "HPCTRAIN_NODE": "n1",
            "HPCTRAIN_STOP_FILE": str(run_dir / "stop"), "HPCTRAIN_DEVICE": "cpu", "GLOO_SOCKET_IFNAME": "lo", **env,
        }
        each = [
            {"log": str(run_dir / f"log-{rank}"), "env": {
                **shared, "RANK": str(rank), "LOCAL_RANK": str(rank),
                "HPCTRAIN_HEARTBEAT_FILE": str(run_dir / f"beat-{rank}"),
                "TORCHELASTIC_ERROR_FILE": str(run_dir / f"error-{rank}.json"),
            }}
            for rank in range(ranks)
        ]
        assert self._process.stdin is not None
        request = {"target": target, "args": [], "ranks": each, "import": modules}
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        self._process.stdin.flush()
        return Start(self, run_dir, self.read()["pids"])

    def finish(self, run_dir: Path, recipe: dict[str, Any], ranks: int = RANKS, **env: Any) -> list[int]:
        """Start all ranks and wait for their end."""
        return self.start(run_dir, recipe, ranks, **env).wait()

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        process.kill_group(self._process)
        self._process.wait()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def logs(run_dir: Path) -> str:
    """What the ranks printed, for a failed assertion."""
    return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(run_dir.glob("log-*")))


def final_weights(run_dir: Path) -> bytes:
    """All bytes of the final model's weights."""
    return b"".join(path.read_bytes() for path in sorted((run_dir / "model").glob("*.safetensors")))


def metric_lines(run_dir: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines() if line]


def event_kinds(run_dir: Path) -> list[str]:
    """Kinds of all events, in order."""
    lines = [line for path in (run_dir / "events").glob("*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line)["kind"] for line in lines]
