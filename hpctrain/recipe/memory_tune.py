"""Memory of one rank that tunes a model (pure): adapters, reference models, pairs, generation, reward models, teachers.

What differs from pretraining (:mod:`hpctrain.recipe.memory`), item by item; ``benchmarks/memory.py`` holds the sum against
what torch's MemTracker counts in real steps of trl's own losses at real sizes:

* Frozen weights: with an adapter the model itself is only read, in the compute type (QLoRA: four bits for linear layers),
  and has neither gradient nor optimizer. Hu et al. 2021 (LoRA), Dettmers et al. 2023 (QLoRA).
* Reference model: DPO, and reinforcement learning with ``generation.beta``, compare with the model they started from. With
  an adapter that is the same model with the adapter switched off, and costs nothing; without one it is a second copy.
* Pairs: DPO and reward models compute the better and the worse answer in one pass, so that tokens count twice.
* Loss: trl never makes all logits; it computes them in tiles of 4,096 tokens x 32,768 words, twice, and sums the output
  matrix's gradient in float32. A reward model has one output and no vocabulary.
* Generation: keys and values of all answers that a rank writes at once, or the share of the GPU that vLLM is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpctrain.recipe.adapter_size import adapted, four_bit_bytes, trained_parameters
from hpctrain.recipe.arithmetic import gradient_accumulation, shard_group_size, world_size
from hpctrain.recipe.memory_items import (
    Item,
    activations_item,
    gathered_item,
    layer_bytes_per_token,
    ranks_text,
    runtime_item,
    several_ranks,
    state_item,
)
from hpctrain.recipe.model_size import Shape
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import REINFORCED

LOSS_TOKENS, LOSS_WORDS = 4096, 32768
"""trl's tile of logits: TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE of trl 1.16."""
PAIRS = ("dpo", "reward")


def tuning_items(
    recipe: Recipe, shape: Shape, gpu: bool, others: Mapping[str, Shape] | None = None, capacity_bytes: int | None = None,
) -> Iterator[Item]:
    """The arithmetic of a method that tunes.

    Args:
        others: sizes of further models that the recipe names (reward model, teacher), by path; one that is not in it is
            taken to be as large as the model itself.
        capacity_bytes: memory of the GPU, of which vLLM gets a share.
    """
    compute = 2 if recipe.training.precision == "bf16" else 4
    yield from _weights(recipe, shape, compute)
    yield from _further_models(recipe, shape, compute, others or {})
    activations, loss = _activations(recipe, shape, compute), list(_loss(recipe, shape, compute, gpu))
    yield activations
    yield from loss
    yield from _autocast(recipe, shape, compute, sum(item.size_bytes for item in loss))
    if recipe.method in REINFORCED:
        yield _generation(recipe, shape, compute, capacity_bytes if gpu else None)
    yield runtime_item(gpu)


def tokens_per_pass(recipe: Recipe) -> int:
    """Tokens of one forward pass of one rank."""
    length = recipe.data.sequence_length if recipe.data else 0
    return recipe.training.micro_batch_size * length * (2 if recipe.method in PAIRS else 1)


