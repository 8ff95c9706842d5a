"""A record as a tree for people: each run over what it was made from (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.jobs.lineage import DATA, section
from hpctrain.jobs.text import loss, plural, stamp
from hpctrain.recipe.units import format_bytes

_SHORT = 12


@dataclass(frozen=True, slots=True)
class Branch:
    """One thing in the tree.

    Attributes:
        head: what it is.
        notes: lines below, about it alone.
        below: what it was made from.
    """

    head: str
    notes: tuple[str, ...] = ()
    below: tuple[Branch, ...] = ()


def render(branch: Branch, colour: bool = False) -> str:
    """The tree as text; nothing is cut, because people copy hashes and paths."""
    return "\n".join(_lines(branch, "", "", colour))


def run_branch(record: Mapping[str, Any], role: str = "") -> Branch:
    """A run and all it stands on.

    Args:
        record: whole, or brief as an input holds it.
        role: what the run above uses it as.
    """
    run, recipe = section(record, "run"), section(record, "recipe")
    words = [str(recipe.get("method") or "command"), *_progress(record)]
    head = f"{role}: " if role else ""
    head += f"{run.get('name') or '(a run without a name)'}  {' · '.join(words)}"
    model = section(record, "model") or section(section(record, "outputs"), "model")
    notes = [*_model_note(model), *_code_note(section(record, "code"))]
    if run.get("there") is False:
        notes.append(f"its directory is not there: {run.get('directory')}")
    if record.get("cut"):
        notes.append("older runs are left out")
    return Branch(head, tuple(notes), tuple(_inputs(record)))


def model_branch(entry: Mapping[str, Any]) -> Branch:
    """An input of a record: a model, served or on disk, or data."""
    role, kind, name = str(entry.get("role") or ""), entry.get("kind"), str(entry.get("name") or "")
    record = entry.get("record")
    if isinstance(record, Mapping):
        made = run_branch(record, role)
        # What is said of the model is about the weights that were used, not about those that were saved.
        notes = [note for note in made.notes if not note.startswith("model ")]
        return Branch(made.head, (*_weights_note(entry), *_checkpoint_note(entry), *notes), made.below)
    words = {"hub": "from the hub", "missing": "not there", "endpoint": "served", "directory": "no lineage known"}
    said = words.get(str(kind), "")
    revision = f" at {str(entry['revision'])[:_SHORT]}" if entry.get("revision") else ""
    notes = _data_notes(entry) if role == DATA else [*_weights_note(entry)]
    place = [] if role == DATA or kind == "hub" else [str(entry["path"])] if entry.get("path") else []
    return Branch(f"{role}: {name}{revision}" + (f"  {said}" if said else ""), (*place, *notes))


def details(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, text) of what the tree has no room for: recipe, code, cluster, environment, starts, results."""
    recipe, run, cluster = section(record, "recipe"), section(record, "run"), section(record, "cluster")
    rows = [("Run", str(run.get("directory") or run.get("name") or ""))]
    if run.get("job_id"):
        on = f" on cluster {cluster['name']}" if cluster.get("name") else ""
        rows.append(("Job", f"{run['job_id']}{on}, submitted {stamp(_number(run.get('submitted_time')))}"))
    rows.append(("Recipe", f"{recipe.get('source') or recipe.get('name') or '-'}{_hash(' sha256 ', recipe.get('sha256'))}"))
    if recipe.get("sets"):
        rows.append(("", "changed by " + " ".join(f"--set {value}" for value in recipe["sets"])))
    rows += _code_rows(record)
    shape = _shape(cluster)
    rows += [("Cluster", shape)] if shape else []
    rows += _environment_rows(section(record, "environment"))
    rows += _start_rows(record.get("starts"))
    rows += [("Results", ", ".join(_results(section(record, "metrics"))) or "none yet")]
    return [(label, text) for label, text in rows if text]


def _lines(branch: Branch, first: str, rest: str, colour: bool) -> Iterator[str]:
    yield first + (f"\x1b[1m{branch.head}\x1b[0m" if colour else branch.head)
    bar = "│  " if branch.below else "   "
    for note in branch.notes:
        yield f"{rest}{bar}{note}"
    for index, below in enumerate(branch.below):
        is_last = index == len(branch.below) - 1
        yield from _lines(below, f"{rest}{'└─ ' if is_last else '├─ '}", f"{rest}{'   ' if is_last else '│  '}", colour)


def _inputs(record: Mapping[str, Any]) -> Iterator[Branch]:
    for entry in record.get("inputs") or []:
        if isinstance(entry, Mapping):
            yield model_branch(entry)


def _progress(record: Mapping[str, Any]) -> list[str]:
    metrics = section(record, "metrics")
    words = [str(record["state"])] if record.get("state") else []
    if isinstance(metrics.get("step"), (int, float)):
        words.append(f"step {metrics['step']:.0f}")
    return [*words, *_results(metrics)[:1]]


