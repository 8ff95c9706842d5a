"""Combinations of values that cannot work, refused before anything is queued (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpctrain.recipe.arithmetic import ranks_per_node, shard_group_size, total_steps, world_size
from hpctrain.recipe.check_checkpoint import check_checkpoint
from hpctrain.recipe.check_cluster import check_cluster, device_is_gpu
from hpctrain.recipe.check_data import check_data
from hpctrain.recipe.check_detection import check_detection
from hpctrain.recipe.check_endpoint import check_endpoints, endpoint_notes
from hpctrain.recipe.check_evaluate import check_evaluate
from hpctrain.recipe.check_method import check_method
from hpctrain.recipe.facts import ClusterFacts
from hpctrain.recipe.problem import Problem, shown
from hpctrain.recipe.rewards import check_rewards
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.units import format_duration, several
from hpctrain.train.environment import TORCHRUN_NAMES

BYTES_VOCABULARY = 258
"""256 bytes, end of text, padding."""
LONGEST_SIGNAL_S = 65535
"""Slurm's own limit for --signal."""

_OURS = tuple(name for name in TORCHRUN_NAMES if name != "OMP_NUM_THREADS")  # torchrun too keeps a user's own value
_RESERVED_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "HPCTRAIN_", "TORCHELASTIC_", "PMI_", "PMIX_")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL)", re.IGNORECASE)
_MOUNT = re.compile(r"^/[^:,]*(?::/[^:,]*(?::(?:ro|rw))?)?$")


def check(recipe: Recipe, config: Mapping[str, Any] | None = None, facts: ClusterFacts | None = None) -> list[Problem]:
    """All combinations that cannot work.

    Args:
        config: the model's architecture, from the recipe or its ``config.json``, where it is known.
        facts: the cluster, where it is known.
    """
    problems = [*_kind(recipe), *_env(recipe), *_container(recipe), *_resources(recipe), *_limits(recipe)]
    problems += [*check_checkpoint(recipe), *check_detection(recipe)]
    if recipe.method is not None:
        problems += [*_model(recipe), *_data(recipe), *check_data(recipe), *_tokenizer(recipe, config), *_training(recipe)]
        problems += [*_parallelism(recipe), *_context(recipe, config), *check_method(recipe, config), *check_rewards(recipe)]
        problems += [*check_endpoints(recipe), *check_evaluate(recipe)]
    if facts is not None:
        problems += check_cluster(recipe, facts)
    return problems


def notes_on(recipe: Recipe, facts: ClusterFacts | None = None) -> list[str]:
    """Sentences about things that work, but that the user should know."""
    secrets = sorted(name for name in recipe.env if _SECRET.search(name))
    notes = []
    if secrets:
        notes.append(f"env holds what looks like a secret ({', '.join(secrets)}); it is stored in the run directory")
    if "LD_PRELOAD" in recipe.env:
        notes.append("env sets LD_PRELOAD, which every rank will load")
    if recipe.model and recipe.model.trust_remote_code:
        notes.append("model.trust_remote_code runs Python code that comes with the model, with your rights")
    if facts is not None and recipe.resources.gpus_per_node and not device_is_gpu(recipe, facts):
        notes.append("this cluster's GPUs are simulated: the ranks compute on the CPU")
    notes += endpoint_notes(recipe)
    return notes


def _kind(recipe: Recipe) -> Iterator[Problem]:
    if (recipe.method is None) == (recipe.command is None):
        both = recipe.method is not None
        yield Problem(("command",) if both else (), "give either 'method' or 'command'" + (", not both" if both else ""))
    elif recipe.method is not None:
        for section in ("model", "data"):
            if getattr(recipe, section) is None:
                yield Problem((section,), f"method '{recipe.method}' needs a '{section}' section")
    else:
        for section in ("model", "data"):
            if getattr(recipe, section) is not None:
                yield Problem((section,), "has no effect with 'command', whose script brings its own; take it out")
        if recipe.command and recipe.command[0].rsplit("/", 1)[-1] in ("torchrun", "srun", "mpirun", "accelerate"):
            yield Problem(("command", 0), (
                f"each rank is started as torchrun would start it; leave out {recipe.command[0]!r} and its options, "
                "and begin with the script"))


