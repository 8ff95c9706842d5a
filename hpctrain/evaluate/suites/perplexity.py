"""Perplexity of held-out text, or of the answers in held-out conversations (service)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.evaluate.batching import windows
from hpctrain.evaluate.codec import pair_tokens
from hpctrain.evaluate.examples import predicted, prompt_text, said_text
from hpctrain.evaluate.measures import Measure, TextLoss, text_measures
from hpctrain.evaluate.task import Record, Task, of_row

EXCERPT = 300
"""Characters of a text that a record keeps, for people."""


def measure(task: Task) -> list[Record]:
    """The cost of predicting each row: what stands in a text, or what the assistant says.

    A text that is longer than the model's window is cut into pieces; each begins with the last token of the one before.
    Prompts that are too long lose their beginning.

    Raises:
        RecipeError: a row has nothing to predict.
    """
    model, records = task.model, list[Record]()
    texts, owners = list[tuple[list[int], int]](), list[int]()
    for place, row in enumerate(task.rows):
        pairs = of_row(row, predicted, task.text_field)
        for pair in pairs:
            tokens, first = pair_tokens(model.codec, pair)
            pieces = windows(tokens, model.window) if pair.before == "" else [model.fit(tokens, first)]
            texts += pieces
            owners += [place] * len(pieces)
        last = pairs[-1]
        shown = said_text(last.after)
        records.append({"row": row.number, "nats": 0.0, "tokens": 0, "size_bytes": 0,
                        "prompt": prompt_text(last.before)[-EXCERPT:], "text": shown[:EXCERPT]})
    costs = model.negative_log_likelihoods(texts, task.progress)
    for owner, (tokens, first), nats in zip(owners, texts, costs, strict=True):
        record = records[owner]
        record["nats"] += nats
        record["tokens"] += len(tokens) - first
        record["size_bytes"] += len(model.codec.decode(tokens[first:]).encode("utf-8", errors="replace"))
    return records


def summarise(records: Sequence[Record]) -> list[Measure]:
    """Perplexity, loss and bits per byte over all rows."""
    return text_measures([TextLoss(one["nats"], one["tokens"], one["size_bytes"]) for one in records])