def _results(metrics: Mapping[str, Any]) -> list[str]:
    """The losses, validation first, then whatever else is no mere circumstance."""
    names = {"validation_loss": "validation loss", "loss": "loss", "reward": "reward"}
    return [f"{names[key]} {loss(float(metrics[key]))}" for key in names if isinstance(metrics.get(key), (int, float))]


def _model_note(model: Mapping[str, Any]) -> list[str]:
    if not model.get("sha256"):
        return []
    return [f"model{_hash(' sha256 ', model['sha256'])}, {format_bytes(int(model.get('size_bytes') or 0))}"]


def _weights_note(entry: Mapping[str, Any]) -> list[str]:
    if not entry.get("sha256"):
        return []
    said = {"changed": ", NOT the weights that this run saved: they were changed since", "as saved": ", as it was saved"}
    return [f"weights{_hash(' sha256 ', entry['sha256'])}, {format_bytes(int(entry.get('size_bytes') or 0))}"
            f"{said.get(str(entry.get('state')), '')}"]


def _checkpoint_note(entry: Mapping[str, Any]) -> list[str]:
    checkpoint = section(entry, "checkpoint")
    return [f"exported from the checkpoint of step {checkpoint['step']}"] if "step" in checkpoint else []


def _data_notes(entry: Mapping[str, Any]) -> list[str]:
    words = []
    if entry.get("file_count"):
        words.append(f"{plural(int(entry['file_count']), 'file')}, {format_bytes(int(entry.get('size_bytes') or 0))}")
    if entry.get("sha256"):
        of = "" if entry.get("of") in (None, "content") else f" of {entry['of']}"
        words.append(f"sha256{of} {str(entry['sha256'])[:_SHORT]}")
    return [", ".join(words)] if words else []


def _code_note(code: Mapping[str, Any]) -> list[str]:
    if not code:
        return []
    return [f"code hpctrain {code.get('version') or '?'}{_commit(code)}"]


def _commit(code: Mapping[str, Any]) -> str:
    commit = f", commit {str(code['commit'])[:_SHORT]}" if code.get("commit") else ""
    return commit + (" with changes" if code.get("dirty") else "")


def _code_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    code, own = section(record, "code"), section(record, "workdir")
    how = {"checkout": "from a checkout", "installed": "installed"}.get(str(code.get("how")), "")
    rows = [("Code", f"hpctrain {code.get('version')} {how}{_commit(code)}")] if code else []
    if own:
        rows.append(("", f"the recipe lies in {own.get('root')}{_commit(own)}"))
    earlier = section(record, "earlier")
    for key, word in (("code", "code"), ("environment", "environment")):
        if earlier.get(key):
            times = plural(len(earlier[key]), "time")
            rows.append(("", f"the {word} changed {times} between starts of this run: -o json shows how"))
    return rows


def _shape(cluster: Mapping[str, Any]) -> str:
    if not cluster.get("nodes"):
        return ""
    device = {"cuda": "GPUs", "cpu": "CPUs"}.get(str(cluster.get("device")), "")
    kind = f" ({cluster['gpu_type']})" if cluster.get("gpu_type") else ""
    ranks = f" x {plural(int(cluster['ranks_per_node']), 'rank')}" if cluster.get("ranks_per_node") else ""
    partition = f" in partition {cluster['partition']}" if cluster.get("partition") else ""
    return f"{plural(int(cluster['nodes']), 'node')}{ranks}{f' on {device}' if device else ''}{kind}{partition}"


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    packages = section(environment, "packages")
    if not environment:
        return []
    main = [f"{name} {packages[name]}" for name in ("torch", "transformers", "trl", "peft", "datasets") if name in packages]
    return [("Environment", ", ".join([f"Python {environment.get('python')}", *main, f"{len(packages)} packages in all"]))]


def _start_rows(starts: object) -> list[tuple[str, str]]:
    found: Sequence[Any] = starts if isinstance(starts, Sequence) else ()
    rows = []
    for number, start in enumerate(start for start in found if isinstance(start, Mapping)):
        restored = section(start, "restored")
        origin = "from the beginning"
        if restored:
            tiers = " and ".join(restored.get("tiers") or [])
            origin = f"from the checkpoint of step {restored.get('step')}" + (f" ({tiers})" if tiers else "")
        elif start.get("step"):
            origin = f"from step {start['step']}"
        back = f"; went back: {start['rewind']}" if start.get("rewind") else ""
        rows.append(("" if number else "Starts", f"{stamp(_number(start.get('time')))}  {origin}{back}"))
    return [*rows[:3], ("", f"... {len(rows) - 6} more ..."), *rows[-3:]] if len(rows) > 7 else rows


def _hash(before: str, value: object) -> str:
    return f"{before}{str(value)[:_SHORT]}" if value else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
