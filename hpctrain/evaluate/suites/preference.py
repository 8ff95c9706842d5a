"""Pairs of a better and a worse answer put in the right order (service).

By a model that writes: the better answer is the more likely one after the prompt. By a reward model: it has the higher mark.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.evaluate.codec import pair_tokens
from hpctrain.evaluate.examples import preference_of, prompt_text, said_text
from hpctrain.evaluate.measures import NEITHER, Measure, mean
from hpctrain.evaluate.task import Record, Task, of_row


def measure(task: Task) -> list[Record]:
    """One record per pair: both scores, and how long both answers are.

    Raises:
        RecipeError: a row is no pair of answers.
    """
    model, texts = task.model, []
    pairs = [of_row(row, preference_of) for row in task.rows]
    for pair in pairs:
        texts += [model.fit(*pair_tokens(model.codec, one)) for one in pair]
    if model.is_reward:
        scores = model.scores([tokens for tokens, _ in texts], task.progress)
    else:
        scores = [-cost for cost in model.negative_log_likelihoods(texts, task.progress)]
    records = []
    for place, (row, (chosen, rejected)) in enumerate(zip(task.rows, pairs, strict=True)):
        better, worse = (len(tokens) - first for tokens, first in texts[2 * place:2 * place + 2])
        records.append({
            "row": row.number, "prompt": prompt_text(chosen.before), "chosen": said_text(chosen.after),
            "rejected": said_text(rejected.after), "chosen_score": scores[2 * place],
            "rejected_score": scores[2 * place + 1], "chosen_tokens": better, "rejected_tokens": worse,
            "marks": model.is_reward,
        })
    if task.first:
        _against_first(records, task)
    return records


def summarise(records: Sequence[Record]) -> list[Measure]:
    """The share of pairs in the right order (equal scores count half), and how far apart the scores are.

    For a model that writes also per token, which does not favour short answers, and, where it is compared with another one,
    how often it has moved towards the better answer: the accuracy that DPO's own training reports.
    """
    found = [
        mean("accuracy", [_order(one["chosen_score"], one["rejected_score"]) for one in records]),
        mean("margin", [one["chosen_score"] - one["rejected_score"] for one in records], NEITHER),
    ]
    if records and not any(one["marks"] for one in records):
        found.insert(1, mean("accuracy_per_token", [
            _order(_per_token(one, "chosen"), _per_token(one, "rejected")) for one in records]))
    if records and all("gain" in one for one in records):
        found.append(mean("moved_towards_better", [_order(one["gain"], 0.0) for one in records]))
    return found


def _against_first(records: Sequence[Record], task: Task) -> None:
    """How much further apart this model puts both answers than the one it is compared with does."""
    for record in records:
        other = (task.first or {}).get(record["row"])
        if other is not None and not record["marks"] and not other.get("marks"):
            record["gain"] = (record["chosen_score"] - record["rejected_score"]
                              - other["chosen_score"] + other["rejected_score"])


def _per_token(record: Record, which: str) -> float:
    return float(record[f"{which}_score"] / max(1, record[f"{which}_tokens"]))


def _order(better: float, worse: float) -> float:
    return 1.0 if better > worse else 0.5 if better == worse else 0.0
