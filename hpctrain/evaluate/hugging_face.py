"""Models and tokenizers from directories (adapter over ``transformers``, and ``peft`` for adapters).

The only file of the evaluation that knows either library.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import HpctrainError, MissingDependencyError, NotFoundError, first_line
from hpctrain.evaluate.model_directory import ModelDirectory
from hpctrain.sharding import fill_from_first, parameters_without_memory, shard


def load_tokenizer(folder: str, *, trust_remote_code: bool) -> Any:
    """A tokenizer.

    Raises:
        NotFoundError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    _quiet()
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 - transformers raises many classes for "not there"
        raise NotFoundError(f"cannot load the tokenizer: {first_line(error)}", where=folder) from None


def load_model(
    directory: ModelDirectory, *, device: torch.device, dtype: torch.dtype | None, spread: bool, trust_remote_code: bool,
) -> Any:
    """A model in evaluation mode, on its device.

    Args:
        dtype: of its weights; None as they are stored.
        spread: layers go to all visible GPUs in turn.

    Raises:
        MissingDependencyError: it is an adapter, and peft is not installed.
        NotFoundError: it cannot be loaded.
        HpctrainError: it does not fit into the GPU's memory.
    """
    _quiet()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, _dtype_name(): dtype or "auto"}
    if spread:
        options["device_map"] = "auto"
    try:
        model = _with_adapter(directory, options) if directory.is_adapter else _whole(directory.path, directory, options)
        return (model if spread else model.to(device)).eval()
    except torch.cuda.OutOfMemoryError:
        raise HpctrainError("the model does not fit into this GPU's memory", where=directory.path,
                            hint="use --precision bf16, or --spread on several GPUs") from None
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise NotFoundError(f"transformers cannot load it: {first_line(error)}", where=directory.path) from None


@dataclass(frozen=True, slots=True)
class _Read:
    """What the ranks must know of the model that the first one has read."""

    dtype: torch.dtype
    parameters: int
    generation: dict[str, Any] | None


def load_sharded(
    directory: ModelDirectory, *, device: torch.device, dtype: torch.dtype | None, trust_remote_code: bool, ranks: Ranks,
    ranks_of_a_copy: int,
) -> tuple[Any, int]:
    """A model in evaluation mode of which every rank holds a share, and how many parameters it has; all ranks together.

    The first rank reads it into its host's memory and gives it out, so that no GPU ever holds all of it. An adapter is
    merged into its model, and tied embeddings become two tensors of equal value.

    Args:
        ranks_of_a_copy: ranks that hold one copy together; divides the number of ranks.

    Raises:
        HpctrainError: as :func:`load_model`, on every rank; or its weights are quantised.
    """
    _quiet()
    source: Any = None

    def read() -> _Read:
        nonlocal source
        config = _config(directory, trust_remote_code)
        if getattr(config, "quantization_config", None):
            raise HpctrainError("its weights are quantised, and such a model cannot be spread over ranks",
                                where=directory.path, hint="save it in bfloat16 first")
        source = load_model(directory, device=torch.device("cpu"), dtype=dtype, spread=False,
                            trust_remote_code=trust_remote_code)
        parameters = sum(parameter.numel() for parameter in source.parameters())
        if directory.is_adapter:
            source = _merged(source, directory)
        source.to(source.dtype)  # one type throughout: FSDP2 gathers a layer's weights as one
        settings = getattr(source, "generation_config", None)
        return _Read(source.dtype, parameters, settings.to_dict() if settings is not None else None)

    known = ranks.on_first(read)
    copies = ranks.world_size // ranks_of_a_copy
    sizes, names = ((copies, ranks_of_a_copy), ("copy", "share")) if copies > 1 else ((ranks_of_a_copy,), ("share",))
    mesh, problem = init_device_mesh(device.type, sizes, mesh_dim_names=names), ""
    model: Any = None
    try:
        with parameters_without_memory():
            model = _without_weights(directory, known.dtype, trust_remote_code)
        shard(model, mesh, bf16=False)
    except Exception as error:  # noqa: BLE001 - each architecture breaks in its own way
        problem = first_line(error)
    require_spread(ranks, problem, directory)
    fill_from_first(model, source, device)
    if known.generation is not None and not directory.is_reward:
        import transformers

        model.generation_config = transformers.GenerationConfig.from_dict(known.generation)
        # Who has more to write is our affair (hpctrain.evaluate.lockstep); by itself it lets all ranks write as much.
        model.generate = functools.partial(model.generate, synced_gpus=False)
    return model.eval(), known.parameters


def require_spread(ranks: Ranks, problem: str, directory: ModelDirectory) -> None:
    """All ranks together: go on, if none of them has met a problem.

    Raises:
        HpctrainError: one has.
    """
    if told := ranks.first_error(problem):
        raise HpctrainError(f"this architecture cannot be spread over ranks: {told}", where=directory.path,
                            hint="measure it on one GPU that holds it")


def _merged(model: Any, directory: ModelDirectory) -> Any:
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        raise HpctrainError(f"this adapter cannot be merged, and so not be spread over ranks: {first_line(error)}",
                            where=directory.path) from None


def _config(directory: ModelDirectory, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    path = directory.base if directory.is_adapter else directory.path
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise NotFoundError(f"transformers cannot load it: {first_line(error)}", where=path) from None


def _without_weights(directory: ModelDirectory, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The architecture alone, with an output layer of its own: without memory, tied weights would come apart."""
    import transformers

    config = _config(directory, trust_remote_code)
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, _dtype_name(): dtype}
    kind: Any = transformers.AutoModelForCausalLM
    if directory.is_reward:
        kind, config.num_labels = transformers.AutoModelForSequenceClassification, 1
    return kind.from_config(config, **options)


def generation(*, max_new_tokens: int, ends: Sequence[int], padding: int, temperature: float = 0.0) -> Any:
    """Settings of ``generate()``, whatever the model's own settings say.

    Args:
        temperature: 0 takes the most likely token each time; else tokens are drawn from all of them.
    """
    import transformers

    drawn = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    settings: Any = transformers.GenerationConfig  # untyped
    return settings(max_new_tokens=max_new_tokens, num_beams=1, eos_token_id=list(ends), pad_token_id=padding,
                    do_sample=bool(drawn), **drawn)


def _whole(path: str, directory: ModelDirectory, options: dict[str, Any]) -> Any:
    import transformers

    if directory.is_reward:
        return transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **options)
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options)


def _with_adapter(directory: ModelDirectory, options: dict[str, Any]) -> Any:
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError("this model is an adapter, which needs the package 'peft'", where=directory.path,
                                     hint="pip install peft")
    from peft import PeftModel

    return PeftModel.from_pretrained(_whole(directory.base, directory, options), directory.path)


def _dtype_name() -> str:
    """The keyword for the type of weights: ``dtype`` since transformers 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _quiet() -> None:
    """Warnings and progress bars are not results."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
