"""What the trainer lends to an evaluation: its rewards, and what it kept out of training (service).

The evaluation itself knows no trainer (:mod:`hpctrain.evaluate`), so that it also runs where nothing was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import StorageError
from hpctrain.evaluate.at_end import evaluate_run
from hpctrain.evaluate.codec import codec_of
from hpctrain.evaluate.model_directory import inspect
from hpctrain.evaluate.run import Helpers
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Recipe
from hpctrain.train import text, tokens
from hpctrain.train.data import Samples
from hpctrain.train.environment import EXIT_DONE, EXIT_STOPPED, RankEnvironment
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.model_card import write_model_card
from hpctrain.train.prepared import tokenizer_of, tokens_of
from hpctrain.train.report import Reporter
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.rewards.build import Surroundings, build_rewards
from hpctrain.train.stop import StopRequest


def evaluate_at_end(
    recipe: Recipe, run_dir: RunDir, environment: RankEnvironment, *, ranks: Ranks, report: Reporter, heartbeat: Heartbeat,
    stop: StopRequest,
) -> int:
    """Run the recipe's ``evaluate:``, if it has one; all ranks together, when they have let go of the model they trained.

    Returns:
        EXIT_DONE, also where something could not be measured (that is told); EXIT_STOPPED when the ranks were asked to stop:
        the next start finds all steps done and goes on with the evaluation.
    """
    if recipe.evaluate is None:
        return EXIT_DONE
    if torch.are_deterministic_algorithms_enabled():
        # What can be the same each time still is; generating on a GPU may need a kernel that has no such form.
        torch.use_deterministic_algorithms(True, warn_only=True)
    lent = lend(
        recipe, run_dir, ranks, device=environment.device, say=report.say,
        beat=lambda detail: heartbeat.beat("finish", detail=detail), stop=lambda: bool(stop.reason),
    )
    if evaluate_run(recipe, run_dir, environment, helpers=lent,
                    tell=lambda kind, reason, evidence: report.event(kind, reason, evidence=evidence)):
        if ranks.is_first:
            _into_the_card(recipe, run_dir, report)
        return EXIT_DONE
    report.say("stopped on request in the evaluation; the model is saved, and the next start goes on with the evaluation")
    return EXIT_STOPPED


def _into_the_card(recipe: Recipe, run_dir: RunDir, report: Reporter) -> None:
    """The model is saved and measured: what its card lacks is no reason to fail."""
    try:
        write_model_card(run_dir.model, recipe, run_dir)
    except StorageError as error:
        report.say(f"warning: the model card lacks the evaluation: {error}")


def lend(recipe: Recipe, run_dir: RunDir, ranks: Ranks, *, device: str = "", **voice: Any) -> Helpers:
    """What a run's recipe and directory give an evaluation.

    Args:
        voice: ``say``, ``beat`` and ``stop`` of :class:`Helpers`.
    """
    wanted = recipe.evaluate is None or any(suite.kind == "reward" for suite in recipe.evaluate.suites)
    scorer = _Rewards(recipe, run_dir.path / "evaluation", ranks, device).score if wanted else None
    return Helpers(ranks, scorer=scorer, weights=_weights(recipe), held_out=lambda: held_out_texts(recipe, run_dir), **voice)


def held_out_texts(recipe: Recipe, run_dir: RunDir) -> list[str]:
    """What a run on text has kept out of training: its last samples, each as a text of ``sequence_length`` tokens.

    Raises:
        HpctrainError: the data is not there any more, and neither are its tokens.
    """
    data = recipe.data
    if data is None:
        return []
    tokenizer = tokenizer_of(recipe)
    key, file = tokens_of(data, tokenizer, run_dir.cache)
    values = (file or tokens.prepare(run_dir.cache, key, lambda: text.documents(data), tokenizer)).open()
    samples, codec = Samples(values, data.sequence_length, data.validation_fraction), codec_of(inspect(run_dir.model))
    first, length = samples.training, samples.length
    blocks = (values[index * length + 1:(index + 1) * length + 1] for index in range(first, first + samples.validation))
    return [one for block in blocks if (one := codec.decode([int(token) for token in block])).strip()]


class _Rewards:
    """The run's rewards, made when they are asked for the first time."""

    def __init__(self, recipe: Recipe, folder: Path, ranks: Ranks, device: str) -> None:
        self._recipe, self._folder, self._device = recipe, folder, device
        self._rank, self._share = ranks.rank, ranks.world_size
        self._built: Any = None

    def score(
        self, prompts: Sequence[Any], answers: Sequence[str], columns: Mapping[str, Sequence[Any]], lengths: Sequence[int],
    ) -> Mapping[str, Sequence[float | None]]:
        """One number per answer, by name of the reward."""
        if self._built is None:
            on_gpu = torch.cuda.is_available() and self._device != "cpu"
            around = Surroundings(device="cuda" if on_gpu else "cpu", marks=self._folder / "marks",
                                  writer=f"rank-{self._rank:05d}", share=self._share)
            self._built = build_rewards(self._recipe, around)
        batch = Batch(prompts, answers, columns, lengths)
        return {reward.name: reward.score(batch) for reward in self._built}


def _weights(recipe: Recipe) -> dict[str, float]:
    from hpctrain.recipe.rewards import effective_rewards, reward_names

    rewards = effective_rewards(recipe)
    return {name: reward.weight for name, reward in zip(reward_names(rewards), rewards, strict=True)}
