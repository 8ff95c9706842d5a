"""The network: built, spread over the ranks, fed (adapter over ``transformers`` and ``torch``)."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from hpctrain.errors import NotFoundError, RecipeError, first_line
from hpctrain.files import make_private_dir
from hpctrain.hub import load_error
from hpctrain.recipe import schema
from hpctrain.sharding import fill_from_first, parameters_without_memory, shard
from hpctrain.train.distributed import Place
from hpctrain.train.hugging_face import dtype_option, enable_activation_checkpointing
from hpctrain.train.randomness import unchanged_randomness


def load_config(recipe: schema.Model, vocab_size: int, end_of_text: int) -> Any:
    """The transformers configuration of the recipe's model.

    Args:
        vocab_size, end_of_text: of the tokenizer; taken where an architecture from the recipe does not say its own.

    Raises:
        NotFoundError: there is no model at ``path``.
        RecipeError: transformers does not know or does not accept the architecture, or its vocabulary is too small.
    """
    from transformers import AutoConfig

    if recipe.config is not None:
        ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
        numbers = {"vocab_size": vocab_size, **ends, **recipe.config}
        model_type = known_architecture(str(numbers.pop("model_type", "")))
        try:
            config = AutoConfig.for_model(model_type, **numbers)
        except Exception as error:  # noqa: BLE001 - each architecture validates its numbers in its own way
            raise RecipeError(f"transformers refuses it: {first_line(error)}", where="model.config") from None
    else:
        trust = recipe.trust_remote_code
        config = from_path(recipe, lambda path: AutoConfig.from_pretrained(path, trust_remote_code=trust))
    known = getattr(config, "vocab_size", None)
    if known is not None and known < vocab_size:
        raise RecipeError(
            f"the model knows {known} tokens, the tokenizer makes {vocab_size}", where="model",
            hint=f"set model.config.vocab_size to at least {vocab_size}, or choose another tokenizer",
        )
    return config


def known_architecture(model_type: str) -> str:
    """The name itself, if transformers knows it.

    Raises:
        RecipeError: it does not; the message names the nearest one that it knows.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type in CONFIG_MAPPING:
        return model_type
    near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING.keys()), n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise RecipeError(
        f"transformers {transformers.__version__} knows no model_type {model_type!r}{guess}", where="model.config.model_type"
    )


def build_network(
    section: schema.Model, config: Any, training: schema.Training, place: Place, mesh: DeviceMesh | None, *,
    sequence_length: int, pretrained: bool,
) -> Network:
    """The network, spread over the ranks; all ranks together, each with the same seed.

    Args:
        mesh: what FSDP2 shards over; None for DDP.
        pretrained: start from the weights at ``section.path``, not from random ones.

    Raises:
        NotFoundError: there are no weights at ``path``.
        RecipeError: transformers cannot build it.
    """
    bf16 = training.precision == "bf16"
    if mesh is None:
        model = _finish(_build(section, config, place.device, pretrained=pretrained), training)
        network = Network(_ddp(model, place), config, place, autocast=bf16)
        _settle_buckets(network, (training.micro_batch_size, sequence_length + 1))
        return network
    if getattr(config, "tie_word_embeddings", False):
        # Without memory, tied weights would come apart. Such models are small: every rank builds all of it.
        model = _finish(_build(section, config, place.device, pretrained=pretrained), training)
        shard(model, mesh, bf16=bf16)
    else:
        cpu = torch.device("cpu")
        source = _build(section, config, cpu, pretrained=pretrained) if place.rank == 0 else None
        with parameters_without_memory():
            model = _finish(_build(section, config, cpu, pretrained=False), training)
        shard(model, mesh, bf16=bf16)
        fill_from_first(model, source, place.device)
    return Network(model, config, place, autocast=False)