def _model(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if model is None:
        return
    if (model.config is None) == (model.path is None):
        yield Problem(("model",), "needs exactly one of 'config' (an architecture) and 'path' (a model)")
    elif model.config is not None and not isinstance(model.config.get("model_type"), str):
        yield Problem(("model", "config"), "needs 'model_type', such as llama, as in a model's config.json")
    if recipe.method not in (None, "pretrain") and model.path is None and model.config is not None:
        yield Problem(("method",), (
            f"method '{recipe.method}' starts from trained weights: give model.path instead of model.config"))
    if model.attention == "flash_attention_2":
        if recipe.resources.gpus_per_node == 0:
            yield Problem(("model", "attention"), "flash_attention_2 needs GPUs; resources.gpus_per_node is 0")
        elif recipe.training.precision != "bf16":
            yield Problem(("model", "attention"), "flash_attention_2 needs training.precision bf16")


def _data(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if data is None:
        return
    wanted = {"files": "paths", "huggingface": "name"}.get(data.source)
    if wanted and not getattr(data, wanted):
        yield Problem(("data",), f"source '{data.source}' needs data.{wanted}")
    for key, source in (("paths", "files"), ("name", "huggingface"), ("subset", "huggingface")):
        if getattr(data, key) and data.source != source:
            yield Problem(("data", key), f"belongs to source '{source}', but data.source is '{data.source}'")
    if recipe.training.evaluate_every_steps and not data.validation_fraction:
        yield Problem(("training", "evaluate_every_steps"), "needs data.validation_fraction above 0, to measure on")


def _tokenizer(recipe: Recipe, config: Mapping[str, Any] | None) -> Iterator[Problem]:
    tokenizer = recipe.tokenizer
    if tokenizer.kind == "pretrained" and not tokenizer.path:
        yield Problem(("tokenizer",), "kind 'pretrained' needs tokenizer.path, a local directory or hub id")
    if tokenizer.kind != "pretrained":
        if tokenizer.path:
            yield Problem(("tokenizer", "path"), (
                f"kind is '{tokenizer.kind}', which has no path; set tokenizer.kind to pretrained"))
        size = _number(config, "vocab_size")
        if size is not None and size < BYTES_VOCABULARY:
            yield Problem(("model", "config", "vocab_size"), (
                f"{size} is too small for the byte tokenizer: 256 bytes + end of text + padding = {BYTES_VOCABULARY}"))


def _training(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    lengths = [name for name in ("steps", "tokens", "epochs") if getattr(training, name) is not None]
    if len(lengths) != 1:
        got = " and ".join(lengths) if lengths else "none"
        place = ("training", lengths[-1]) if lengths else ("training",)
        yield Problem(place, f"needs exactly one of steps, tokens, epochs; got {got}")
    yield from _batch(recipe)
    steps = total_steps(recipe)
    if len(lengths) == 1 and steps is not None and training.schedule.warmup_steps > steps:
        yield Problem(("training", "schedule", "warmup_steps"), (
            f"{training.schedule.warmup_steps} steps of warm-up are more than the {steps} steps of training; "
            f"change both, such as --set training.schedule.warmup_steps={steps // 10}"))


def _batch(recipe: Recipe) -> Iterator[Problem]:
    training, resources = recipe.training, recipe.resources
    ranks = world_size(resources)
    unit, wanted = training.micro_batch_size * ranks, training.global_batch_size
    if wanted % unit == 0:
        return
    below = wanted // unit * unit
    nearest = f"{below} or {below + unit}" if below else str(unit)
    yield Problem(("training", "global_batch_size"), (
        f"{wanted} cannot be split evenly: micro_batch_size {training.micro_batch_size} x {ranks} ranks "
        f"({several(resources.nodes, 'node')} x {ranks_per_node(resources)}) = {unit} samples per pass, and "
        f"{wanted} = {wanted // unit} x {unit} + {wanted % unit}; nearest that work: {nearest}"))


def _parallelism(recipe: Recipe) -> Iterator[Problem]:
    parallelism, ranks = recipe.training.parallelism, world_size(recipe.resources)
    place = ("training", "parallelism", "shard_size")
    if parallelism.kind != "hsdp":
        if parallelism.shard_size is not None:
            yield Problem(place, f"belongs to kind 'hsdp', but the kind is '{parallelism.kind}'")
        return
    size = shard_group_size(recipe)
    if ranks % size:
        near = [str(n) for n in range(2, ranks + 1) if ranks % n == 0][:8]
        yield Problem(place, f"groups of {size} do not divide {ranks} ranks ({ranks} = {ranks // size} x {size} + "
                             f"{ranks % size}); sizes that do: {', '.join(near)}")
    elif size == 1:
        yield Problem(("training", "parallelism", "kind"), (
            "hsdp shards over the ranks of one node, and a node has one rank here; set parallelism.shard_size or use fsdp2"))


def _context(recipe: Recipe, config: Mapping[str, Any] | None) -> Iterator[Problem]:
    longest = _number(config, "max_position_embeddings") or _number(config, "n_positions")
    if recipe.data and longest is not None and recipe.data.sequence_length > longest:
        yield Problem(("data", "sequence_length"), (
            f"{recipe.data.sequence_length} tokens are more than the model's {longest} positions (max_position_embeddings)"))


def _resources(recipe: Recipe) -> Iterator[Problem]:
    resources = recipe.resources
    if resources.gpus_per_node == 0:
        for key in ("gpu_type", "gpu_memory"):
            if getattr(resources, key) is not None:
                yield Problem(("resources", key), "has no effect: resources.gpus_per_node is 0")
    elif ranks_per_node(resources) > resources.gpus_per_node:
        yield Problem(("resources", "ranks_per_node"), (
            f"{resources.ranks_per_node} ranks on {resources.gpus_per_node} GPUs of a node: a GPU serves one rank"))
    cpus, ranks = resources.cpus_per_node, ranks_per_node(resources)
    if cpus is not None and cpus < ranks:
        yield Problem(("resources", "cpus_per_node"), f"{cpus} CPUs for {ranks} ranks of a node; each needs at least one")


def _limits(recipe: Recipe) -> Iterator[Problem]:
    limit, stop = recipe.resources.time_limit, recipe.resilience.stop_before_limit
    place = ("resilience", "stop_before_limit")
    if stop > LONGEST_SIGNAL_S:
        yield Problem(place, f"{format_duration(stop)} is more than Slurm can do ({LONGEST_SIGNAL_S} s)")
    elif limit is not None and stop >= limit:
        yield Problem(place, (
            f"stopping {format_duration(stop)} before the limit leaves nothing of resources.time_limit, "
            f"{format_duration(limit)}"))


def _container(recipe: Recipe) -> Iterator[Problem]:
    resources = recipe.resources
    if resources.container is None:
        for key in ("container_runtime", "container_mounts"):
            if getattr(resources, key):
                yield Problem(("resources", key), "has no effect without resources.container")
        return
    if not resources.container.strip() or resources.container.startswith("-"):
        yield Problem(("resources", "container"), f"{shown(resources.container)} is not the name of an image")
    if resources.container.endswith(".sif") and resources.container_runtime == "pyxis":
        yield Problem(("resources", "container_runtime"), "pyxis cannot run a .sif file; use apptainer")
    if resources.container.endswith(".sqsh") and resources.container_runtime == "apptainer":
        yield Problem(("resources", "container_runtime"), "apptainer cannot run a .sqsh file; use pyxis")
    for index, mount in enumerate(resources.container_mounts):
        if not _MOUNT.match(mount):
            yield Problem(("resources", "container_mounts", index), (
                f"{shown(mount)} is not /host/path[:/container/path[:ro]] without commas"))


def _env(recipe: Recipe) -> Iterator[Problem]:
    for name, value in recipe.env.items():
        if name in _OURS or name.startswith(_RESERVED_PREFIXES):
            yield Problem(("env", name), "is set by Slurm or hpctrain for each rank; a recipe may not change it")
        elif len(value) > 100_000:
            yield Problem(("env", name), f"is {len(value)} characters long; Linux allows 131072 for one variable")


def _number(config: Mapping[str, Any] | None, key: str) -> int | None:
    value = config.get(key) if config else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
