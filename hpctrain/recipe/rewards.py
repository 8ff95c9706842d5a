"""The rewards of a recipe: which there are, what they are called, and which cannot work (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hpctrain.json_schema import unsupported
from hpctrain.recipe.node import Path
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import REINFORCED, Reward

NEEDS_FIELD = ("exact_match", "math", "code")
"""Kinds that compare with something in the row."""
_OWN_KEYS: dict[str, tuple[str, ...]] = {
    "pattern": ("regex",), "json_schema": ("json_schema",), "min_tokens": ("length",), "max_tokens": ("length",),
    "function": ("function",), "path": ("model",), "field": NEEDS_FIELD, "extract": (*NEEDS_FIELD, "json_schema"),
    "memory": ("code",),
}
"""Which kinds a key has a meaning for."""
_WANTED = {
    "regex": ("pattern", "a regular expression"), "json_schema": ("json_schema", "the schema that answers must fit"),
    "function": ("function", "module:function or file.py:function"), "model": ("path", "the directory of a reward model"),
}


def effective_rewards(recipe: Recipe) -> list[Reward]:
    """The recipe's rewards; without any, ``rlaif`` has its judge's marks."""
    if recipe.rewards or recipe.method != "rlaif":
        return list(recipe.rewards)
    return [Reward(kind="judge")]


def reward_names(rewards: Sequence[Reward]) -> list[str]:
    """What each is called in metrics: its own name, or its kind, with a number from its second use on."""
    names: list[str] = []
    for reward in rewards:
        wanted = name = reward.name or reward.kind
        number = 1
        while name in names:
            number += 1
            name = f"{wanted}_{number}"
        names.append(name)
    return names


def check_rewards(recipe: Recipe) -> Iterator[Problem]:
    """Rewards and generation settings that cannot work."""
    if recipe.method not in REINFORCED:
        yield from _elsewhere(recipe)
    elif not effective_rewards(recipe):
        hint = "one of kind 'model' with the path of a reward model" if recipe.method == "rlhf" else "at least one reward"
        yield Problem((), f"method '{recipe.method}' needs 'rewards': {hint}")
    elif recipe.method == "rlhf" and not any(reward.kind == "model" for reward in recipe.rewards):
        yield Problem(("rewards",), "method 'rlhf' needs a reward of kind 'model'; verified rewards alone are 'rlvr'")
    for index, reward in enumerate(recipe.rewards):
        yield from _one(reward, ("rewards", index))
    if recipe.rewards and all(reward.weight == 0 for reward in recipe.rewards):
        yield Problem(("rewards",), "all weights are 0, so there is nothing to learn")
    if recipe.method in REINFORCED:
        yield from _generation(recipe)


def _elsewhere(recipe: Recipe) -> Iterator[Problem]:
    measured = recipe.evaluate is not None and any(suite.kind == "reward" for suite in recipe.evaluate.suites)
    if recipe.rewards and not measured:
        yield Problem(("rewards",), f"belong to {', '.join(REINFORCED)} or to a suite of kind 'reward'; "
                                    f"the method is '{recipe.method}'")


def _one(reward: Reward, place: Path) -> Iterator[Problem]:
    wanted = _WANTED.get(reward.kind)
    if wanted and not getattr(reward, wanted[0]):
        yield Problem(place, f"kind '{reward.kind}' needs '{wanted[0]}': {wanted[1]}")
    for key, kinds in _OWN_KEYS.items():
        if reward.kind not in kinds and key in reward.model_fields_set and getattr(reward, key) != _default(key):
            yield Problem((*place, key), f"belongs to {' and '.join(kinds)}; the kind is '{reward.kind}'")
    yield from _patterns(reward, place)
    if reward.kind == "json_schema" and reward.json_schema:
        problem = unsupported(reward.json_schema)
        if problem:
            yield Problem((*place, "json_schema"), problem)
    if reward.kind == "length":
        if reward.max_tokens is None and reward.min_tokens == 0:
            yield Problem(place, "kind 'length' needs 'min_tokens' or 'max_tokens'")
        elif reward.max_tokens is not None and reward.max_tokens < reward.min_tokens:
            yield Problem((*place, "max_tokens"), f"is less than min_tokens, {reward.min_tokens}")
    if reward.kind == "function" and reward.function and not re.fullmatch(r".+:[^\W\d]\w*", reward.function):
        yield Problem((*place, "function"), f"{reward.function!r} is not module:function or file.py:function")


def _default(key: str) -> object:
    return Reward.model_fields[key].default


def _patterns(reward: Reward, place: Path) -> Iterator[Problem]:
    for key in ("pattern", "extract"):
        text = getattr(reward, key)
        if text is None:
            continue
        try:
            groups = re.compile(text).groups
        except re.error as error:
            yield Problem((*place, key), f"is no regular expression: {error}")
            continue
        if key == "extract" and groups < 1:
            yield Problem((*place, key), "has no group; put parentheses around what is the answer")


def _generation(recipe: Recipe) -> Iterator[Problem]:
    generation, training = recipe.generation, recipe.training
    several, batch = generation.completions_per_prompt, training.global_batch_size
    if batch % several:
        near = max(several, batch // several * several)
        yield Problem(("training", "global_batch_size"), (
            f"{batch} answers per step cannot be whole groups of generation.completions_per_prompt, {several}; "
            f"nearest that work: {near} or {near + several}"))
    length = recipe.data.sequence_length if recipe.data is not None else 0
    if length and generation.max_new_tokens >= length:
        yield Problem(("generation", "max_new_tokens"), (
            f"{generation.max_new_tokens} tokens of an answer leave no room for a prompt in data.sequence_length, {length}"))
    yield from _writers(recipe)


def _writers(recipe: Recipe) -> Iterator[Problem]:
    """Who writes the answers, and where."""
    generation, gpus = recipe.generation, recipe.resources.gpus_per_node
    apart = generation.placement == "separate"
    if generation.engine == "vllm" and gpus == 0:
        yield Problem(("generation", "engine"), "vllm needs GPUs; resources.gpus_per_node is 0")
    if (generation.engine == "vllm" or apart) and recipe.training.parallelism.kind != "ddp":
        yield Problem(("training", "parallelism", "kind"), (
            "vLLM takes its weights from ranks that each hold all of them: 'ddp', or generation.engine: transformers"))
    if apart:
        yield from _server(recipe)
    else:
        for key in ("server", "server_gpus", "server_command"):
            if getattr(generation, key):
                yield Problem(("generation", key), "belongs to placement 'separate'")


def _server(recipe: Recipe) -> Iterator[Problem]:
    """A server apart: one that is started beside the run, or one that is there already."""
    generation = recipe.generation
    if generation.engine == "transformers":
        yield Problem(("generation", "placement"), "separate nodes write answers with vLLM, not 'transformers'")
    elif generation.server_gpus and generation.server:
        yield Problem(("generation", "server"), "and 'server_gpus' are two servers; give one of them")
    elif generation.server_gpus and recipe.resources.container:
        yield Problem(("generation", "server_gpus"), (
            "starts no server in a container; start one as a job of its own and give its address as 'server'"))
    elif not generation.server_gpus and not re.match(r"https?://[^/\s@]+", generation.server or ""):
        yield Problem(("generation",), (
            "placement 'separate' needs 'server_gpus': on how many GPUs a server is started beside the run; or 'server': "
            "the http address at which 'trl vllm-serve' answers"))
    if recipe.resources.gpus_per_node == 0:
        yield Problem(("generation", "placement"), "a server takes its weights from GPUs; resources.gpus_per_node is 0")
    if generation.server_command and not generation.server_gpus:
        yield Problem(("generation", "server_command"), "is for the server that 'server_gpus' starts")
