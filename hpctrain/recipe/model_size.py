"""Numbers of parameters from an architecture's numbers, without building the model (pure).

Checked against transformers itself in ``tests/unit/recipe/test_memory.py``, default values included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.recipe.model_families import BIAS_DEFAULTS, FAMILIES, Family

__all__ = ["FAMILIES", "Family", "Linear", "Shape", "shape_of"]

_LARGEST = 10**9
_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear layers of one name and size, all layers of the model together; the output head is not among them."""

    name: str
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one decoder, and what follows from them.

    Attributes:
        parameters: all of them, shared ones once.
        active_parameters: those that one token meets (fewer with experts).
        layer_parameters: those of one layer, experts included; the mean, where layers differ.
        embedding_parameters: everything outside the layers.
        inner: width of the MLP that one token is computed through (of all its experts together).
        routed: experts that one token is computed through, 0 for none.
        linears: what an adapter can be attached to.
        experts: what peft's "all-linear" attaches adapters to besides: experts and their router, one by one.
        norms: norms of the hidden size per layer.
        head_norms: queries and keys have norms besides.
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
    routed: int = 0
    linears: tuple[Linear, ...] = ()
    norms: int = 2
    head_norms: bool = False
    experts: tuple[Linear, ...] = ()


def shape_of(config: Mapping[str, Any]) -> Shape | str:
    """The decoder that a transformers config describes, or a sentence why its size is not known.

    Of a config with a ``text_config`` (a model that also sees) the decoder of text is meant.
    """
    text = config.get("text_config")
    kind = config.get("model_type")
    if isinstance(kind, str) and kind not in FAMILIES and isinstance(text, Mapping):
        config, kind = text, text.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None or not isinstance(kind, str):
        return f"the size of model_type {kind!r} is not known here, so its memory was not checked"
    try:
        return _shape(kind, family, _Numbers(kind, config, family))
    except ValueError as error:
        return f"model.config: {error}; its memory was not checked"


class _Numbers:
    """Reads an architecture's numbers under the names and with the defaults of its family."""

    def __init__(self, kind: str, config: Mapping[str, Any], family: Family) -> None:
        self.kind, self.config, self.family = kind, config, family

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

    def flag(self, setting: bool | str) -> bool:
        if isinstance(setting, bool):
            return setting
        return bool(self.config.get(setting, BIAS_DEFAULTS.get((self.kind, setting), False)))


@dataclass(frozen=True, slots=True)
class _Part:
    """Attention or MLP of one layer: its parameters beside the linear layers that are listed, and those."""

    rest: int
    linears: tuple[Linear, ...]
    biases: int = 0

    @property
    def parameters(self) -> int:
        return self.rest + self.biases + sum(item.inputs * item.outputs for item in self.linears)


def _shape(kind: str, family: Family, numbers: _Numbers) -> Shape:
    hidden, layers = numbers.positive("hidden_size"), numbers.positive("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers is {layers}, not a plausible size")
    heads = numbers.positive("num_attention_heads")
    kv_heads = numbers.positive("num_key_value_heads") if family.grouped else heads
    attention, head_dim = _latent(family, numbers, heads) if family.latent else _attention(family, numbers, heads, kv_heads)
    vocab, norm = numbers.positive("vocab_size"), hidden * (2 if family.norm_bias else 1)
    mlp = _Mlp(family, numbers, layers)
    outside = vocab * hidden + norm
    if family.positions:
        outside += numbers.positive("max_position_embeddings") * hidden
    tied = bool(numbers.config.get("tie_word_embeddings", family.tied))
    outside += 0 if tied else vocab * hidden
    rest = layers * (attention.parameters + family.layer_norms * norm)
    return Shape(
        kind, outside + rest + mlp.parameters, outside + rest + mlp.active, (rest + mlp.parameters) // layers, outside,
        hidden, layers, heads, heads if family.latent else kv_heads, head_dim, mlp.inner, vocab, family.gated,
        numbers.get("max_position_embeddings", 0) or None, mlp.routed,
        tuple(Linear(item.name, item.inputs, item.outputs, layers) for item in attention.linears) + tuple(mlp.linears()),
        family.layer_norms, family.head_norms, tuple(mlp.experts()),
    )


