"""A recipe's ``generation`` section in trl's words (pure)."""

from __future__ import annotations

from typing import Any

from hpctrain.recipe.schema_method import Generation

VARIANTS: dict[str, dict[str, Any]] = {
    # DeepSeekMath (Shao et al. 2024): mean over each answer's tokens, rewards scaled by their spread within a group.
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},
    # Understanding R1-Zero-Like Training (Liu et al. 2025): neither division, since both favour some answers.
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    # DAPO (Yu et al. 2025): mean over all tokens, wider clipping upwards, answers that were cut off do not count. Its fourth
    # part, drawing again until no group is all right or all wrong, trl does not have.
    "dapo": {"loss_type": "dapo", "scale_rewards": "group", "epsilon_high": 0.28, "mask_truncated_completions": True},
    # Back to Basics (Ahmadian et al. 2024): each answer against the mean of the others.
    "rloo": {},
}


def config_arguments(generation: Generation) -> dict[str, Any]:
    """Keyword arguments of ``GRPOConfig``, or of ``RLOOConfig`` for ``rloo``."""
    return {
        "num_generations": generation.completions_per_prompt, "num_generations_eval": 1,
        "max_completion_length": generation.max_new_tokens, "temperature": generation.temperature, "top_p": generation.top_p,
        "num_iterations": generation.updates_per_generation, "beta": generation.beta, "remove_unused_columns": False,
        **VARIANTS[generation.algorithm],
    }