def _build(section: schema.Model, config: Any, device: torch.device, *, pretrained: bool) -> torch.nn.Module:
    """The bare network in float32."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"trust_remote_code": section.trust_remote_code, **dtype_option(torch.float32)}
    if section.attention != "auto":
        options["attn_implementation"] = section.attention
    if pretrained:
        model = from_path(section, lambda path: AutoModelForCausalLM.from_pretrained(path, **options)).to(device)
    else:
        try:
            with device:
                model = AutoModelForCausalLM.from_config(config, **options)  # type: ignore[no-untyped-call,unused-ignore]
        except (ValueError, ImportError) as error:
            raise RecipeError(f"transformers cannot build this model: {first_line(error)}", where="model") from None
    network: torch.nn.Module = model
    return network


def _finish(model: torch.nn.Module, training: schema.Training) -> torch.nn.Module:
    if training.activation_checkpointing:
        enable_activation_checkpointing(model)
    if training.compile:
        model.compile()
    return model.train()


@dataclass(frozen=True, slots=True)
class Network:
    """The network as the loop uses it.

    Attributes:
        model: wrapped for its parallelism.
        config: its transformers configuration.
        place: where it computes.
        autocast: compute in bfloat16 through autocast (DDP); FSDP2 casts by itself.
    """

    model: torch.nn.Module
    config: Any
    place: Place
    autocast: bool

    def loss_sum(self, tokens: torch.Tensor) -> torch.Tensor:
        """Sum of the next-token losses of some samples.

        Args:
            tokens: (samples, sequence length + 1); every token but the first is predicted once.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        with torch.autocast(self.place.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            logits = self.model(input_ids=inputs, use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")

    @contextlib.contextmanager
    def gradient_sync(self, enabled: bool) -> Iterator[None]:
        """Exchange gradients in the backward pass inside, or (while accumulating) keep them local."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(enabled)
            yield
        elif isinstance(self.model, DistributedDataParallel) and not enabled:
            with self.model.no_sync():
                yield
        else:
            yield


    def after_evaluation(self) -> None:
        """Free the parameters that FSDP2 left gathered, expecting a backward pass that does not come."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()


def use_own_compiler_cache(name: str) -> None:
    """Keep compiled kernels where only this start of the ranks looks, unless the user chose a place.

    A rank that is killed while it compiles leaves half a file in torch's cache, and every later start would trip over it.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        # Compiled kernels are loaded and run: the directory must be ours, which making it private proves.
        mine = make_private_dir(Path(tempfile.gettempdir()) / f"hpctrain-compiled-{os.getuid()}")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(mine / name)


def _ddp(model: torch.nn.Module, place: Place) -> DistributedDataParallel:
    device_ids = [place.device.index] if place.device.type == "cuda" else None
    # Language models' buffers are constants: sending them before every forward pass is for nothing. torch 2.13 renamed it.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {"device_ids": device_ids, name: False}
    return DistributedDataParallel(model, **options)


def _settle_buckets(network: Network, shape: tuple[int, int]) -> None:
    """One throw-away forward and backward pass, in the shape of the real ones so that nothing is compiled twice.

    After the first backward pass DDP regroups its gradient buckets, which changes the order in which gloo adds numbers.
    Doing that before the first real step makes every start alike, so that a resumed run ends byte-equal.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.model.buffers()]
    with unchanged_randomness():
        tokens = torch.zeros(shape, dtype=torch.long, device=network.place.device)
        network.loss_sum(tokens).backward()  # type: ignore[no-untyped-call,unused-ignore]
    network.model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def from_path(recipe: schema.Model, load: Any) -> Any:
    """Call ``load`` with the model's path, or its id on the hub.

    Raises:
        NotFoundError: there is none.
    """
    path = recipe.path or ""
    if path.startswith(("/", "./", "../", "~")) and not Path(path).expanduser().exists():
        raise NotFoundError(f"there is no model at {path}", where="model.path")
    try:
        return load(str(Path(path).expanduser()) if path.startswith("~") else path)
    except (OSError, ValueError) as error:
        found = load_error(error, "model", path, where="model.path", env=os.environ)
        hint = "give a local directory with config.json and weights, or the id of a hub model this node can download"
        raise NotFoundError(found.message, where=found.where, hint=found.advice or hint) from None