def _attention(family: Family, numbers: _Numbers, heads: int, kv_heads: int) -> tuple[_Part, int]:
    hidden = numbers.positive("hidden_size")
    head_dim = numbers.positive("head_dim", hidden // heads)
    queries, keys = heads * head_dim, kv_heads * head_dim
    biases = (queries + 2 * keys if numbers.flag(family.qkv_bias) else 0) + (hidden if numbers.flag(family.out_bias) else 0)
    rest = (2 * head_dim if family.head_norms else 0) + (heads if family.sinks else 0)
    *inputs, out = family.attention
    sizes = [queries, keys, keys] if len(inputs) == 3 else [queries + 2 * keys]
    linears = [Linear(name, hidden, size, 1) for name, size in zip(inputs, sizes, strict=True)]
    return _Part(rest, (*linears, Linear(out, queries, hidden, 1)), biases), head_dim


def _latent(family: Family, numbers: _Numbers, heads: int) -> tuple[_Part, int]:
    """Queries, keys and values through small common vectors; the part with positions beside them."""
    hidden, rope = numbers.positive("hidden_size"), numbers.positive("qk_rope_head_dim")
    nope, value = numbers.positive("qk_nope_head_dim"), numbers.positive("v_head_dim")
    latent, head_dim = numbers.positive("kv_lora_rank"), nope + rope
    direct = "q_lora_rank" in numbers.config and numbers.config["q_lora_rank"] is None
    query_latent = 0 if direct else numbers.positive("q_lora_rank")
    queries = [Linear("q_proj", hidden, heads * head_dim, 1)] if direct else [
        Linear("q_a_proj", hidden, query_latent, 1), Linear("q_b_proj", query_latent, heads * head_dim, 1)]
    biases = query_latent + latent + rope if numbers.flag(family.qkv_bias) else 0
    return _Part(query_latent + latent, (
        *queries, Linear("kv_a_proj_with_mqa", hidden, latent + rope, 1),
        Linear("kv_b_proj", latent, heads * (nope + value), 1), Linear("o_proj", heads * value, hidden, 1),
    ), biases + (hidden if numbers.flag(family.out_bias) else 0)), head_dim



class _Mlp:
    """The MLPs of all layers: dense ones, and sets of experts."""

    def __init__(self, family: Family, numbers: _Numbers, layers: int) -> None:
        self.family, self.hidden = family, numbers.positive("hidden_size")
        self.dense_size = numbers.get(family.dense_size) or 4 * self.hidden
        self.sparse = _sparse_layers(family, numbers, layers) if family.experts else 0
        self.dense, bias = layers - self.sparse, numbers.flag(family.mlp_bias)
        dense = self.dense * self._matrices(self.dense_size, bias)
        self.parameters = self.active = dense
        self.inner, self.routed, self.shared, self.count, self.expert_size = self.dense_size, 0, 0, 0, 0
        if not self.sparse:
            return
        self.count, size = numbers.positive(family.experts), numbers.positive(family.expert_size)
        self.expert_size = size
        chosen = min(numbers.positive("num_experts_per_tok"), self.count)
        self.shared = size if family.shared == "one" else size * numbers.get(family.shared) if family.shared else 0
        self.routed = self.count if family.all_experts else chosen
        router = self.hidden * self.count + (self.count if family.expert_biases else 0)
        fixed = router + (self._matrices(self.shared, False) if self.shared else 0)
        expert = self._matrices(size, family.expert_biases)
        self.parameters += self.sparse * (self.count * expert + fixed)
        self.active += self.sparse * (chosen * expert + fixed)
        self.inner = max(size * self.routed + self.shared, self.dense_size if self.dense else 0)

    def _matrices(self, inner: int, bias: bool) -> int:
        gates = 2 if self.family.gated else 1
        return (gates + 1) * self.hidden * inner + (gates * inner + self.hidden if bias else 0)

    def linears(self) -> Iterator[Linear]:
        """Those of dense MLPs and shared experts; experts that are chosen are one tensor, not linear layers."""
        *inputs, out = self.family.mlp
        for size, count in ((self.dense_size, self.dense), (self.shared, self.sparse)):
            if not size or not count:
                continue
            width = size * (2 if self.family.gated and len(inputs) == 1 else 1)
            yield from (Linear(name, self.hidden, width, count) for name in inputs)
            yield Linear(out, size, self.hidden, count)
        if self.family.router and self.sparse:
            yield Linear(self.family.router, self.hidden, self.count, self.sparse)


    def experts(self) -> Iterator[Linear]:
        """Experts and router as peft adapts them: twice the rank where gate and up are one tensor."""
        if self.family.adapted_experts and self.sparse:
            yield Linear("gate_up_proj", self.hidden, 2 * self.expert_size, 2 * self.count * self.sparse)
            yield Linear("down_proj", self.expert_size, self.hidden, self.count * self.sparse)
            yield Linear("gate", self.hidden, self.count, self.sparse)


def _sparse_layers(family: Family, numbers: _Numbers, layers: int) -> int:
    """Layers whose MLP is a set of experts (configs can leave some dense)."""
    chosen = numbers.config.get("moe_layers")
    if family.all_experts and isinstance(chosen, list):
        return len(chosen)
    every = numbers.positive(family.sparse_step, 1)
    first = numbers.get(family.first_dense) if family.first_dense else 0
    dense = numbers.config.get("mlp_only_layers") or []
    dense = dense if isinstance(dense, list) else []
    return sum(1 for index in range(first, layers) if index not in dense and (index + 1) % every == 0)
