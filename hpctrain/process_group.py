"""Joining the process group of a job's ranks (adapter over ``torch.distributed``)."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def backend_of(device: torch.device) -> str:
    """What carries tensors: gloo those of CPUs, NCCL those of GPUs where ranks compute on them."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def join(backend: str, timeout: timedelta | None = None) -> None:
    """Meet the ranks that torchrun's names in the environment speak of.

    Args:
        timeout: longest wait for a rank in any exchange; None for torch's own.

    Raises:
        RuntimeError: they do not come together.
    """
    options: dict[str, Any] = {"timeout": timeout} if timeout is not None else {}
    try:
        dist.init_process_group(backend, **options)
    except RuntimeError as error:
        if "libuv" not in str(error):
            raise
        # A torch built without libuv (Debian's is) refuses its own default, on every rank before anything is sent.
        os.environ["USE_LIBUV"] = "0"
        dist.init_process_group(backend, **options)
