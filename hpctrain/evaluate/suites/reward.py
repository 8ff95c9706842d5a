"""The run's own rewards on held-out prompts (service)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.errors import RecipeError
from hpctrain.evaluate.draws import answers_to
from hpctrain.evaluate.examples import prompt_of, prompt_text, tools_of
from hpctrain.evaluate.measures import Measure, mean
from hpctrain.evaluate.task import Record, Task, of_row

_NOT_A_COLUMN = ("prompt", "completion", "messages")


def measure(task: Task) -> list[Record]:
    """One record per prompt: the answer (the first of several), each reward, and their weighted sum; means of several.

    Raises:
        RecipeError: there are no rewards; a row has no prompt; a reward function is broken.
        EndpointError: a judge does not answer.
    """
    if task.scorer is None:
        raise RecipeError("there are no rewards to measure: they are those of the recipe of a run",
                          hint="name a run instead of a model directory, or say 'rewards:' in the recipe")
    prompts = [of_row(row, prompt_of) for row in task.rows]
    tools = [of_row(row, tools_of) for row in task.rows]
    drawn, count = answers_to(task, prompts, tools), task.suite.samples
    names = dict.fromkeys(key for row in task.rows for key in row.values if key not in _NOT_A_COLUMN)
    columns = {name: [row.values.get(name) for row in task.rows for _ in range(count)] for name in names}
    answers = [answer for each in drawn for answer in each]
    lengths = [len(task.model.codec.encode(answer)) + 1 for answer in answers]
    asked = [prompt for prompt in prompts for _ in range(count)]
    rewards = task.scorer(asked, answers, columns, lengths) if prompts else {}
    records = []
    for place, row in enumerate(task.rows):
        each = {name: _average(values[place * count:(place + 1) * count]) for name, values in rewards.items()}
        total = sum((task.weights or {}).get(name, 1.0) * value for name, value in each.items() if value is not None)
        records.append({"row": row.number, "prompt": prompt_text(prompts[place]), "answer": drawn[place][0],
                        "rewards": each, "total": total})
    return records


def _average(values: Sequence[float | None]) -> float | None:
    """Of the answers to one prompt; None where a reward had nothing to say of any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summarise(records: Sequence[Record]) -> list[Measure]:
    """The mean of the weighted sum, and of each reward by itself where there are several."""
    found = [mean("reward", [one["total"] for one in records])]
    names = dict.fromkeys(name for one in records for name in one["rewards"])
    if len(names) > 1:
        for name in names:
            values = [one["rewards"][name] for one in records if one["rewards"].get(name) is not None]
            found.append(mean(name if name != "reward" else "reward_alone", values))
    return found
