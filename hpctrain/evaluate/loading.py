"""A model from its directory to where it computes: on this rank, or spread over all of them (adapter over ``torch``)."""

from __future__ import annotations

from typing import Any

import torch

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import HpctrainError, first_line
from hpctrain.evaluate.codec import Codec, codec_of
from hpctrain.evaluate.hugging_face import load_model, load_sharded, require_spread
from hpctrain.evaluate.language_model import LanguageModel, Place
from hpctrain.evaluate.lockstep import Lockstep
from hpctrain.evaluate.model_directory import ModelDirectory, inspect
from hpctrain.evaluate.spread import ranks_of_a_copy

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(path: str, place: Place, *, chat_template: str = "", ranks: Ranks | None = None) -> LanguageModel:
    """Load a model directory, or an adapter and the model that it is for.

    Args:
        chat_template: for a tokenizer that has none; so a model before training reads chats as the one after it does.
        ranks: that load it together; they share one copy where the place says ``spread``.

    Raises:
        NotFoundError: a part of it is missing.
        MissingDependencyError: peft is not installed and it is an adapter.
        HpctrainError: transformers cannot load it, or it does not fit into memory.
    """
    shared = ranks if place.spread and ranks is not None and ranks.world_size > 1 else None
    if shared is not None:
        return _load_shared(path, place, chat_template, shared)
    directory = inspect(path)
    codec = codec_of(directory, chat_template, trust_remote_code=place.trust_remote_code)
    device = device_of(place)
    stored = torch.float32 if device.type == "cpu" and not place.spread else None
    model = load_model(directory, device=device, dtype=_PRECISIONS.get(place.precision, stored), spread=place.spread,
                       trust_remote_code=place.trust_remote_code)
    _can_pad(model, directory, codec)
    return LanguageModel(directory, codec, model, place, parameters=sum(one.numel() for one in model.parameters()))


def _load_shared(path: str, place: Place, chat_template: str, ranks: Ranks) -> LanguageModel:
    """One copy for several ranks. What each looks at by itself is agreed upon before any rank waits for another."""
    problem: HpctrainError | None = None
    try:
        directory = inspect(path)
        codec = codec_of(directory, chat_template, trust_remote_code=place.trust_remote_code)
        device = device_of(place)
    except HpctrainError as error:
        problem = error
    if told := ranks.first_error(str(problem) if problem is not None else ""):
        raise problem or HpctrainError(f"another rank cannot load it: {told}")
    copy = ranks_of_a_copy(
        ranks.broadcast(directory.weights_bytes), min(ranks.everyone(memory_of(device))), world_size=ranks.world_size,
        local_world_size=place.local_world_size)
    stored = torch.float32 if device.type == "cpu" else None
    model, parameters = load_sharded(directory, device=device, dtype=_PRECISIONS.get(place.precision, stored),
                                     trust_remote_code=place.trust_remote_code, ranks=ranks, ranks_of_a_copy=copy)
    _can_pad(model, directory, codec)
    _try(model, codec, device, ranks, directory)
    lockstep = Lockstep(model, ranks.group, codec.padding)
    return LanguageModel(directory, codec, model, place, parameters=parameters, lockstep=lockstep)


@torch.no_grad()
def _try(model: Any, codec: Codec, device: torch.device, ranks: Ranks, directory: ModelDirectory) -> None:
    """One token through the model: an architecture that cannot be spread fails here, on all ranks alike.

    Raises:
        HpctrainError: it cannot.
    """
    token = torch.tensor([[codec.padding]], device=device)
    problem = ""
    try:
        model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
    except Exception as error:  # noqa: BLE001 - each architecture breaks in its own way
        problem = first_line(error)
    require_spread(ranks, problem, directory)
    model.reshard()  # what FSDP2 keeps gathered after a pass, expecting a backward one


def _can_pad(model: Any, directory: ModelDirectory, codec: Codec) -> None:
    if directory.is_reward and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = codec.padding


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU's memory; 0 of a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def free_memory() -> None:
    """Give back what models that nobody holds any more have taken."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_of(place: Place) -> torch.device:
    """The device that a place means.

    Raises:
        HpctrainError: a GPU is asked for and there is none.
    """
    if place.device and not place.device.startswith("cuda"):
        return torch.device(place.device)
    if torch.cuda.is_available():
        return torch.device(place.device) if ":" in place.device else torch.device("cuda", torch.cuda.current_device())
    if place.device:
        why = "" if torch.version.cuda else "; this torch is a build without CUDA"
        raise HpctrainError(f"there is no GPU here{why}", hint="choose --device cpu")
    return torch.device("cpu")
