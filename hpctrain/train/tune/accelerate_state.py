"""Tells accelerate, on which transformers' Trainer stands, where this rank computes (adapter over its environment)."""

from __future__ import annotations

import os

import torch


def use_our_device(device: torch.device) -> None:
    """Compute on this device: accelerate would take the one numbered like the local rank, which an agent may have hidden.

    It finds the process group made, and takes that.
    """
    if device.type == "cuda":
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    else:
        os.environ["ACCELERATE_USE_CPU"] = "true"
