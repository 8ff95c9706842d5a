"""The optimizer of a recipe, and clipping (adapter over ``torch.optim``)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from hpctrain.recipe.schema import Optimizer


def build_optimizer(model: torch.nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """Weight decay on matrices only: biases and normalisation weights have one dimension and are left alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.kind == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use this learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = value


def clip_gradient(parameters: Iterable[torch.nn.Parameter], limit: float) -> torch.Tensor:
    """Scale the whole gradient down to a norm of ``limit`` (0: leave it); return its norm before that, over all shards."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
    full = getattr(norm, "full_tensor", None)  # a DTensor's local part is only this rank's share of the norm
    return full() if full is not None else norm
