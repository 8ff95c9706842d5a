"""A checkpoint's model leaves as files that transformers reads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hpctrain.checkpoint.config import CheckpointConfig  # noqa: E402 - after the check that torch is there
from hpctrain.checkpoint.manager import Checkpointer  # noqa: E402
from hpctrain.cli.main import invoke  # noqa: E402
from hpctrain.testing.run_builder import RunBuilder  # noqa: E402
from tests.train.ranks import make_recipe  # noqa: E402


def make_model(*, tied: bool = False) -> Any:
    """A tiny Llama, as the tests' recipe describes it."""
    numbers = dict(make_recipe()["model"]["config"])
    numbers.pop("model_type")
    ends = {"bos_token_id": 256, "eos_token_id": 256}
    torch.manual_seed(3)
    config = transformers.LlamaConfig(vocab_size=258, tie_word_embeddings=tied, **ends, **numbers)
    return transformers.LlamaForCausalLM(config)


def saved(root: Path, model: Any) -> Path:
    """A directory of checkpoints with this model at step 3."""
    checkpointer = Checkpointer(CheckpointConfig(root))
    checkpointer.register(model=model)
    assert checkpointer.save_now("test", step=3).ok
    checkpointer.close()
    return root


def export(*words: object) -> int:
    """Exit code of the command."""
    return invoke(["checkpoints", "export", *map(str, words)])


def same(model: Any, folder: Path, dtype: Any = None) -> bool:
    """Transformers reads exactly this model from a directory."""
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs = loaded.state_dict()
    return all(torch.equal(value.to(dtype or value.dtype), theirs[name]) for name, value in model.state_dict().items())


def test_run_exports_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but RUN, STEP and DEST, transformers loads the same weights, in several files, with their types."""
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path))
    builder, model = RunBuilder(tmp_path, "tiny"), make_model()
    builder.dir.resolved_json.write_text(json.dumps(make_recipe()))
    saved(builder.dir.checkpoints, model)
    target = tmp_path / "out" / "model"

    assert 0 == export("tiny", "latest", target, "--max-shard-size", "1048576B", "--dry-run")
    assert not target.exists()
    assert 0 == export("tiny", "latest", target)
    assert same(model, target)
    assert (target / "hpctrain_tokenizer.json").exists()
    assert "LlamaForCausalLM" in json.loads((target / "config.json").read_bytes())["architectures"]
    assert not [path for path in [target, *target.iterdir()] if path.stat().st_mode & 0o077]


def test_large_models_are_split(tmp_path: Path) -> None:
    """No file is larger than asked for, and the index leads to every tensor."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=4000, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2))
    model.config.save_pretrained(tmp_path / "config")
    root = saved(tmp_path / "checkpoints", model)

    assert 0 == export(root, "3", tmp_path / "model", "--config", tmp_path / "config", "--max-shard-size", "2.2MB")
    files = list((tmp_path / "model").glob("*.safetensors"))
    assert 3 == len(files)
    assert all(path.stat().st_size < 2_300_000 for path in files)
    assert same(model, tmp_path / "model")


def test_dtype_is_converted(tmp_path: Path) -> None:
    """--dtype rounds the weights as torch does, and the configuration says so."""
    model = make_model()
    model.config.save_pretrained(tmp_path / "config")
    root = saved(tmp_path / "checkpoints", model)

    assert 0 == export(root, "3", tmp_path / "model", "--config", tmp_path / "config", "--dtype", "bfloat16")
    config = json.loads((tmp_path / "model/config.json").read_bytes())
    assert "bfloat16" == (config.get("dtype") or config.get("torch_dtype"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", torch_dtype=torch.bfloat16)
    assert all(torch.equal(value.bfloat16(), loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    """A weight with two names is stored once and is one again after loading."""
    model = make_model(tied=True)
    model.config.save_pretrained(tmp_path / "config")
    root = saved(tmp_path / "checkpoints", model)

    assert 0 == export(root, "3", tmp_path / "model", "--config", tmp_path / "config")
    from safetensors import safe_open

    with safe_open(tmp_path / "model/model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - safetensors' object is no dict
    assert same(model, tmp_path / "model")


def test_other_models_need_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that transformers does not know leaves as weights alone; without being told, the command says what lacks."""
    root = saved(tmp_path / "checkpoints", torch.nn.Linear(3, 2))

    assert 2 == export(root, "3", tmp_path / "model")
    assert "--weights-only" in capsys.readouterr().err
    assert 0 == export(root, "3", tmp_path / "model", "--weights-only")
    assert ["model.safetensors"] == [path.name for path in (tmp_path / "model").iterdir()]


def test_wrong_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration of another model is found before anything is written, and the tensor is named."""
    model = make_model()
    wider = transformers.LlamaConfig(**{**model.config.to_dict(), "intermediate_size": 96})
    wider.save_pretrained(tmp_path / "config")
    root = saved(tmp_path / "checkpoints", model)

    assert 13 == export(root, "3", tmp_path / "model", "--config", tmp_path / "config")
    assert "mlp.gate_proj.weight has shape (64, 32)" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that is there is left alone."""
    root = saved(tmp_path / "checkpoints", torch.nn.Linear(3, 2))
    (tmp_path / "model").mkdir()

    assert 9 == export(root, "3", tmp_path / "model", "--weights-only")
    assert [] == list((tmp_path / "model").iterdir())


def test_damaged_checkpoint_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit in the weights is found on the way out, and nothing is left behind."""
    root = saved(tmp_path / "checkpoints", torch.nn.Linear(64, 64))
    (path,) = (root / "step-00000003.i000").glob("*.distcp")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    assert 13 == export(root, "3", tmp_path / "model", "--weights-only")
    assert "damaged" in capsys.readouterr().err
    assert ["checkpoints"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.slow
def test_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    """A model that does not fit is refused before it is written; nothing is left behind."""
    root = saved(tmp_path / "checkpoints", torch.nn.Linear(1024, 1024))
    (tmp_path / "small").mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path / "small")]
    if not process.run([*unshare, *mount], timeout_s=20).ok:
        pytest.skip("mounting a small file system of one's own is not allowed here")
    script = '"$@" || exit 1; exec "$PY" -m hpctrain checkpoints export "$ROOT" 3 "$SMALL/model" --weights-only'
    env = {**os.environ, "PY": sys.executable, "ROOT": str(root), "SMALL": str(tmp_path / "small")}
    result = process.run([*unshare, "sh", "-c", script, "sh", *mount], timeout_s=120, env=env)

    assert 9 == result.returncode, result.stderr
    assert "bytes, " in result.stderr
    assert "Traceback" not in result.stderr
