"""Marks of a judge model, against a rubric or pairwise against another model's answers (service)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.endpoint.client import Client
from hpctrain.endpoint.judge import Marker
from hpctrain.errors import RecipeError
from hpctrain.evaluate.examples import prompt_of, prompt_text, tools_of
from hpctrain.evaluate.measures import NEITHER, Measure, mean
from hpctrain.evaluate.task import Record, Task, of_row


def measure(task: Task) -> list[Record]:
    """One record per prompt: the answer, and its mark from 0 to 1 or how far it is preferred to the other model's.

    Raises:
        RecipeError: there is no judge; a row has no prompt; pairwise without another model's answers.
        EndpointError: the judge does not answer after all tries.
    """
    if task.judge is None:
        raise RecipeError("there is no judge: say 'judge:' in the recipe, or --judge and --judge-model")
    prompts = [of_row(row, prompt_of) for row in task.rows]
    tools = [of_row(row, tools_of) for row in task.rows]
    answers = task.model.generate(prompts, max_new_tokens=task.suite.max_new_tokens, tools=tools, progress=task.progress)
    records: list[Record] = [
        {"row": row.number, "prompt": prompt_text(prompt), "answer": answer}
        for row, prompt, answer in zip(task.rows, prompts, answers, strict=True)
    ]
    marker = Marker(task.judge, client=Client(task.judge, share=task.ranks, notify=task.say), notify=task.say)
    if not task.suite.pairwise:
        for record, mark in zip(records, marker.marks(prompts, answers, tick=task.progress), strict=True):
            record["mark"] = mark
    elif task.first:
        others = [task.first[record["row"]]["answer"] for record in records]
        wins = marker.preferences(prompts, answers, others, tick=task.progress)
        for record, other, win in zip(records, others, wins, strict=True):
            record.update(other_answer=other, win=win)
    return records


def summarise(records: Sequence[Record]) -> list[Measure]:
    """The mean mark (0 to 1), or the share of comparisons that were won (ties count half: 0.5 is a draw)."""
    if records and all("win" in one for one in records):
        return [mean("win_rate", [one["win"] for one in records])]
    if records and all("mark" in one for one in records):
        return [mean("mark", [one["mark"] for one in records])]
    return [mean("answer_characters", [float(len(one["answer"])) for one in records], NEITHER)]
