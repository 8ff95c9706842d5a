"""Memory of methods that tune, held against peft, and against what torch counts in real steps with trl's own loss."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from hpctrain.recipe.adapter_size import adapted, adapter_parameters, four_bit_bytes
from hpctrain.recipe.memory import check_memory, estimate
from hpctrain.recipe.model_size import FAMILIES, Shape, shape_of
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Adapter
from hpctrain.recipe.tables import tables
from tests.source_tree import ROOT
from tests.unit.recipe.test_memory import small

GIB = 2**30


def shape(config: dict[str, Any]) -> Shape:
    """The shape of an architecture that is known."""
    found = shape_of(config)
    assert isinstance(found, Shape), found
    return found


def tuned(method: str = "sft", **sections: Any) -> Recipe:
    """A recipe for one GPU of 80 GiB."""
    values: dict[str, Any] = {
        "version": 1, "name": "t", "method": method, "model": {"path": "x"},
        "data": {"source": "docstring-questions", "sequence_length": 1024},
        "training": {"steps": 10, "global_batch_size": 8, "micro_batch_size": 1},
        "resources": {"gpus_per_node": 1, "gpu_memory": 80 * GIB},
    }
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **section} if both else section
    return Recipe.model_validate(values)


def items(recipe: Recipe, model: str = "qwen3_8b", **others: Any) -> dict[str, int]:
    """Bytes by line of the arithmetic."""
    size = estimate(recipe, tables().models[model].config, {}, None, others or None)
    return {item.what: item.size_bytes for item in size.items}


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_are_those_of_peft(kind: str) -> None:
    """For each known architecture, with LoRA and DoRA, the number of trained parameters equals that of peft."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = small(kind)
    numbers = {key: value for key, value in config.items() if key != "model_type"}
    named = {item.name for item in shape(config).linears} - {"gate_proj", "up_proj", "down_proj", "router"}
    # Llama 4's router is a linear layer that returns two things; others have experts that peft would adapt, without DoRA.
    targets: Any = sorted(named) if kind == "llama4_text" or shape(config).experts else "all-linear"
    for adapter in ("lora", "dora"):
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **numbers))
        model.to_empty(device="cpu")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(
            r=4, target_modules=targets, use_dora=adapter == "dora", task_type="CAUSAL_LM"))
        trained = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
        ours = Adapter(kind=adapter, rank=4, target_modules=targets)
        assert adapter_parameters(shape(config), ours) == trained, adapter


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_adapters_of_experts_are_those_of_peft(kind: str) -> None:
    """Where "all-linear" means the experts too, they are counted, and it is said that they take more than is counted."""
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = small(kind)
    numbers = {key: value for key, value in config.items() if key != "model_type"}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **numbers))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))

    trained = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    assert adapter_parameters(shape(config), Adapter(rank=4)) == trained
    assert any("adapts the experts" in note for note in estimate(tuned(adapter={}), config, {}).notes)


def test_adapters_go_where_they_are_told() -> None:
    """Named layers get an adapter, all others none."""
    found = adapted(shape(small("llama")), Adapter(target_modules=["q_proj", "v_proj"]))

    assert ["q_proj", "v_proj"] == [item.name for item in found]


def test_four_bits_are_half_a_byte_and_scales() -> None:
    """Linear layers take half a byte per weight and their scales; what is not linear stays at two bytes."""
    llama = shape(dict(tables().models["llama3_1_8b"].config))
    linear = sum(item.count * item.inputs * item.outputs for item in llama.linears)

    assert linear == llama.parameters - 2 * 128256 * 4096 - 65 * 4096
    rest = 2 * (llama.parameters - linear)
    assert linear // 2 + rest < four_bit_bytes(llama) < 0.52 * linear + rest


def test_an_adapter_leaves_the_model_frozen() -> None:
    """With LoRA the model takes two bytes per parameter, and only the adapter has gradients and an optimizer."""
    full, lora, qlora = (items(tuned(**more)) for more in ({}, {"adapter": {}}, {"adapter": {"kind": "qlora"}}))

    assert full["weights, gradients, AdamW"] == 16 * 8_190_735_360
    assert lora["frozen weights"] == 2 * 8_190_735_360
    assert lora["adapter, gradients, AdamW"] == 16 * adapter_parameters(
        shape(dict(tables().models["qwen3_8b"].config)), Adapter())
    assert qlora["frozen weights"] < 0.4 * lora["frozen weights"]


