"""Parameters and memory, held against transformers and torch themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.recipe.facts import ClusterFacts, NodeGroup, PartitionFacts
from hpctrain.recipe.load import load_chain, locate, read
from hpctrain.recipe.memory import check_memory, estimate
from hpctrain.recipe.memory_items import layer_bytes_per_token
from hpctrain.recipe.model_size import FAMILIES, Shape, shape_of
from hpctrain.recipe.node import to_plain
from hpctrain.recipe.overlay import merge_layers
from hpctrain.recipe.schema import Recipe

Make = Callable[..., Recipe]
GIB = 2**30


def llama_8b() -> dict[str, Any]:
    values = to_plain(merge_layers(load_chain(read(locate("pretrain/llama3_1_8b_1node_8gpu"), "r"))))
    config: dict[str, Any] = values["model"]["config"]
    return config


def shape(config: dict[str, Any]) -> Shape:
    found = shape_of(config)
    assert isinstance(found, Shape), found
    return found


def built_parameters(config: dict[str, Any]) -> int:
    """Build the model without memory and count."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    numbers = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        architecture = transformers.AutoConfig.for_model(config["model_type"], **numbers)
        model = transformers.AutoModelForCausalLM.from_config(architecture)
    return sum(parameter.numel() for parameter in model.parameters())


