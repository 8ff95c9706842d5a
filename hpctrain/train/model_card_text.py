"""The model card: a README.md made from a run's record (pure).

It goes where the model goes, perhaps to strangers: no path of the cluster, no user, no host name stands in it. Those are in
the record beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from hpctrain.jobs.lineage import BASE, DATA, MODEL_FILE, section
from hpctrain.jobs.text import count, loss, plural
from hpctrain.recipe.units import format_bytes

_METHODS = {
    "pretrain": "pretrained from random weights", "cpt": "trained further on text", "sft": "fine-tuned on answers",
    "dpo": "tuned on preferences", "reward": "trained to mark answers", "rlvr": "tuned by rewards that are verified",
    "rlaif": "tuned by the marks of a judge model", "rlhf": "tuned by the marks of a reward model",
    "distill": "distilled from a teacher",
}


def render(record: Mapping[str, Any], config: Mapping[str, Any], *, is_adapter: bool, has_tokenizer: bool) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
        record: of the run; ``outputs.model`` is the model that the card is for.
        config: its ``config.json``.
        is_adapter: it is a peft adapter, to be laid over its base model.
        has_tokenizer: transformers can load a tokenizer from beside it.
    """
    values = section(section(record, "recipe"), "values")
    name = str(section(record, "run").get("name") or values.get("name") or "model")
    parts = [
        _front(record, values, config, is_adapter), [f"# {name}", "", *_summary(record, values, config, is_adapter)],
        ["## How to use it", "", *_usage(values, is_adapter, has_tokenizer)], _section_of("Results", _results(record)),
        _section_of("Training", _table(_training(record, values))), _section_of("Data", list(_data(record))),
        _section_of("Where it comes from", list(_chain(record, 0))), _section_of("How to make it again", _again(record)),
        _section_of("Files", _files(record)),
        ["---", "", f"Written by hpctrain {section(record, 'code').get('version') or ''} from the run's record; all of it, "
         f"with the paths of the machine it was made on, is in `{MODEL_FILE}` beside this file."],
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _front(record: Mapping[str, Any], values: Mapping[str, Any], config: Mapping[str, Any], is_adapter: bool) -> list[str]:
    method = str(values.get("method") or "")
    tags = ["hpctrain", method, *([str(section(values, "adapter").get("kind"))] if is_adapter else []),
            str(config.get("model_type") or "")]
    hub = [str(entry["name"]) for entry in _inputs(record) if entry.get("role") == BASE and entry.get("kind") == "hub"]
    sets = [str(entry["name"]) for entry in _inputs(record) if entry.get("kind") == "data set" and entry.get("revision")]
    lines = [f"library_name: {'peft' if is_adapter else 'transformers'}",
             f"pipeline_tag: {'text-classification' if method == 'reward' else 'text-generation'}"]
    if hub:
        lines += [f"base_model: {json.dumps(hub[0])}", f"base_model_relation: {'adapter' if is_adapter else 'finetune'}"]
    if sets:
        lines += ["datasets:", *(f"- {json.dumps(one)}" for one in sets)]
    return ["---", *lines, "tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags) if tag), "---"]


def _summary(record: Mapping[str, Any], values: Mapping[str, Any], config: Mapping[str, Any], is_adapter: bool) -> list[str]:
    kind = str(config.get("model_type") or "")
    what = f"An adapter ({section(values, 'adapter').get('kind')})" if is_adapter else " ".join(f"A {kind} model".split())
    base = next((entry for entry in _inputs(record) if entry.get("role") == BASE), None)
    on = f", starting from {_bare(base)}" if base is not None else ""
    how = _METHODS.get(str(values.get("method")), "trained")
    checkpoint = section(section(section(record, "outputs"), "model"), "checkpoint")
    taken = f" These are the weights of step {checkpoint['step']}." if "step" in checkpoint else ""
    said = [str(values["description"]), ""] if values.get("description") else []
    return [*said, f"{what}, {how}{on}.{taken}"]


def _usage(values: Mapping[str, Any], is_adapter: bool, has_tokenizer: bool) -> list[str]:
    kind = "AutoModelForSequenceClassification" if values.get("method") == "reward" else "AutoModelForCausalLM"
    if is_adapter:
        kind = "AutoPeftModelForSequenceClassification" if values.get("method") == "reward" else "AutoPeftModelForCausalLM"
    library = "peft" if is_adapter else "transformers"
    lines = ["```python", f"from {library} import {kind}"]
    lines += ["from transformers import AutoTokenizer"] if has_tokenizer else []
    lines += ["", f'model = {kind}.from_pretrained("PATH_OF_THIS_DIRECTORY")']
    lines += ['tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_DIRECTORY")'] if has_tokenizer else []
    return [*lines, "```"]


def _results(record: Mapping[str, Any]) -> list[str]:
    metrics = section(record, "metrics")
    names = {"loss": "training loss", "validation_loss": "validation loss", "reward": "reward", "accuracy": "accuracy",
             "rewards/accuracies": "preference accuracy"}
    rows = [(names[key], loss(float(metrics[key]))) for key in names if isinstance(metrics.get(key), (int, float))]
    at = f"At step {metrics['step']:.0f}:" if isinstance(metrics.get("step"), (int, float)) else ""
    lines = [at, "", *_table(rows)] if rows else []
    table = _evaluation(section(section(record, "outputs"), "evaluation"))
    return [*lines, *(["", "Evaluation:", "", *table] if table else [])]


def _evaluation(evaluation: Mapping[str, Any]) -> list[str]:
    """The table of before and after, or of one model alone; see :mod:`hpctrain.evaluate`."""
    models = [model for model in evaluation.get("models") or [] if isinstance(model, Mapping)]
    columns = [str(model.get("label")) for model in models]
    values: dict[tuple[str, str], list[str]] = {}
    for index, model in enumerate(models):
        for suite in model.get("suites") or []:
            for measure in suite.get("measures") or []:
                row = values.setdefault((str(suite.get("name")), str(measure.get("name"))), ["-"] * len(models))
                row[index] = _value(measure.get("value"))
    if not values:
        return []
    rows = [f"| {' | '.join([*names, *row])} |" for names, row in values.items()]
    return [f"| {' | '.join(['suite', 'measure', *columns])} |", "|---" * (2 + len(columns)) + "|", *rows]

def _training(record: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    training, data, adapter = section(values, "training"), section(values, "data"), section(values, "adapter")
    optimizer, metrics, cluster = section(training, "optimizer"), section(record, "metrics"), section(record, "cluster")
    rows: list[tuple[str, object]] = [
        ("method", values.get("method")), ("steps", metrics.get("step") or training.get("steps")),
        ("tokens", count(float(metrics["tokens"])) if isinstance(metrics.get("tokens"), (int, float)) else None),
        ("samples per step", training.get("global_batch_size")), ("tokens per sample", data.get("sequence_length")),
        ("optimizer", optimizer.get("kind")), ("learning rate", optimizer.get("learning_rate")),
        ("schedule", section(training, "schedule").get("kind")), ("precision", training.get("precision")),
        ("parallelism", section(training, "parallelism").get("kind")), ("seed", training.get("seed")),
    ]
    if adapter:
        rows += [("adapter", f"{adapter.get('kind')}, rank {adapter.get('rank')}, alpha {adapter.get('alpha')}")]
    if cluster.get("nodes"):
        device = {"cuda": cluster.get("gpu_type") or "GPU", "cpu": "CPU"}.get(str(cluster.get("device")), "")
        ranks = f" x {plural(int(cluster['ranks_per_node']), 'rank')}" if cluster.get("ranks_per_node") else ""
        rows += [("machine", f"{plural(int(cluster['nodes']), 'node')}{ranks}, {device}".strip(", "))]
    starts = record.get("starts") or []
    rows += [("starts", f"{len(starts)} (continued from checkpoints)")] if len(starts) > 1 else []
    packages = section(section(record, "environment"), "packages")
    rows += [(name, packages.get(name)) for name in ("torch", "transformers", "trl", "peft")]
    return [(label, str(value)) for label, value in rows if value not in (None, "")]


def _data(record: Mapping[str, Any]) -> Iterator[str]:
    for entry in _inputs(record):
        if entry.get("role") == DATA:
            files = plural(int(entry["file_count"]), "file") if entry.get("file_count") else ""
            yield f"- {_bare(entry)}" + (f", {files}, {format_bytes(int(entry['size_bytes']))}" if files else "")


def _chain(record: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The run and everything it stands on, as a nested list."""
    name, method = section(record, "run").get("name"), section(record, "recipe").get("method")
    if not depth:
        yield f"- **{name}** ({method or 'command'})"
    for entry in _inputs(record):
        below = section(entry, "record")
        said = f" ({section(below, 'recipe').get('method') or 'command'})" if below else ""
        changed = ", changed after that run had saved it" if entry.get("state") == "changed" else ""
        yield f"{'  ' * (depth + 1)}- {entry.get('role')}: {_bare(entry)}{said}{changed}"
        if below:
            yield from _chain(below, depth + 1)


def _again(record: Mapping[str, Any]) -> list[str]:
    code, recipe = section(record, "code"), section(record, "recipe")
    if not code:
        return []
    where = f"commit `{code['commit']}`" if code.get("commit") else f"version {code.get('version')}"
    where += ", with changes that are not committed" if code.get("dirty") else ""
    digest = str(recipe.get("resolved_sha256") or "")[:16]
    return [f"hpctrain, {where}; the resolved recipe is in `{MODEL_FILE}` under `recipe.values` (SHA-256 of the file "
            f"`{digest}`). With the same data, world size, hardware and libraries a run is repeated bit by bit where "
            "`training.deterministic` is on."]


def _files(record: Mapping[str, Any]) -> list[str]:
    model = section(section(record, "outputs"), "model")
    rows = [(str(file.get("name")), format_bytes(int(file.get("size_bytes") or 0)), f"`{file.get('sha256')}`")
            for file in model.get("files") or [] if isinstance(file, Mapping)]
    return ["| file | size | SHA-256 |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)] if rows else []


def _bare(entry: Mapping[str, Any]) -> str:
    """What an input is called among strangers: a name and a hash, no path."""
    name = str(entry.get("name") or "")
    is_public = entry.get("kind") in ("hub", "data set") and not name.startswith(("/", "~", "."))
    name = name if is_public else PurePath(name).name or name
    digest = f", SHA-256 `{str(entry['sha256'])[:16]}`" if entry.get("sha256") else ""
    revision = f" at `{str(entry['revision'])[:12]}`" if entry.get("revision") else ""
    return f"{name}{revision}{digest}"


def _section_of(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines] if lines else []


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {label} | {value} |" for label, value in rows)] if rows else []


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "-"


def _inputs(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in record.get("inputs") or [] if isinstance(entry, Mapping)]
