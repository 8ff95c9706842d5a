"""What differs between versions of ``transformers`` (adapter over its option names and its noise)."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch


def quiet() -> None:
    """Keep the log to what this run has to say, and its use to ourselves; call before and after transformers is imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl reports each trainer that is made, unless told not to
    # That one of these libraries still calls another by an old name is nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def dtype_option(dtype: torch.dtype) -> dict[str, Any]:
    """The keyword that says in which type weights are made: ``dtype`` since transformers 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def enable_activation_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass, in the form that FSDP2 and DDP both work with."""
    arguments = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # since transformers 5.2x, where the old name warns
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