def _weights(recipe: Recipe, shape: Shape, compute: int) -> Iterator[Item]:
    shards, adapter = shard_group_size(recipe), recipe.adapter
    sharded = recipe.training.parallelism.kind != "ddp"
    accumulates = sharded and gradient_accumulation(recipe) > 1
    trained = trained_parameters(shape, adapter)
    if adapter is not None and adapter.kind == "qlora":
        size = four_bit_bytes(shape)
        yield Item("frozen weights", f"linear layers x 0.52 B, the rest x 2 B / {ranks_text(shards)}", -(-size // shards))
    elif adapter is not None:
        sums = f"{shape.parameters:,} x {compute} B / {ranks_text(shards)}"
        yield Item("frozen weights", sums, -(-shape.parameters * compute // shards))
    yield state_item(recipe, trained, shards, "weights" if adapter is None else "adapter")
    if sharded:
        yield gathered_item(shape, compute, trained=adapter is None)
    elif several_ranks(recipe):
        yield Item("working copies", f"{trained:,} x 4 B (buckets)", trained * 4)
    if accumulates:
        yield Item("whole gradients", f"{trained:,} x 4 B (gradient accumulation)", trained * 4)


def _autocast(recipe: Recipe, shape: Shape, compute: int, loss_bytes: int) -> Iterator[Item]:
    """Autocast's bfloat16 copy of float32 weights: kept for the backward pass, or given up at the end of the forward pass
    where activations are computed again, before the loss and that one layer need their memory.
    """
    if recipe.adapter is not None or recipe.training.parallelism.kind != "ddp" or compute == 4:
        return
    size, sums = shape.parameters * 2, f"{shape.parameters:,} x 2 B"
    if recipe.training.activation_checkpointing:
        size = max(0, size - loss_bytes - tokens_per_pass(recipe) * _layer_bytes(recipe, shape, compute))
        sums += ", less loss and one layer, which come later"
    yield Item("bfloat16 weights", sums, size)


def _further_models(recipe: Recipe, shape: Shape, compute: int, others: Mapping[str, Shape]) -> Iterator[Item]:
    shards = shard_group_size(recipe)
    compared = recipe.method == "dpo" or (recipe.method in REINFORCED and recipe.generation.beta > 0)
    if compared and recipe.adapter is None:
        sums = f"{shape.parameters:,} x 4 B / {ranks_text(shards)}"
        yield Item("reference model", sums, -(-shape.parameters * 4 // shards))
    if recipe.method in REINFORCED:
        for reward in recipe.rewards:
            if reward.kind == "model" and reward.path:
                size = others.get(reward.path, shape).parameters
                yield Item("reward model", f"{size:,} x {compute} B", size * compute)
    if recipe.method == "distill" and recipe.teacher and recipe.teacher.path:
        size = others.get(recipe.teacher.path, shape).parameters
        yield Item("teacher", f"{size:,} x {compute} B / {ranks_text(shards)}", -(-size * compute // shards))


def _activations(recipe: Recipe, shape: Shape, compute: int) -> Item:
    mixed = recipe.adapter is None and recipe.training.parallelism.kind == "ddp"  # float32 between the layers
    kept = shape.hidden * (4 if mixed else compute)
    return activations_item(recipe, _layer_bytes(recipe, shape, compute), tokens_per_pass(recipe), kept, shape.layers)


def _layer_bytes(recipe: Recipe, shape: Shape, compute: int) -> int:
    """What autograd keeps of one layer per token, tensor by tensor."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    eager = recipe.model is not None and recipe.model.attention == "eager"
    length = recipe.data.sequence_length if eager and recipe.data else 0
    if compute == 4:
        return layer_bytes_per_token(shape, compute, length)
    head_norms = queries + keys if shape.head_norms else 0
    scores = shape.heads * length * 6
    routed = 2 * compute * shape.routed * hidden  # each expert's output, and that times its weight
    attention = compute * (2 * queries + 2 * keys) + scores
    if recipe.adapter is not None:
        # Frozen weights need no input; each adapter keeps a copy of its own, and the narrow value between its matrices.
        norms = hidden * (4 * shape.norms + 2 * compute) + 5 * head_norms
        own = sum(item.count * (item.inputs + recipe.adapter.rank) for item in adapted(shape, recipe.adapter))
        return norms + attention + compute * 3 * shape.inner + routed + -(-own * compute // shape.layers)
    rest = attention + compute * (queries + 4 * shape.inner) + routed + 6 * head_norms
    if recipe.training.parallelism.kind == "ddp":
        return hidden * (8 * shape.norms + 5 * compute) + rest  # float32 norms, and a bfloat16 copy for each linear layer
    return hidden * shape.norms * (4 + 2 * compute) + rest


def _loss(recipe: Recipe, shape: Shape, compute: int, gpu: bool) -> Iterator[Item]:
    tokens = tokens_per_pass(recipe)
    if recipe.method == "reward":
        return
    rows, words = min(tokens, LOSS_TOKENS), min(LOSS_WORDS, shape.vocab)
    tile = compute if gpu else compute + 26  # without Triton the tile's gradient is made in many steps, each in float32
    size = rows * words * tile + tokens * shape.hidden * 4
    sums = f"{rows:,} tokens x {words:,} words x {tile} B + {tokens:,} tokens x {shape.hidden:,} x 4 B"
    if recipe.adapter is None:
        size += shape.vocab * shape.hidden * 4
        sums += f" + {shape.vocab:,} x {shape.hidden:,} x 4 B"
    yield Item("loss", sums, size)


def _generation(recipe: Recipe, shape: Shape, compute: int, capacity_bytes: int | None) -> Item:
    generation = recipe.generation
    if generation.engine == "vllm" or (generation.engine == "auto" and capacity_bytes):
        if generation.placement == "separate":
            return Item("generation", "on nodes of its own", 0)
        share = round(generation.gpu_memory_share * (capacity_bytes or 0))
        return Item("generation", f"{generation.gpu_memory_share:g} of the GPU for vLLM", share)
    answers = max(1, recipe.training.global_batch_size // world_size(recipe.resources))
    length = recipe.data.sequence_length if recipe.data else 0
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * compute
    sums = f"{answers:,} answers x {length:,} tokens x {per_token:,} B of keys and values"
    return Item("generation", sums, answers * length * per_token)
