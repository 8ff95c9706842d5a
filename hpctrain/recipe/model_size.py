"""Numbers of parameters from an architecture's numbers, without building the model (pure).

Checked against transformers itself in ``tests/unit/recipe/test_model_size.py``, default values included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_LARGEST = 10**9
_MOST_LAYERS = 10_000


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
        experts: config key of the number of experts; the MLP is then a router and that many MLPs.
        expert_size: config key of an expert's inner size.
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
    experts: str = ""
    expert_size: str = "intermediate_size"


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
    "mistral": Family(_defaults(32000, 4096, 14336, 32, 32, kv=8)),
    "mixtral": Family(_defaults(32000, 4096, 14336, 32, 32, kv=8, num_local_experts=8), experts="num_local_experts"),
    "qwen2": Family(_defaults(151936, 4096, 22016, 32, 32, kv=32), qkv_bias=True),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(
        _QWEN3, names={"num_experts": "num_local_experts"}, experts="num_experts", expert_size="moe_intermediate_size",
        defaults=_defaults(151936, 2048, 6144, 24, 32, kv=4, num_experts=128, moe_intermediate_size=768),
    ),
    "phi3": Family(_defaults(32064, 3072, 8192, 32, 32)),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2, defaults=_defaults(262208, 2304, 9216, 26, 8, kv=4, head_dim=256), head_norms=True,
    ),
    "gpt2": Family(
        _defaults(50257, 768, 0, 12, 12, max_position_embeddings=1024), names=_GPT2_NAMES, qkv_bias=True, out_bias=True,
        mlp_bias=True, gated=False, norm_bias=True, positions=True, tied=True, grouped=False,
    ),
    "gpt_neox": Family(
        _defaults(50432, 6144, 24576, 44, 64), qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias=True,
        gated=False, norm_bias=True, grouped=False,
    ),
}
"""Architectures whose size is known. ``attention_bias`` is on by default only where transformers has it so."""
_BIAS_DEFAULTS = {("gpt_neox", "attention_bias"): True}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one decoder, and what follows from them.

    Attributes:
        parameters: all of them, shared ones once.
        active_parameters: those that one token meets (fewer with experts).
        layer_parameters: those of one layer, experts included.
        embedding_parameters: everything outside the layers.
        inner: width of the MLP that one token meets (of all its experts together).
    """

    model_type: str
    parameters: int
    active_parameters: int
    layer_parameters: int
    embedding_parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    gated: bool
    max_positions: int | None


def shape_of(config: Mapping[str, Any]) -> Shape | str:
    """The decoder that a transformers config describes, or a sentence why its size is not known."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None or not isinstance(kind, str):
        return f"the size of model_type {kind!r} is not known here, so its memory was not checked"
    try:
        return _shape(kind, family, _Numbers(config, family))
    except ValueError as error:
        return f"model.config: {error}; its memory was not checked"


class _Numbers:
    """Reads an architecture's numbers under the names and with the defaults of its family."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        self.config, self.family = config, family

    def get(self, name: str, fallback: int | None = None) -> int:
        key = self.family.names.get(name, name)
        value = self.config.get(key)
        value = value if value is not None else self.config.get(name)
        if value is None:
            value = self.family.defaults.get(name, fallback)
        if value == "heads":
            value = self.get("num_attention_heads")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise ValueError(f"{key} is {value!r}, not a plausible size")
        return value

    def positive(self, name: str, fallback: int | None = None) -> int:
        value = self.get(name, fallback)
        if value < 1:
            raise ValueError(f"{name} is {value}, not a plausible size")
        return value

    def flag(self, kind: str, setting: bool | str) -> bool:
        if isinstance(setting, bool):
            return setting
        return bool(self.config.get(setting, _BIAS_DEFAULTS.get((kind, setting), False)))


def _shape(kind: str, family: Family, numbers: _Numbers) -> Shape:
    hidden, layers = numbers.positive("hidden_size"), numbers.positive("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers is {layers}, not a plausible size")
    heads = numbers.positive("num_attention_heads")
    kv_heads = numbers.positive("num_key_value_heads") if family.grouped else heads
    head_dim = numbers.positive("head_dim", hidden // heads)
    vocab = numbers.positive("vocab_size")
    inner = numbers.get("intermediate_size") or 4 * hidden
    norm = hidden * (2 if family.norm_bias else 1)
    attention = _attention(hidden, heads * head_dim, kv_heads * head_dim, biased=(
        numbers.flag(kind, family.qkv_bias), numbers.flag(kind, family.out_bias)))
    attention += 2 * head_dim if family.head_norms else 0
    dense = _mlp(family, numbers.flag(kind, family.mlp_bias), hidden, inner)
    all_mlp, active_mlp, active_inner = layers * dense, layers * dense, inner
    if family.experts:
        count = numbers.positive(family.experts)
        chosen = numbers.positive("num_experts_per_tok", 2 if kind == "mixtral" else 8)
        size = numbers.positive(family.expert_size)
        sparse = _sparse_layers(numbers, layers)
        expert, router = _mlp(family, False, hidden, size), hidden * count
        all_mlp = sparse * (count * expert + router) + (layers - sparse) * dense
        active_mlp = sparse * (min(chosen, count) * expert + router) + (layers - sparse) * dense
        active_inner = max(size * min(chosen, count), inner if sparse < layers else 0)
    outside = vocab * hidden + norm
    if family.positions:
        outside += numbers.positive("max_position_embeddings") * hidden
    if not numbers.config.get("tie_word_embeddings", family.tied):
        outside += vocab * hidden
    rest = layers * (attention + family.layer_norms * norm)
    return Shape(
        kind, outside + rest + all_mlp, outside + rest + active_mlp, (rest + all_mlp) // layers, outside,
        hidden, layers, heads, kv_heads, head_dim, active_inner, vocab, family.gated,
        numbers.get("max_position_embeddings", 0) or None,
    )


def _attention(hidden: int, queries: int, keys: int, *, biased: tuple[bool, bool]) -> int:
    total = hidden * (queries + 2 * keys) + queries * hidden
    return total + (queries + 2 * keys if biased[0] else 0) + (hidden if biased[1] else 0)


def _mlp(family: Family, bias: bool, hidden: int, inner: int) -> int:
    matrices = (3 if family.gated else 2) * hidden * inner
    return matrices + ((2 * inner if family.gated else inner) + hidden if bias else 0)


def _sparse_layers(numbers: _Numbers, layers: int) -> int:
    """Layers whose MLP is a set of experts (Qwen's configs can leave some dense)."""
    every = numbers.positive("decoder_sparse_step", 1)
    dense = numbers.config.get("mlp_only_layers") or []
    dense = dense if isinstance(dense, list) else []
    return sum(1 for index in range(layers) if index not in dense and (index + 1) % every == 0)
