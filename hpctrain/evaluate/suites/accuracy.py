"""Right answers on a set: written and compared, or chosen among several (service)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.evaluate.answers import is_right
from hpctrain.evaluate.codec import pair_tokens
from hpctrain.evaluate.draws import answers_to
from hpctrain.evaluate.examples import Pair, answers_of, choices_of, prompt_of, prompt_text, right_choice, tools_of
from hpctrain.evaluate.measures import Measure, mean
from hpctrain.evaluate.task import Record, SetRow, Task, of_row


def measure(task: Task) -> list[Record]:
    """One record per row: what the model answered, and whether that was right; of several answers the share that was.

    Raises:
        RecipeError: a row has no prompt or no right answer.
    """
    choosing = [row for row in task.rows if of_row(row, choices_of)]
    writing = [row for row in task.rows if not row.values.get("choices")]
    return sorted([*_choose(task, choosing), *_write(task, writing)], key=lambda record: record["row"])


def summarise(records: Sequence[Record]) -> list[Measure]:
    """The share of right answers; for choices also by likelihood per byte, which does not favour short ones."""
    found = [mean("accuracy", [float(one["right"]) for one in records])]
    if records and all("right_per_byte" in one for one in records):
        found.append(mean("accuracy_per_byte", [float(one["right_per_byte"]) for one in records]))
    return found


def _write(task: Task, rows: Sequence[SetRow]) -> list[Record]:
    prompts = [of_row(row, prompt_of) for row in rows]
    wanted = [of_row(row, answers_of) for row in rows]
    tools = [of_row(row, tools_of) for row in rows]
    records = []
    for row, prompt, right, answers in zip(rows, prompts, wanted, answers_to(task, prompts, tools), strict=True):
        each = [any(is_right(answer, one, task.suite.match) for one in right) for answer in answers]
        records.append({
            "row": row.number, "prompt": prompt_text(prompt), "answer": answers[0], "expected": " | ".join(right),
            "right": each[0] if len(each) == 1 else sum(each) / len(each),
        })
    return records


def _choose(task: Task, rows: Sequence[SetRow]) -> list[Record]:
    """The most likely choice: each is put behind the prompt as the answer."""
    model, texts = task.model, []
    for row in rows:
        prompt, tools = of_row(row, prompt_of), of_row(row, tools_of)
        texts += [model.fit(*pair_tokens(model.codec, Pair(prompt, choice, tools))) for choice in of_row(row, choices_of)]
    costs = iter(model.negative_log_likelihoods(texts, task.progress))
    records = []
    for row in rows:
        choices = of_row(row, choices_of)
        right, own = right_choice(row.values, choices), [next(costs) for _ in choices]
        each = [cost / len(choice.encode("utf-8", errors="replace")) for cost, choice in zip(own, choices, strict=True)]
        chosen = min(range(len(choices)), key=own.__getitem__)
        records.append({
            "row": row.number, "prompt": prompt_text(of_row(row, prompt_of)), "answer": choices[chosen],
            "expected": choices[right], "right": chosen == right,
            "right_per_byte": min(range(len(choices)), key=each.__getitem__) == right,
        })
    return records
