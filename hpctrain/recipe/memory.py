"""Memory of one rank, as an arithmetic that can be read, before anything is queued (pure).

An estimate, not a measurement: it is there to refuse what cannot fit and to show which knob matters. Per item:

* Weights, gradients, optimizer: float32 master copies (4 + 4 bytes per parameter) and the optimizer's state (AdamW 8,
  SGD 4 with momentum), divided by the ranks that share one copy. Rajbhandari et al. 2020 (ZeRO) is the usual account.
* Working copies: what is whole for a moment. FSDP2 gathers the parameters outside the layers and two layers (the next
  one is fetched ahead) in the compute type, and holds one unit's gradient in it and once more in float32 to reduce it;
  DDP has its buckets (float32 gradients once more) and, with bfloat16, autocast's copy of the weights.
* Whole gradients: with FSDP2 and gradient accumulation the trainer reduces gradients in the last pass only, and until
  then each rank holds all of them in float32.
* Activations: counted tensor by tensor for a decoder layer whose attention never stores its score matrix (PyTorch's
  scaled_dot_product_attention), after Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
  Models", section 4, with that paper's 5as/h term only for eager attention. Activation checkpointing keeps one
  residual per layer and one layer in full.
* Logits and loss: vocabulary x tokens, in the compute type once and in float32 three times (log-softmax, its gradient,
  the gradient of the logits). Often the largest item of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpctrain.recipe.adapter_size import adapts_experts
from hpctrain.recipe.arithmetic import gradient_accumulation, ranks_per_node, shard_group_size, world_size
from hpctrain.recipe.check_cluster import device_is_gpu
from hpctrain.recipe.facts import ClusterFacts
from hpctrain.recipe.memory_items import (
    GPU_MEMORY_MIB,
    Item,
    activations_item,
    gathered_item,
    layer_bytes_per_token,
    runtime_item,
    state_item,
)
from hpctrain.recipe.memory_ram import RamUse, ram_notes, ram_problems, ram_use
from hpctrain.recipe.memory_tune import tuning_items
from hpctrain.recipe.model_size import Shape, shape_of
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Parallelism, Recipe
from hpctrain.recipe.schema_method import TUNING, Adapter
from hpctrain.recipe.units import format_bytes

__all__ = ["GPU_MEMORY_MIB", "Estimate", "Item", "check_memory", "estimate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory of one rank.

    Attributes:
        shape: the model, None where its size is not known (then there are no items).
        items: the arithmetic, line by line.
        device: whose memory it is, with its verb: ``a GPU has``.
        on_gpu: the ranks compute on GPUs.
        capacity_bytes: what there is, None where that is not known.
        capacity_from: where that number comes from.
        notes: sentences about what could not be checked, or will not work as wished.
        ram: what checkpoints in memory take of a node; None where they are off, or nothing is known.
        others: sizes of further models that the recipe names, by path.
    """

    shape: Shape | None = None
    items: tuple[Item, ...] = ()
    device: str = "a GPU has"
    on_gpu: bool = True
    capacity_bytes: int | None = None
    capacity_from: str = ""
    notes: tuple[str, ...] = ()
    ram: RamUse | None = None
    others: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def parameters(self) -> int | None:
        """Parameters of the model."""
        return self.shape.parameters if self.shape else None

    @property
    def total_bytes(self) -> int:
        """Sum of the items."""
        return sum(item.size_bytes for item in self.items)

    @property
    def fits(self) -> bool:
        """Not known to be too large."""
        return self.capacity_bytes is None or self.total_bytes <= self.capacity_bytes

    def lines(self) -> list[str]:
        """The arithmetic as aligned lines of text."""
        rows = [(item.what, item.arithmetic, format_bytes(item.size_bytes)) for item in self.items]
        widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else [0, 0, 0]
        return [f"{what:<{widths[0]}}  {sums:<{widths[1]}}  {size:>{widths[2]}}" for what, sums, size in rows]


