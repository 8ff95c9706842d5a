"""Methods and sections that do not go together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.recipe.check_method import NO_REWARD_MODEL, check_method
from hpctrain.recipe.files import missing_files
from hpctrain.recipe.model_size import FAMILIES
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.tables import tables


def recipe(**sections: Any) -> Recipe:
    """A recipe that tunes, with these sections."""
    values = {
        "version": 1, "name": "x", "method": "sft", "model": {"path": "/m"}, "training": {"steps": 3},
        "data": {"source": "files", "paths": ["/d"]},
    }
    return Recipe.model_validate(values | sections)


def test_plain_recipes_pass() -> None:
    """Each method with its own sections has nothing wrong."""
    assert [] == check_method(recipe())
    assert [] == check_method(recipe(adapter={"kind": "dora"}, chat={"packing": True}))
    assert [] == check_method(recipe(method="dpo", preference={"loss": "ipo"}))
    assert [] == check_method(recipe(method="pretrain"))


@pytest.mark.parametrize(("sections", "key", "says"), [
    ({"method": "cpt", "adapter": {}}, "adapter", "belongs to sft"),
    ({"preference": {"beta": 0.2}}, "preference", "belongs to dpo, but the method is 'sft'"),
    ({"training": {"tokens": 1000}}, "training.tokens", "training.epochs"),
    ({"training": {"steps": 3, "compile": True}}, "training.compile", "pretrain and cpt"),
    ({"adapter": {"kind": "qlora"}}, "adapter.kind", "needs GPUs"),
    ({"adapter": {"kind": "dora"}, "training": {"steps": 3, "parallelism": {"kind": "fsdp2"}}}, "adapter.kind", "ddp"),
    ({"adapter": {"target_modules": ["lm_head"]}}, "adapter.target_modules", "never trained"),
    ({"adapter": {"target_modules": []}}, "adapter.target_modules", "nothing would be trained"),
    ({"method": "dpo", "chat": {"packing": True}}, "chat.packing", "belongs to sft"),
    ({"method": "dpo", "preference": {"loss": "exo_pair"}}, "preference.label_smoothing", "above 0"),
    ({"method": "dpo", "preference": {"label_smoothing": 0.1}}, "preference.label_smoothing", "belongs to robust"),
    ({"method": "dpo", "preference": {"beta": 0}}, "preference.beta", "nothing would be learned"),
])
def test_what_cannot_work_is_named(sections: dict[str, Any], key: str, says: str) -> None:
    """A combination that cannot work is one problem, at its key, that says what would."""
    problems = check_method(recipe(**sections))
    assert [key] == [".".join(map(str, problem.path)) for problem in problems]
    assert says in problems[0].message


CONFIG = '{"model_type": "llama"}'


def tensors(size: int) -> bytes:
    """A file of weights: one tensor of so many bytes."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize(("kind", "sections", "key", "says"), [
    ("llama4_text", {"method": "reward"}, "method", "no reward model of the architecture 'llama4_text'"),
    ("llama4_text", {"adapter": {}}, "adapter.target_modules", "the router too"),
    ("mixtral", {"adapter": {"kind": "dora"}}, "adapter.target_modules", "[q_proj, k_proj, v_proj, o_proj], or take 'lora'"),
    ("mixtral", {"adapter": {}}, "", ""), ("llama", {"adapter": {"kind": "dora"}}, "", ""),
    ("llama", {"method": "reward"}, "", ""),
    ("llama4_text", {"adapter": {"target_modules": ["q_proj"]}}, "", ""),
    ("mixtral", {"adapter": {"kind": "dora", "target_modules": ["q_proj"]}}, "", ""),
    ("something_new", {"method": "reward", "adapter": {"kind": "dora"}}, "", ""),
])
def test_what_libraries_cannot_do_with_an_architecture(kind: str, sections: dict[str, Any], key: str, says: str) -> None:
    """Where the architecture is known, what transformers and peft would stop at is a problem before anything is queued."""
    known = [model.config for model in tables().models.values() if model.config["model_type"] == kind]
    config = known[0] if known else {"model_type": kind}
    problems = check_method(recipe(**sections), config)
    assert ([key] if key else []) == [".".join(map(str, problem.path)) for problem in problems]
    assert all(says in problem.message for problem in problems)


