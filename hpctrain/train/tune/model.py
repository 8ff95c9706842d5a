"""The models of a tuning run, from their directories to where they compute (adapter over ``transformers`` and ``peft``).

Frozen weights are kept in the precision that is computed in; trained weights in float32. A model that is sharded is loaded
by rank 0 alone, in its host's memory, and given out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from hpctrain.errors import MissingDependencyError, RecipeError
from hpctrain.recipe import schema
from hpctrain.recipe.check_method import check_architecture
from hpctrain.recipe.schema_method import Adapter
from hpctrain.sharding import fill_from_first, parameters_without_memory, shard
from hpctrain.train.hugging_face import dtype_option
from hpctrain.train.model import from_path, load_config
from hpctrain.train.randomness import seed_all
from hpctrain.train.tune.context import TuneContext

ADAPTER_FILE = "adapter_config.json"
"""What makes a directory one of an adapter rather than of a whole model."""


def load_trained(context: TuneContext, *, reward: bool = False) -> None:
    """Load the model that is trained, and say which adapter goes on it.

    Args:
        reward: with a head that gives one number, instead of the one that predicts tokens.

    Raises:
        NotFoundError: there is no such model.
        RecipeError: its vocabulary is smaller than the tokenizer's, or the libraries cannot do this with its architecture.
        MissingDependencyError: ``qlora`` without bitsandbytes or without a GPU.
    """
    adapter = context.recipe.adapter
    config = load_config(_whole(context.source), len(context.tokenizer), context.tokenizer.eos_token_id)
    refuse_architecture(context.recipe, config, reward=reward)
    if adapter is not None:
        context.peft_config = adapter_config(adapter, reward=reward)
    context.model = load_model(context, context.source, frozen=adapter is not None, reward=reward,
                               four_bits=adapter is not None and adapter.kind == "qlora")


def load_model(
    context: TuneContext, source: schema.Model, *, frozen: bool, reward: bool = False, four_bits: bool = False
) -> Any:
    """A model, on this rank's device or sharded over all; every rank gets the same weights.

    Args:
        frozen: none of its own weights is trained, so that they may be in bfloat16.
        four_bits: quantised by bitsandbytes.

    Raises:
        NotFoundError, RecipeError, MissingDependencyError: see :func:`load_trained`.
    """
    seed_all(context.seed)  # a new head begins alike on all ranks
    dtype = torch.bfloat16 if frozen and context.training.precision == "bf16" else torch.float32
    config = load_config(_whole(source), len(context.tokenizer), context.tokenizer.eos_token_id)
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code, **dtype_option(dtype)}
    if source.attention != "auto":
        options["attn_implementation"] = source.attention
    if reward:
        options["num_labels"] = 1
    if four_bits:
        options |= {"quantization_config": _four_bits(context), "device_map": {"": context.place.device}}
    if context.mesh is None:
        model = name_backbone(_load(source, options, reward=reward))
        return model if four_bits else model.to(context.place.device)
    return name_backbone(_sharded(context, context.mesh, source, config, options, reward=reward))


def refuse_architecture(recipe: schema.Recipe, config: Any, *, reward: bool) -> None:
    """Say what validation could not, where it did not know the architecture, as of a hub id.

    Args:
        config: of transformers.

    Raises:
        RecipeError: the libraries cannot do this with it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    for problem in check_architecture(recipe, config.to_dict()):
        raise RecipeError(problem.message, where=".".join(map(str, problem.path)))
    if reward and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not hasattr(config, "auto_map"):
        raise RecipeError(f"transformers has no reward model of the architecture '{config.model_type}'", where="model.path")


def name_backbone(model: Any) -> Any:
    """Fill in what trl asks a model for and transformers' text model of Llama 4 does not say under that name.

    trl's losses start from ``base_model``, which there leads back to the whole, and balance ``config.num_experts``.
    """
    if model.base_model is model and hasattr(model, "model"):
        model.base_model_prefix = "model"
    experts = getattr(model.config, "num_local_experts", None)
    if experts and not hasattr(model.config, "num_experts"):
        model.config.num_experts = experts
    return model


