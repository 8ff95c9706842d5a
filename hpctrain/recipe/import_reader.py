"""Takes values out of another system's recipe, and remembers which were taken (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpctrain.recipe.node import Node, Path, find, to_plain, walk

NO_COUNTERPART = "nothing here corresponds to it"
REASONS: Mapping[str, str] = {
    "defaults": "names other files, which only their launcher composes; import the composed recipe",
    "display_name": "words for a catalogue", "version": "of their format", "instance_types": "types of AWS machines",
    "run.results_dir": "runs live under hpctrain's own root (settings: runs_dir)",
    "run.hf_access_token": "a secret does not belong into a recipe; set HF_TOKEN in the environment",
    "run": "belongs to their launcher",
    "elastic_policy": "a run keeps its number of nodes", "scale_config": "a run keeps its number of nodes",
    "ray_cluster": "there is no Ray here: Slurm starts the ranks",
    "training_config.ray_init": "there is no Ray here: Slurm starts the ranks",
    "training_config.critic": "GRPO and RLOO have no critic",
    "training_config.training_args.trainer_callbacks": "code of theirs",
    "training_config.training_args.lr_warmup_ratio": "warm-up is counted in steps here: training.schedule.warmup_steps",
    "training_config.training_args.save_steps": "0 saves only at the end; here a run saves by itself (checkpoint.every)",
    "training_config.training_args.strategy": "FSDP2 decides it, or does without",
    "training_config.training_args.use_wandb": "metrics go to metrics.jsonl, TensorBoard and MLflow",
    "training_config.training_args.load_checkpoint": "a run always resumes from its own newest checkpoint",
    "training_config.training_args.resume_checkpoint_path": "a run resumes from its own; model.path may be another's",
    "training_config.training_args": NO_COUNTERPART,
    "training_config.datasets.preprocessor_cfgs": "rows are chat, prompt_completion or preference (docs/data.md)",
    "training_config.model_config.chat_template_key": "the tokenizer's own template is used, or the file chat.template",
    "training_config.model_config.generation_cfg": "is used by their evaluation only",
    "training_config.model_config.peft_config": "an adapter of one kind; biases stay as they are",
    "training_config.actor_rollout_ref.actor.fsdp_config": "FSDP2 decides it, or does without",
    "training_config.actor_rollout_ref.actor.checkpoint": "checkpoints hold all of it",
    "training_config.actor_rollout_ref.ref": "the reference model lies where the model lies",
    "training_config.actor_rollout_ref.rollout": "trl's way of generating has no such knob",
    "training_config.actor_rollout_ref": "trl's trainer has no such knob",
    "training_config.reward_model": "rewards are listed under 'rewards'",
    "training_config.custom_reward_function.lambda_arn": "code in AWS Lambda; write a reward of kind 'function'",
    "training_config.trainer.resume_mode": "a run always resumes from its own newest checkpoint",
    "training_config.trainer": "belongs to their trainer",
    "training_config.data": "the data loader has no such knob",
}
"""Dotted key to why it is not carried over; the longest that fits counts."""


class Reader:
    """One recipe of theirs, while ours is made of it.

    Attributes:
        carried: dotted keys that were used.
        notes: sentences for the user.
        comments: dotted key of ours to what is said beside it.
    """

    def __init__(self, root: Node) -> None:
        self.root = root
        self.carried: set[str] = set()
        self.notes: list[str] = []
        self.comments: dict[str, str] = {}
        self._taken: set[Path] = set()
        self._why: dict[Path, str] = {}

    def take(self, key: str) -> Any:
        """The value of a dotted key, which then counts as carried over; None where it says nothing."""
        path = tuple(key.split("."))
        node = find(self.root, path)
        value = to_plain(node) if node is not None else None
        if value in (None, "", [], {}) or (isinstance(value, str) and "${" in value):
            return None
        self._taken.add(path)
        self.carried.add(key)
        return value

    def number(self, key: str) -> float | None:
        """A number, or None."""
        path = tuple(key.split("."))
        node = find(self.root, path)
        ok = node is not None and isinstance(node.value, int | float) and not isinstance(node.value, bool)
        value = self.take(key) if ok else None
        return value if isinstance(value, int | float) else None

    def whole(self, key: str, least: int = 1) -> int | None:
        """A whole number from ``least`` on, or None; then it counts as left out."""
        found = find(self.root, tuple(key.split(".")))
        value = found.value if found is not None else None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least or value != int(value):
            return None
        self.take(key)
        return int(value)

    def leave(self, key: str, reason: str) -> None:
        """Say why a key is left out after all."""
        path = tuple(key.split("."))
        self._taken.discard(path)
        self.carried.discard(key)
        self._why[path] = reason

    def mine(self, key: str, value: str, words: str) -> str:
        """A value that the user has to set: marked in the recipe, and noted."""
        self.comments[key] = f"<- yours: {words}"
        self.notes.append(f"{key} is yours to set: {words}")
        return value

    def left_out(self) -> Iterator[tuple[Path, Node, str]]:
        """All values that say something and were not taken."""
        for path, node in walk(self.root):
            if isinstance(node.value, dict) or node.value in (None, "", []):
                continue
            if any(path[:length] in self._taken for length in range(1, len(path) + 1)):
                continue
            if isinstance(node.value, list) and any(isinstance(item.value, dict) for item in node.value):
                continue  # its items follow
            if path and isinstance(path[-1], int):
                continue  # its list was named
            yield path, node, self._reason(path, node)

    def _reason(self, path: Path, node: Node) -> str:
        if path in self._why:
            return self._why[path]
        if isinstance(node.value, str) and "${" in node.value:
            return "a reference that only their launcher resolves"
        names = [str(part) for part in path if isinstance(part, str)]
        for length in range(len(names), 0, -1):
            found = REASONS.get(".".join(names[:length]))
            if found:
                return found
        return NO_COUNTERPART


def run_name(value: Any) -> str:
    """A name that a run of ours may have."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value or "imported")).strip("-._")
    return name[:80] or "imported"


def drop_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were found."""
    return {key: value for key, value in values.items() if value is not None}
