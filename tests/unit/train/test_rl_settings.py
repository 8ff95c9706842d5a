"""What a recipe's generation section becomes in trl, and who writes the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from hpctrain.errors import EndpointError, MissingDependencyError, UnreachableError
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.ids import JobId
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.recipe.schema_method import Generation
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.tune import rl_engine
from hpctrain.train.tune.rl_arguments import VARIANTS, config_arguments
from hpctrain.train.tune.rl_engine import generation_arguments
from hpctrain.train.tune.rl_samples import SampleLog

pytest.importorskip("trl")


def context(**generation: Any) -> Any:
    """As much of a context as these questions need: one rank on a CPU."""
    return SimpleNamespace(recipe=SimpleNamespace(generation=Generation(**generation)), mesh=None,
                           place=SimpleNamespace(device=SimpleNamespace(type="cpu")))


@pytest.mark.parametrize("algorithm", get_args(Generation.model_fields["algorithm"].annotation))
def test_trl_knows_every_argument(algorithm: str) -> None:
    """Each algorithm of the schema has its arguments, and trl's configuration has fields of these names."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.rloo_config import RLOOConfig

    known = {field.name for field in fields(RLOOConfig if algorithm == "rloo" else GRPOConfig)}
    given = {*config_arguments(Generation(algorithm=algorithm)), "use_vllm", "vllm_mode", "vllm_server_base_url",  # type: ignore[arg-type]
             "vllm_server_timeout", "vllm_gpu_memory_utilization", "vllm_max_model_length", "reward_weights"}

    assert algorithm in VARIANTS
    assert given <= known


def test_on_cpus_transformers_writes() -> None:
    """Without a GPU ``auto`` means transformers, and vLLM is refused with what to do."""
    assert generation_arguments(context()) == {"use_vllm": False}
    for wanted in ({"engine": "vllm"}, {"placement": "separate", "server": "http://x:8000"}):
        with pytest.raises(MissingDependencyError, match="needs GPUs"):
            generation_arguments(context(**wanted))


class _Answering(BaseHTTPRequestHandler):
    """A server that is well."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def answering() -> Iterator[str]:
    """Its address."""
    with HTTPServer(("127.0.0.1", 0), _Answering) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_beside_the_run_is_found_where_it_moves_to(
    tmp_path: Path, answering: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The address that its run has written for this start of the ranks is tried until it answers, read anew each time; none
    in time is one error, and so is, at once, a server whose run has ended.
    """
    own, beats = RunDir(tmp_path / "run"), list[str]()
    make_private_dir(own.control)
    asked = context(placement="separate", server_gpus=1)
    asked.run_dir, asked.heartbeat = own, SimpleNamespace(beat=lambda _phase, detail: beats.append(detail))
    asked.environment = SimpleNamespace(incarnation=2)
    told = iter([(1, answering), (2, "http://127.0.0.1:9"), (2, answering)])

    def sleep(_seconds: float) -> None:
        incarnation, url = next(told)
        write_json_atomic(own.answers, {"url": url, "incarnation": incarnation})

    monkeypatch.setattr(rl_engine.time, "sleep", sleep)
    assert answering == rl_engine.find_server(asked)
    assert ["", "", " at http://127.0.0.1:9", f" at {answering}"] == [
        beat.removeprefix("waiting for the server of answers") for beat in beats]

    own.answers.unlink()
    monkeypatch.setattr(rl_engine, "SERVER_BESIDE_WAIT_S", -1.0)
    with pytest.raises(UnreachableError, match="has not said where it is") as caught:
        rl_engine.find_server(asked)
    assert "-answers" in caught.value.advice

    server = RunDir(tmp_path / "server")
    make_private_dir(server.events)
    events = EventWriter(server, "coordinator", "n1", FakeClock(), JobId(7))
    write_json_atomic(own.server, {"run_dir": str(server.path)})
    monkeypatch.setattr(rl_engine, "SERVER_BESIDE_WAIT_S", 100.0)
    events.write("job.started", "")
    events.write("job.failed", "vllm is not installed")
    with pytest.raises(EndpointError, match="has ended: vllm is not installed") as ended:
        rl_engine.find_server(asked)
    assert f"sbatch {server.path}/sbatch.sh && sbatch {own.path}/sbatch.sh" in ended.value.advice


def test_samples_hold_all_rewards_of_an_answer(tmp_path: Path) -> None:
    """A draw's first answers are written once, with every reward; only by the rank that speaks."""
    batch = Batch(["?", "?", "?"], ["a", "b", "c"])
    for speaks in (False, True):
        log = SampleLog(tmp_path / "completions.jsonl", ["one", "two"], speaks=speaks)
        log.add(3, "one", batch, [1.0, 0.0, 0.0])
        log.add(3, "two", batch, [None, 0.5, 0.0])

    assert (tmp_path / "completions.jsonl").read_text() == (
        '{"step": 3, "prompt": "?", "completion": "a", "rewards": {"one": 1.0, "two": null}}\n'
        '{"step": 3, "prompt": "?", "completion": "b", "rewards": {"one": 0.0, "two": 0.5}}\n')