def small(kind: str, **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": kind, "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }
    if kind == "gpt2":
        config |= {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            del config[key]
    elif FAMILIES[kind].grouped:
        config["num_key_value_heads"] = 2
    if kind == "qwen3_moe":
        config |= {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    if kind in ("llama4_text", "gpt_oss"):
        config |= {"num_local_experts": 4, "head_dim": 16, "num_experts_per_tok": 2}
    if kind == "llama4_text":
        config |= {"intermediate_size_mlp": 128, "interleave_moe_layer_step": 2}
    if kind == "deepseek_v3":
        config |= {"num_key_value_heads": 4, "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 2,
                   "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 16,
                   "q_lora_rank": 24,
                   "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
    return config | more


@pytest.mark.parametrize("config", [
    *[small(kind) for kind in FAMILIES],
    small("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=32),
    small("qwen3", head_dim=8), small("gemma", tie_word_embeddings=False), small("gpt2", n_inner=100),
    small("qwen3_moe", mlp_only_layers=[1]), small("mixtral", num_local_experts=3), small("deepseek_v3", q_lora_rank=None),
    small("llama4_text", moe_layers=[0, 1]), small("gpt_oss", attention_bias=False),
], ids=lambda config: config["model_type"])
def test_parameters_are_those_of_transformers(config: dict[str, Any]) -> None:
    """For each known family, with its switches, the count equals that of the model transformers builds."""
    assert shape(config).parameters == built_parameters(config)


@pytest.mark.parametrize("kind", FAMILIES)
def test_left_out_numbers_are_those_of_transformers(kind: str) -> None:
    """A number that a config leaves out has the same default here as there."""
    theirs = pytest.importorskip("transformers").AutoConfig.for_model(kind)
    family = FAMILIES[kind]
    for name, ours in family.defaults.items():
        value = getattr(theirs, name, getattr(theirs, family.names.get(name, name), None))
        if name in ("num_key_value_heads", "intermediate_size") and value is None:
            continue  # gpt2 and gpt_neox: as many as heads, four times the hidden size
        assert value == (theirs.num_attention_heads if ours == "heads" else ours), name
    assert bool(theirs.tie_word_embeddings) == family.tied


def test_llama_8b_is_counted_exactly() -> None:
    """The shipped recipe's architecture has the published number of parameters, and transformers agrees."""
    config = llama_8b()

    assert shape(config).parameters == 8_030_261_248
    assert built_parameters(config) == 8_030_261_248


@pytest.mark.parametrize("config", [
    {}, {"model_type": "none"}, {"model_type": 3}, {"model_type": "llama", "hidden_size": "x"},
    {"model_type": "llama", "hidden_size": -1}, {"model_type": "llama", "num_attention_heads": 0},
    {"model_type": "llama", "num_hidden_layers": 10**8}, {"model_type": "llama", "vocab_size": 10**30},
    {"model_type": "qwen3_moe", "decoder_sparse_step": 0},
])
def test_unknown_or_absurd_architectures_give_a_sentence(config: dict[str, Any]) -> None:
    """What cannot be counted is said, not raised and not guessed."""
    assert "memory was not checked" in str(shape_of(config))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_activations_are_what_torch_keeps(precision: str, attention: str) -> None:
    """The bytes per layer and token are within a tenth of what autograd really saves in a transformers Llama."""
    torch = pytest.importorskip("torch")
    config = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4,
              "num_key_value_heads": 2 if attention == "sdpa" else 4, "max_position_embeddings": 512}
    dtype, width = (torch.float32, 4) if precision == "fp32" else (torch.bfloat16, 2)
    saved = [_saved_bytes({**config, "num_hidden_layers": layers}, dtype, attention) for layers in (1, 3)]
    measured = (saved[1] - saved[0]) / 2 / 256

    ours = layer_bytes_per_token(shape({"model_type": "llama", **config}), width, 128 if attention == "eager" else 0)

    assert ours == pytest.approx(measured, rel=0.1)


def _saved_bytes(config: dict[str, Any], dtype: Any, attention: str) -> int:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM._from_config(LlamaConfig(**config), attn_implementation=attention).to(dtype)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(torch.randint(0, 64, (2, 128)))
        return sum(size for size, _ in kept.values())


def big(make: Make, **changes: Any) -> Recipe:
    return make(**{
        "model__config": llama_8b(), "data__sequence_length": 8192, "training__global_batch_size": 16,
        "resources": {"gpus_per_node": 8, "gpu_memory": 80 * GIB},
        "training__parallelism": {"kind": "fsdp2"}, "training__activation_checkpointing": True, **changes,
    })


def test_what_fits_is_accepted_with_its_arithmetic(make: Make) -> None:
    """8 B parameters, sharded over eight GPUs of 80 GiB: 15 GiB of state, 13.7 GiB of logits, and it fits."""
    size = estimate(big(make), llama_8b(), {})

    assert size.fits
    items = {item.what: item for item in size.items}
    assert items["weights, gradients, AdamW"].size_bytes == 8_030_261_248 * 16 // 8
    assert items["logits and loss"].size_bytes == 8192 * 128256 * 14
    assert "8,030,261,248 x (4 + 4 + 8) B / 8 ranks" in items["weights, gradients, AdamW"].arithmetic


@pytest.mark.parametrize(("changes", "remedy"), [
    ({"training__parallelism": {"kind": "ddp"}}, "what would fit: training.parallelism.kind=fsdp2 ("),
    ({"training__micro_batch_size": 2, "training__activation_checkpointing": False},
     "training.activation_checkpointing=true"),
    ({"resources": {"gpus_per_node": 1, "gpu_memory": 80 * GIB}}, "resources.nodes="),
    ({"resources": {"gpus_per_node": 8, "gpu_memory": 8 * GIB}}, "nothing this version can do"),
])
def test_what_does_not_fit_is_refused_with_arithmetic_and_remedy(make: Make, changes: dict[str, Any], remedy: str) -> None:
    """The refusal shows the sum, the memory there is, and the smallest change that the same arithmetic accepts."""
    recipe = big(make, **changes)

    (problem,) = check_memory(recipe, estimate(recipe, llama_8b(), {}))

    assert "8,030,261,248 parameters need about" in problem.message
    assert "resources.gpu_memory" in problem.message
    assert remedy in problem.message


def test_the_remedy_really_fits(make: Make) -> None:
    """Following the advice leads to a recipe that is accepted."""
    recipe = big(make, training__parallelism={"kind": "ddp"}, training__activation_checkpointing=False)
    (problem,) = check_memory(recipe, estimate(recipe, llama_8b(), {}))
    assert "training.parallelism.kind=fsdp2, training.activation_checkpointing=true (" in problem.message

    assert check_memory(big(make), estimate(big(make), llama_8b(), {})) == []


@pytest.mark.parametrize(("resources", "table", "capacity"), [
    ({"gpu_type": "h100"}, {}, 81559 * 2**20), ({"gpu_type": "H200"}, {}, 143771 * 2**20),
    ({"gpu_type": "h100"}, {"H100": 5}, 5), ({"gpu_type": "a100"}, {}, None), ({}, {}, None),
    ({"gpu_type": "h100", "gpu_memory": 7 * GIB}, {"h100": 5}, 7 * GIB),
])
def test_gpu_memory_is_looked_up(make: Make, resources: dict[str, Any], table: dict[str, int], capacity: int | None) -> None:
    """The recipe's own number wins, then the site's table, then ours; a type of several sizes is not guessed."""
    size = estimate(big(make, resources={"gpus_per_node": 8, **resources}), llama_8b(), table)

    assert size.capacity_bytes == capacity
    assert bool(size.notes) == (capacity is None)


def test_cpu_ranks_share_the_memory_of_their_node(make: Make) -> None:
    """On CPUs a rank has its share of the memory that is asked for, else of what the largest node has."""
    facts = ClusterFacts((PartitionFacts("p", (NodeGroup(2, memory_bytes=64 * GIB),)),))
    recipe = make(resources={"ranks_per_node": 4})
    config = recipe.model.config if recipe.model else None

    assert estimate(recipe, config, {}, facts).capacity_bytes == 16 * GIB
    asked = make(resources={"ranks_per_node": 2, "memory_per_node": 3 * GIB})
    assert estimate(asked, config, {}, facts).capacity_bytes == 3 * GIB // 2
    assert estimate(recipe, config, {}).capacity_bytes is None


def test_simulated_gpus_are_cpus(make: Make) -> None:
    """Where GPUs are simulated nothing is known about memory, unless the recipe says what it is written for."""
    facts = ClusterFacts((PartitionFacts("p", (NodeGroup(4, memory_bytes=GIB, gpus=8, gpu_type="sim"),)),))

    size = estimate(big(make, resources={"gpus_per_node": 8}), llama_8b(), {}, facts)
    assert size.fits and size.capacity_bytes is None and not size.on_gpu
    assert estimate(big(make), llama_8b(), {}, facts).capacity_bytes == 80 * GIB


def test_local_model_is_read_from_its_config(tmp_path: Path, write: Callable[..., str], minimal: str) -> None:
    """model.path with a config.json is counted like an architecture in the recipe."""
    import json

    from hpctrain.recipe.resolve import resolve

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(small("llama")))
    line = "  config: {model_type: llama, vocab_size: 258, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}"
    path = write(minimal.replace(line, "  path: model"))

    found = resolve(path).estimate

    assert found is not None and found.parameters == shape(small("llama")).parameters


RAM_CASES: list[tuple[dict[str, Any], int]] = [
    ({}, 2), ({"checkpoint": {"ram": {"history": 3}}}, 5), ({"resources": {"nodes": 2}}, 4 / 2),
    ({"resources": {"nodes": 2}, "checkpoint": {"peer": False}}, 2 / 2),
    ({"resources": {"ranks_per_node": 2}}, 2), ({"checkpoint": {"ram": {"enabled": False}}}, 0),
]


@pytest.mark.parametrize(("changes", "copies"), RAM_CASES)
def test_the_ram_tier_is_counted_in_copies_of_the_state(make: Make, changes: dict[str, Any], copies: float) -> None:
    """Two slots, those of the history, and two more for a peer's ranks, each with this node's share of the state."""
    recipe = make(**changes)
    size = estimate(recipe, recipe.model.config if recipe.model else None, {})

    assert size.parameters is not None
    assert copies * size.parameters * 12 == (size.ram.size_bytes if size.ram else 0)


def test_a_ram_tier_without_room_is_a_note_or_a_problem(make: Make) -> None:
    """Where memory is short ``auto`` says that it will do without, and ``true`` refuses, both with the arithmetic."""
    values: dict[str, Any] = {"resources": {"gpus_per_node": 1, "memory_per_node": 2**20, "gpu_memory": 64 * GIB}}
    sums = "more than 1.0 MiB (resources.memory_per_node): 2 slots x 1 rank x "
    auto, forced = make(**values), make(**values, checkpoint={"ram": {"enabled": True}})
    config = auto.model.config if auto.model else None

    assert [] == check_memory(auto, estimate(auto, config, {}))
    assert sums in estimate(auto, config, {}).notes[0]
    (problem,) = check_memory(forced, estimate(forced, config, {}))
    assert ("checkpoint", "ram", "enabled") == problem.path
    assert sums in problem.message