def adapter_config(adapter: Adapter, *, reward: bool = False) -> Any:
    """The recipe's adapter as peft describes it.

    Args:
        reward: a model with a head that gives one number; that head is trained in full.

    Raises:
        MissingDependencyError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise MissingDependencyError("an adapter needs the package 'peft'", hint="pip install peft") from None
    names = adapter.target_modules
    options: dict[str, Any] = {
        "r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout, "bias": "none",
        "target_modules": names if isinstance(names, str) else list(names), "use_dora": adapter.kind == "dora",
        "task_type": "SEQ_CLS" if reward else "CAUSAL_LM", "modules_to_save": ["score"] if reward else None,
    }
    return LoraConfig(**options)


def load_for_use(path: str, *, dtype: torch.dtype, reward: bool = False) -> Any:
    """A model as a user of it would load it: whole, or an adapter added to the weights it belongs to.

    Raises:
        NotFoundError: there is no such model.
    """
    options: dict[str, Any] = {"trust_remote_code": False, **dtype_option(dtype)}
    return _load(schema.Model(path=path), options | ({"num_labels": 1} if reward else {}), reward=reward)


def _load(source: schema.Model, options: dict[str, Any], *, reward: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    folder = Path(source.path or "").expanduser()
    if not (folder / ADAPTER_FILE).is_file():
        return from_path(source, lambda path: kind.from_pretrained(path, **options))
    model = _load(source.model_copy(update={"path": base_of(folder)}), options, reward=reward)
    from peft import PeftModel

    adapted = from_path(source, lambda path: PeftModel.from_pretrained(model, path))
    return adapted.merge_and_unload()


def _whole(source: schema.Model) -> schema.Model:
    """The model that all adapters on the way from it belong to."""
    folder = Path(source.path or "").expanduser()
    if not (folder / ADAPTER_FILE).is_file():
        return source
    return _whole(source.model_copy(update={"path": base_of(folder)}))


def base_of(folder: Path) -> str:
    """The model that an adapter belongs to.

    Raises:
        RecipeError: the adapter does not say.
    """
    try:
        base = json.loads((folder / ADAPTER_FILE).read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    if not isinstance(base, str) or not base:
        raise RecipeError("does not say which model this adapter belongs to", where=str(folder / ADAPTER_FILE))
    return base


def _sharded(
    context: TuneContext, mesh: DeviceMesh, source: schema.Model, config: Any, options: dict[str, Any], *, reward: bool
) -> Any:
    bf16, first = context.training.precision == "bf16", context.place.rank == 0
    if getattr(config, "tie_word_embeddings", False):
        # Without memory, tied weights would come apart. Such models are small: every rank loads all of it.
        model = _load(source, options, reward=reward)
        shard(model, mesh, bf16=bf16)
        model.to(context.place.device)
    else:
        real = _load(source, options, reward=reward) if first else None
        with parameters_without_memory():
            model = _without_weights(config, options, reward=reward)
        shard(model, mesh, bf16=bf16)
        fill_from_first(model, real, context.place.device)
    # What transformers itself says of a model that it sharded: the Trainer then neither wraps it nor moves it.
    model._is_distributed_loading_by_transformers = True
    return model


def _without_weights(config: Any, options: dict[str, Any], *, reward: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    if reward:
        config.num_labels = 1
    wanted = {key: value for key, value in options.items() if key != "num_labels"}
    return kind.from_config(config, **wanted)  # type: ignore[no-untyped-call,unused-ignore]


def _four_bits(context: TuneContext) -> Any:
    """The quantisation of the QLoRA paper (Dettmers et al. 2023)."""
    if context.place.device.type != "cuda":
        raise MissingDependencyError("adapter.kind 'qlora' needs a GPU", hint="train a 'lora' adapter on CPUs")
    try:
        import bitsandbytes  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "adapter.kind 'qlora' needs the package 'bitsandbytes'", hint="pip install bitsandbytes"
        ) from None
    from transformers import BitsAndBytesConfig

    quantisation: Any = BitsAndBytesConfig
    return quantisation(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16,
    )