def test_architectures_without_a_reward_model_are_those_of_transformers() -> None:
    """Of the architectures that are known, exactly those named lack a form with one number; a rank refuses any that does."""
    transformers = pytest.importorskip("transformers")
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    assert {kind for kind in FAMILIES if kind in NO_REWARD_MODEL} == {kind for kind in FAMILIES if kind not in mapping}

    model = pytest.importorskip("hpctrain.train.tune.model")
    model.refuse_architecture(recipe(method="reward"), transformers.LlamaConfig(), reward=True)
    for config in (transformers.Llama4TextConfig(), transformers.MambaConfig()):
        with pytest.raises(RecipeError, match="no reward model of the architecture"):
            model.refuse_architecture(recipe(method="reward"), config, reward=True)
    with pytest.raises(RecipeError, match="experts too"):
        model.refuse_architecture(recipe(adapter={"kind": "dora"}), transformers.MixtralConfig(), reward=False)


def about_model(folder: Path, **sections: Any) -> list[str]:
    """What is said about a model directory and its tokenizer."""
    data = folder.parent / "rows.jsonl"
    data.write_text("{}\n")
    found = recipe(model={"path": str(folder)}, data={"source": "files", "paths": [str(data)], "format": "chat"}, **sections)
    return [problem.message for problem in missing_files(found)]


def test_an_incomplete_model_is_seen_before_it_is_loaded(tmp_path: Path) -> None:
    """A model without weights, or without one of its files of weights, is refused with the name of what is missing."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "no config.json" in about_model(folder)[0]
    (folder / "config.json").write_text("{}")
    assert "names no 'model_type', or is no JSON" in about_model(folder)[0]
    (folder / "config.json").write_text(CONFIG)
    assert "holds no weights" in about_model(folder)[0]
    assert "holds no tokenizer" in about_model(folder)[1]
    (folder / "tokenizer.json").write_text("{}")
    weights = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    (folder / "1.safetensors").write_bytes(tensors(40))
    assert "1 of 2 files of weights are missing, the first is 2.safetensors" in about_model(folder)[0]
    (folder / "2.safetensors").write_bytes(tensors(40)[:-1])
    assert f"2.safetensors holds {len(tensors(40)) - 1} of {len(tensors(40))} bytes" in about_model(folder)[0]
    (folder / "2.safetensors").write_bytes(b"")
    assert "2.safetensors holds 0 of" in about_model(folder)[0]
    (folder / "2.safetensors").write_bytes(tensors(40))
    assert [] == about_model(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "names no files of weights" in about_model(folder)[0]


def test_a_tokenizer_without_chat_template_is_seen_before_it_is_needed(tmp_path: Path) -> None:
    """Conversations and a tokenizer without a chat template do not go together, unless the recipe names a template."""
    folder, template = tmp_path / "model", tmp_path / "own.jinja"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG)
    (folder / "model.safetensors").write_bytes(tensors(8))
    (folder / "tokenizer_config.json").write_text("{}")
    assert "no chat template" in about_model(folder)[0]
    assert "no such file" in about_model(folder, chat={"template": str(template)})[0]
    template.write_text("{{ messages }}")
    assert [] == about_model(folder, chat={"template": str(template)})
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert [] == about_model(folder)


def test_an_adapter_needs_its_model(tmp_path: Path) -> None:
    """An adapter's directory is a model to start from, as long as its weights and the model it belongs to are there."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    said = about_model(folder)
    assert "adapter_model.safetensors is missing" in said[0]
    assert "base, which is not there" in said[1]
    (folder / "adapter_model.safetensors").write_text("")
    (tmp_path / "base").mkdir()
    assert [] == about_model(folder)


def test_a_package_that_tracking_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow that is not installed is told with the recipe, unless the ranks run in a container with its own Python."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    wanted: dict[str, Any] = {"tracking": {"mlflow": True}, "data": {"source": "arithmetic"}, "model": {"path": "org/m"}}
    (problem,) = missing_files(recipe(**wanted))
    assert ("tracking", "mlflow") == problem.path
    assert "mlflow-skinny" in problem.message
    assert "pip install" in problem.hint
    assert [] == missing_files(recipe(**wanted, resources={"container": "image"}))
    monkeypatch.setitem(sys.modules, "mlflow", sys)
    monkeypatch.setattr(sys, "__spec__", object(), raising=False)
    assert [] == missing_files(recipe(**wanted))