def estimate(
    recipe: Recipe, config: Mapping[str, Any] | None, gpu_memory_bytes: Mapping[str, int], facts: ClusterFacts | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Estimate:
    """What one rank needs and has.

    Args:
        config: the model's architecture, None where it is not known.
        gpu_memory_bytes: the site's table of GPU types; it wins over the built-in one.
        facts: the cluster, where it is known.
        others: architectures of further models that the recipe names (reward model, teacher), by path, where known.
    """
    if recipe.data is None or config is None:
        return Estimate()
    shape = shape_of(config)
    if isinstance(shape, str):
        return Estimate(notes=(shape,))
    gpu = device_is_gpu(recipe, facts)
    as_gpu = gpu or recipe.resources.gpu_memory is not None  # said in the recipe: also where GPUs are simulated
    capacity, source = _gpu_capacity(recipe, gpu_memory_bytes, facts) if as_gpu else _cpu_capacity(recipe, facts)
    notes = [] if capacity or not gpu else [f"the memory of a GPU is not known, so the size was not checked: {source}"]
    device = "a GPU has" if as_gpu else "a rank's share of its node is"
    further = {path: found for path, values in (others or {}).items() if isinstance(found := shape_of(values), Shape)}
    items = tuple(_items(recipe, shape, gpu, capacity, further))
    ram = ram_use(recipe, shape, facts, rank_bytes=0 if as_gpu else sum(item.size_bytes for item in items))
    notes += ram_notes(recipe, ram)
    if recipe.adapter is not None and adapts_experts(shape, recipe.adapter):
        notes.append("adapter.target_modules 'all-linear' adapts the experts too, through a changed copy of each layer's "
                     "experts, which is not counted here; name the layers, such as [q_proj, k_proj, v_proj, o_proj]")
    return Estimate(shape, items, device, gpu, capacity, source, tuple(notes), ram, further)


def check_memory(recipe: Recipe, size: Estimate) -> list[Problem]:
    """One problem, with the arithmetic and what would fit, if the model is larger than the memory it is given."""
    host = [*_host_problem(recipe, size), *ram_problems(recipe, size.ram)]
    if size.fits or size.shape is None or size.capacity_bytes is None:
        return host
    head = (f"{size.shape.parameters:,} parameters need about {format_bytes(size.total_bytes)} per rank, and "
            f"{size.device} {format_bytes(size.capacity_bytes)} ({size.capacity_from}):")
    body = "\n".join(f"      {line}" for line in size.lines())
    return [Problem(("model",), f"{head}\n{body}\n      {_remedy(recipe, size)}"), *host]


def _host_problem(recipe: Recipe, size: Estimate) -> list[Problem]:
    """Rank 0 builds the whole model in its node's memory before it is sharded, and once more to export it."""
    memory = recipe.resources.memory_per_node
    if memory is None or size.shape is None or not size.on_gpu or recipe.training.parallelism.kind == "ddp":
        return []
    needs = 4 * size.shape.parameters
    if needs <= memory:
        return []
    return [Problem(("resources", "memory_per_node"), (
        f"{format_bytes(memory)} cannot hold the model that rank 0 builds before it is sharded: "
        f"{size.shape.parameters:,} parameters x 4 B = {format_bytes(needs)}"))]


def _items(
    recipe: Recipe, shape: Shape, gpu: bool, capacity: int | None = None, others: Mapping[str, Shape] | None = None,
) -> Iterator[Item]:
    if recipe.method in TUNING:
        yield from tuning_items(recipe, shape, gpu, others, capacity)
        return
    training, shards = recipe.training, shard_group_size(recipe)
    tokens = training.micro_batch_size * (recipe.data.sequence_length if recipe.data else 0)
    compute = 2 if training.precision == "bf16" else 4
    yield state_item(recipe, shape.parameters, shards)
    yield _working(recipe, shape, compute)
    if training.parallelism.kind != "ddp" and gradient_accumulation(recipe) > 1:
        yield Item("whole gradients", f"{shape.parameters:,} x 4 B (gradient accumulation)", shape.parameters * 4)
    eager = recipe.model is not None and recipe.model.attention == "eager"
    layer = layer_bytes_per_token(shape, compute, recipe.data.sequence_length if eager and recipe.data else 0)
    kept = shape.hidden * (4 if training.parallelism.kind == "ddp" else compute)
    yield activations_item(recipe, layer, tokens, kept, shape.layers)
    per_logit = compute + 12
    logits = tokens * shape.vocab * per_logit
    yield Item("logits and loss", f"{tokens:,} tokens x {shape.vocab:,} vocabulary x {per_logit} B", logits)
    yield runtime_item(gpu)


def _working(recipe: Recipe, shape: Shape, compute: int) -> Item:
    if recipe.training.parallelism.kind == "ddp":
        if compute == 4:
            return Item("working copies", f"{shape.parameters:,} x 4 B (buckets)", shape.parameters * 4)
        return Item("working copies", f"{shape.parameters:,} x (4 + 2) B (buckets, bfloat16)", shape.parameters * 6)
    return gathered_item(shape, compute)



def _gpu_capacity(recipe: Recipe, table: Mapping[str, int], facts: ClusterFacts | None) -> tuple[int | None, str]:
    resources = recipe.resources
    if resources.gpu_memory is not None:
        return resources.gpu_memory, "resources.gpu_memory"
    kind = resources.gpu_type or _only_gpu_type(recipe, facts)
    if not kind:
        return None, "set resources.gpu_memory or resources.gpu_type"
    for name, size_bytes in table.items():
        if name.lower() == kind.lower():
            return size_bytes, f"GPU type {kind}, from the settings"
    if kind.lower() in GPU_MEMORY_MIB:
        return GPU_MEMORY_MIB[kind.lower()] * 2**20, f"GPU type {kind}"
    return None, f"GPU type {kind} is not in the table; set resources.gpu_memory"


def _only_gpu_type(recipe: Recipe, facts: ClusterFacts | None) -> str:
    part = facts.partition(recipe.resources.partition) if facts else None
    kinds = {group.gpu_type for group in part.groups if group.gpus} if part else set()
    return kinds.pop() if len(kinds) == 1 else ""


def _cpu_capacity(recipe: Recipe, facts: ClusterFacts | None) -> tuple[int | None, str]:
    ranks = ranks_per_node(recipe.resources)
    memory, source = recipe.resources.memory_per_node, "resources.memory_per_node"
    part = facts.partition(recipe.resources.partition) if facts else None
    if memory is None and part and not any(group.simulated for group in part.groups):
        # Slurm's default may be less; more than the largest node has is impossible in any case.
        memory, source = max((group.memory_bytes for group in part.groups), default=0), "memory of a node"
    return (memory // ranks, f"{source} {format_bytes(memory)} / {ranks} ranks") if memory and memory > 2**24 else (None, "")


def _remedy(recipe: Recipe, size: Estimate) -> str:
    """The smallest change of the recipe that makes it fit, tried out with the same arithmetic."""
    shape, capacity = size.shape, size.capacity_bytes
    if shape is None or capacity is None:
        return ""
    tried = recipe
    changes: list[str] = []
    for words, changed in _smaller(recipe, size):
        tried = changed
        changes.append(words)
        needs = sum(item.size_bytes for item in _items(tried, shape, size.on_gpu, capacity, size.others))
        if needs <= capacity:
            return f"what would fit: {', '.join(changes)} ({format_bytes(needs)} per rank)"
    nodes = tried.resources.nodes
    while nodes < 4096:
        nodes *= 2
        larger = tried.model_copy(update={"resources": tried.resources.model_copy(update={"nodes": nodes})})
        needs = sum(item.size_bytes for item in _items(larger, shape, size.on_gpu, capacity, size.others))
        if needs <= capacity:
            return f"what would fit: {', '.join([*changes, f'resources.nodes={nodes}'])} ({format_bytes(needs)} per rank)"
    return "nothing this version can do makes it fit: take a smaller model, a shorter data.sequence_length or larger GPUs"


def _smaller(recipe: Recipe, size: Estimate) -> Iterator[tuple[str, Recipe]]:
    """The recipe with one thing after the other changed that takes less memory, and how each is written."""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("training.activation_checkpointing=true", {"activation_checkpointing": True}),
        ("training.micro_batch_size=1", {"micro_batch_size": 1}),
    ]
    if world_size(recipe.resources) > 1:
        changes.insert(0, ("training.parallelism.kind=fsdp2", {"parallelism": Parallelism(kind="fsdp2")}))
    tried = recipe
    for words, update in changes:
        changed = tried.model_copy(update={"training": tried.training.model_copy(update=update)})
        if changed != tried:
            tried = changed
            yield words, tried
    if recipe.method in TUNING and recipe.adapter is None:
        tried = tried.model_copy(update={"adapter": Adapter()})
        yield "adapter.kind=lora", tried
    if recipe.method in TUNING and size.on_gpu and recipe.adapter is not None and recipe.adapter.kind != "qlora":
        yield "adapter.kind=qlora", tried.model_copy(update={"adapter": recipe.adapter.model_copy(update={"kind": "qlora"})})
