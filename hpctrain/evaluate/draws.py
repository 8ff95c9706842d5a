"""The answers of a model to the rows of a set: the most likely one, or several that are drawn (service)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.evaluate.codec import Tools
from hpctrain.evaluate.examples import Prompt
from hpctrain.evaluate.task import Task


def answers_to(task: Task, prompts: Sequence[Prompt], tools: Sequence[Tools]) -> list[list[str]]:
    """``suite.samples`` answers to each prompt."""
    suite, count = task.suite, task.suite.samples
    many = [prompt for prompt in prompts for _ in range(count)]
    written = task.model.generate(
        many, max_new_tokens=suite.max_new_tokens, tools=[each for each in tools for _ in range(count)],
        progress=task.progress, temperature=suite.temperature if count > 1 else 0.0,
    )
    return [written[at:at + count] for at in range(0, len(written), count)]
