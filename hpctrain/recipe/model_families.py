"""What each transformers architecture does with the numbers of its config (pure).

Checked against transformers itself in ``tests/unit/recipe/test_memory.py``, default values included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Family:
    """What a transformers ``model_type`` does with its numbers.

    Attributes:
        defaults: transformers' value for a number that the config leaves out; "heads" means that of the query heads.
        names: its names for the usual numbers, where they differ.
        qkv_bias, out_bias, mlp_bias: True, False, or the config key that decides.
        gated: the MLP has a gate (three matrices), else two.
        layer_norms: norms of the hidden size per layer.
        norm_bias: norms are LayerNorms (weight and bias), else RMSNorms.
        head_norms: queries and keys have norms of the head size.
        positions: learned position embeddings.
        tied: output matrix shared with the input embedding, unless ``tie_word_embeddings`` says otherwise.
        grouped: key-value heads can be fewer than query heads.
        sinks: attention has one number more per query head.
        latent: multi-head latent attention (DeepSeek-V2, section 2.1).
        experts: config key of the number of experts; the MLP is then a router and that many MLPs.
        expert_size: config key of an expert's inner size.
        expert_biases: experts and router have biases.
        shared: config key of the number of experts that all tokens meet besides, or "one".
        sparse_step: config key: every how many layers the MLP is a set of experts.
        first_dense: config key of the number of first layers without experts.
        dense_size: config key of the inner size of an MLP that is no expert.
        all_experts: transformers sends every token through every expert and weighs the results, most of them with 0.
        adapted_experts: peft's "all-linear" means the experts too, each of them and the router.
        attention, mlp: names of their linear layers, which adapters are attached to; the last one leads back.
        router: name of the router, where it is a linear layer of its own.
    """

    defaults: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    gated: bool = True
    layer_norms: int = 2
    norm_bias: bool = False
    head_norms: bool = False
    positions: bool = False
    tied: bool = False
    grouped: bool = True
    sinks: bool = False
    latent: bool = False
    experts: str = ""
    expert_size: str = "intermediate_size"
    expert_biases: bool = False
    shared: str = ""
    sparse_step: str = "decoder_sparse_step"
    first_dense: str = ""
    dense_size: str = "intermediate_size"
    all_experts: bool = False
    adapted_experts: bool = False
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    router: str = ""


def _defaults(*sizes: int, kv: int | str = "heads", **more: Any) -> dict[str, Any]:
    """Vocabulary, hidden size, inner size, layers, heads; key-value heads; whatever else the family has."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**dict(zip(names, sizes, strict=True)), "num_key_value_heads": kv, **more}


_GPT2_NAMES = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
}
_LLAMA = Family(
    _defaults(32000, 4096, 11008, 32, 32), qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias",
)
_QWEN3 = Family(
    _defaults(151936, 4096, 22016, 32, 32, kv=32, head_dim=128), qkv_bias="attention_bias", out_bias="attention_bias",
    head_norms=True,
)
_GEMMA = Family(
    _defaults(256000, 3072, 24576, 28, 16, kv=16, head_dim=256), qkv_bias="attention_bias", out_bias="attention_bias",
    tied=True,
)
_GEMMA2 = replace(_GEMMA, defaults=_defaults(256000, 2304, 9216, 26, 8, kv=4, head_dim=256), layer_norms=4)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "llama4_text": Family(
        _defaults(202048, 5120, 8192, 48, 40, kv=8, head_dim=128, intermediate_size_mlp=16384, num_local_experts=16,
                  num_experts_per_tok=1, interleave_moe_layer_step=1),
        qkv_bias="attention_bias", out_bias="attention_bias", experts="num_local_experts", shared="one",
        sparse_step="interleave_moe_layer_step", dense_size="intermediate_size_mlp", all_experts=True, router="router",
    ),
    "mistral": Family(_defaults(32000, 4096, 14336, 32, 32, kv=8)),
    "mixtral": Family(
        _defaults(32000, 4096, 14336, 32, 32, kv=8, num_local_experts=8, num_experts_per_tok=2), experts="num_local_experts",
        adapted_experts=True,
    ),
    "qwen2": Family(_defaults(151936, 4096, 22016, 32, 32, kv=32), qkv_bias=True),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(
        _QWEN3, names={"num_experts": "num_local_experts"}, experts="num_experts", expert_size="moe_intermediate_size",
        adapted_experts=True, defaults=_defaults(
            151936, 2048, 6144, 24, 32, kv=4, num_experts=128, moe_intermediate_size=768, num_experts_per_tok=8),
    ),
    "deepseek_v3": Family(
        _defaults(129280, 7168, 18432, 61, 128, kv=128, moe_intermediate_size=2048, n_shared_experts=1, n_routed_experts=256,
                  num_experts_per_tok=8, first_k_dense_replace=3, kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64,
                  qk_nope_head_dim=128, v_head_dim=128),
        latent=True, adapted_experts=True, qkv_bias="attention_bias", out_bias="attention_bias", experts="n_routed_experts",
        expert_size="moe_intermediate_size", shared="n_shared_experts", first_dense="first_k_dense_replace",
    ),
    "gpt_oss": Family(
        _defaults(201088, 2880, 2880, 36, 64, kv=8, head_dim=64, num_local_experts=128, num_experts_per_tok=4),
        qkv_bias="attention_bias", out_bias="attention_bias", sinks=True, experts="num_local_experts", expert_biases=True,
    ),
    "phi3": Family(
        _defaults(32064, 3072, 8192, 32, 32), attention=("qkv_proj", "o_proj"), mlp=("gate_up_proj", "down_proj"),
    ),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2, defaults=_defaults(262208, 2304, 9216, 26, 8, kv=4, head_dim=256), head_norms=True,
    ),
    "gpt2": Family(
        _defaults(50257, 768, 0, 12, 12, max_position_embeddings=1024), names=_GPT2_NAMES, qkv_bias=True, out_bias=True,
        mlp_bias=True, gated=False, norm_bias=True, positions=True, tied=True, grouped=False,
        attention=("c_attn", "c_proj"), mlp=("c_fc", "c_proj"),
    ),
    "gpt_neox": Family(
        _defaults(50432, 6144, 24576, 44, 64), qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias=True,
        gated=False, norm_bias=True, grouped=False, attention=("query_key_value", "dense"),
        mlp=("dense_h_to_4h", "dense_4h_to_h"),
    ),
}
"""Architectures whose size is known. ``attention_bias`` is on by default only where transformers has it so."""

BIAS_DEFAULTS: Mapping[tuple[str, str], bool] = {("gpt_neox", "attention_bias"): True, ("gpt_oss", "attention_bias"): True}
"""Config keys of biases that are on where the config does not say."""
