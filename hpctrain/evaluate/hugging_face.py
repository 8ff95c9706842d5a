"""Models and tokenizers from directories (adapter over ``transformers``, and ``peft`` for adapters).

The only file of the evaluation that knows either library.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from hpctrain.errors import HpctrainError, MissingDependencyError, NotFoundError, first_line
from hpctrain.evaluate.model_directory import ModelDirectory


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
                            hint="use --precision bf16, or --spread with several GPUs in one process") from None
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise NotFoundError(f"transformers cannot load it: {first_line(error)}", where=directory.path) from None


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