def test_a_reference_model_is_a_second_copy_only_without_an_adapter() -> None:
    """DPO keeps the model it starts from; with an adapter that is the same model, and rl without beta keeps none."""
    assert items(tuned("dpo"))["reference model"] == 4 * 8_190_735_360
    assert "reference model" not in items(tuned("dpo", adapter={}))
    assert "reference model" not in items(tuned("rlvr", rewards=[{"kind": "math"}]))
    assert "reference model" in items(tuned("rlvr", rewards=[{"kind": "math"}], generation={"beta": 0.1}))


def test_pairs_count_twice_and_reward_models_have_no_vocabulary() -> None:
    """DPO and reward models compute both answers in one pass; a reward model has no logits."""
    sft, dpo, reward = (items(tuned(method, adapter={})) for method in ("sft", "dpo", "reward"))

    assert dpo["activations"] == reward["activations"] == 2 * sft["activations"]
    assert "loss" in dpo and "loss" not in reward


def test_reward_models_and_teachers_are_counted_at_their_own_size() -> None:
    """A further model that is known counts with its own parameters, one that is not with those of the model."""
    rlhf = tuned("rlhf", adapter={}, rewards=[{"kind": "model", "path": "/r"}])
    distill = tuned("distill", teacher={"path": "T"})
    large = tables().models["qwen3_32b"].config

    assert items(rlhf)["reward model"] == 2 * 8_190_735_360
    assert items(rlhf, **{"/r": large})["reward model"] == 2 * 32_762_123_264
    assert items(distill, **{"T": large})["teacher"] == 2 * 32_762_123_264


def test_generation_takes_keys_and_values_or_a_share() -> None:
    """Transformers keeps keys and values of all answers of a rank; vLLM gets a share of the GPU, or nodes of its own."""
    common: dict[str, Any] = {"adapter": {}, "rewards": [{"kind": "math"}]}
    own = items(tuned("rlvr", generation={"engine": "transformers"}, **common))["generation"]

    assert own == 8 * 1024 * 2 * 36 * 8 * 128 * 2
    assert items(tuned("rlvr", generation={"engine": "vllm"}, **common))["generation"] == round(0.3 * 80 * GIB)
    apart = tuned("rlvr", generation={"engine": "vllm", "placement": "separate"}, **common)
    assert items(apart)["generation"] == 0


def test_what_does_not_fit_is_told_to_take_an_adapter() -> None:
    """All weights of an 8 B model do not fit one GPU: the smallest change that does is LoRA."""
    recipe = tuned()
    (problem,) = check_memory(recipe, estimate(recipe, tables().models["qwen3_8b"].config, {}))

    assert "adapter.kind=lora" in problem.message
    large = tuned(adapter={"kind": "lora"})
    (problem,) = check_memory(large, estimate(large, tables().models["llama3_3_70b"].config, {}))
    assert "adapter.kind=qlora" in problem.message


def test_only_what_is_trained_is_kept_in_memory() -> None:
    """Checkpoints in memory hold the adapter, not the frozen weights."""
    config = tables().models["qwen3_8b"].config
    full, lora = (estimate(tuned(**more), config, {}).ram for more in ({}, {"adapter": {}}))

    assert full is not None and lora is not None
    assert lora.size_bytes * 100 < full.size_bytes


def benchmark() -> Any:
    """benchmarks/memory.py as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("memory")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_the_arithmetic_is_what_torch_counts(number: int) -> None:
    """At real widths and few layers, with and without adapter and experts, the sum is within 15 % of MemTracker's peak."""
    pytest.importorskip("trl")
    made = benchmark()
    case = made.SHORT[number]

    assert made.expected_bytes(case) == pytest.approx(made.counted_bytes(case), rel=made.ALLOWED), case.name
