"""``hpctrain data``: look at what a model will be trained on (entry point)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import output_option, print_json, say

if TYPE_CHECKING:
    from pathlib import Path

    from hpctrain.data.check import Outcome
    from hpctrain.data.files import Row
    from hpctrain.recipe.resolve import Resolved
    from hpctrain.recipe.schema import Data, Recipe

_SET = click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change a value of the recipe: data.rows=100. Repeatable."
)
_FORMAT = click.option(
    "--format", "format_", type=click.Choice(["auto", "text", "chat", "prompt_completion", "preference", "prompts"]),
    default="auto", show_default=True, help="For files without a recipe: what a row is; auto looks at the first.",
)


_JOB_RECIPE = "data-recipe.yaml"
"""In the run directory of a job that prepares data: the recipe it is for, as it was when the job was submitted."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What an argument names: data, what it is for, and the recipe that says so."""

    data: Data
    method: str
    recipe: Recipe | None


@click.group()
def data() -> None:
    """Check, show and prepare training data."""


@data.command("validate", epilog="\b\nExamples:\n  hpctrain data validate recipe.yaml\n"
                                 "  hpctrain data validate train.jsonl --format chat")
@click.argument("source")
@_SET
@_FORMAT
@output_option
def validate(source: str, sets: tuple[str, ...], format_: str, output: str) -> int:
    """Check every row of a recipe's data, or of files.

    SOURCE is a recipe, a data file, a directory or pattern of them, or a set that is made (arithmetic). Lists the first
    bad rows with file and line and what was expected there; exit code 3 if there are any. A submission itself looks at the
    first rows only.
    """
    from hpctrain.data.check import check_all, needed_fields, require_good
    from hpctrain.recipe.chat_template import chat_template

    target = _target(source, sets, format_)
    needed = needed_fields(target.recipe) if target.recipe else {}
    template = chat_template(target.recipe) if target.recipe else None
    found = check_all(target.data, target.method, needed=needed, template=template)
    if output == "json":
        print_json("data", {"source": source, "valid": bool(found.rows) and not found.bad_rows, **found.to_json()})
        return 0 if found.rows and not found.bad_rows else 3
    for bad in found.problems if found.bad_rows > 1 else ():
        say(f"{bad.where}: {bad.message}")
    require_good(found, source)
    click.secho("OK", fg="green", bold=True, nl=False)
    click.echo(f"  {source}\n" + "\n".join(_lines_of(found)))
    return 0


def _lines_of(found: Outcome) -> list[str]:
    kept = f", of which the last {found.validation} are kept to measure on" if found.validation else ""
    mean = found.characters // max(1, found.rows)
    return [
        f"  format   {found.format}", f"  rows     {found.rows:,}{kept}",
        f"  text     {found.characters:,} characters, {mean:,} per row, {found.longest[0]:,} in the longest "
        f"({found.longest[1]})",
    ]


@data.command("preview", epilog="\b\nExamples:\n  hpctrain data preview recipe.yaml -n 5\n"
                                "  hpctrain data preview arithmetic --format preference")
@click.argument("source")
@click.option("-n", "--rows", "count", type=click.IntRange(1), default=3, show_default=True, help="How many rows.")
@click.option("--skip", type=click.IntRange(0), default=0, show_default=True, help="Rows to pass over first.")
@click.option("--tokens", is_flag=True, help="For sft, dpo, reward: as the tokens that are learned, in words again.")
@_SET
@_FORMAT
@output_option
def preview(  # noqa: PLR0917 - click passes every option by name
    source: str, count: int, skip: int, tokens: bool, sets: tuple[str, ...], format_: str, output: str
) -> None:
    """Show rows as the method is given them.

    SOURCE is as for 'hpctrain data validate'.
    """
    from itertools import islice

    from hpctrain.data.read import resolve_format, rows
    from hpctrain.data.show import lines_of_row

    target = _target(source, sets, format_)
    kind = resolve_format(target.data, target.method)
    shown = list(islice(rows(target.data.model_copy(update={"format": kind}), target.method), skip, skip + count))
    if tokens:
        _show_tokens(target, shown, output)
        return
    if output == "json":
        found = [{"where": row.where, "row": row.values} for row in shown]
        print_json("data", {"source": source, "format": kind, "rows": found})
        return
    say(f"format {kind}" + (f", for method {target.method}" if target.method else ""))
    click.echo("\n\n".join("\n".join(lines_of_row(row.values, row.where)) for row in shown))


def _show_tokens(target: _Target, shown: list[Row], output: str) -> None:
    from hpctrain.data.show import lines_of_parts
    from hpctrain.recipe.check_data import PREPARED
    from hpctrain.recipe.schema_method import TUNING

    if target.recipe is None or target.method not in TUNING or target.method not in PREPARED:
        raise click.UsageError("--tokens is for a recipe whose method is sft, dpo or reward")
    from hpctrain.train.tune.preview import as_tokens

    found = list(zip(shown, as_tokens(target.recipe, shown), strict=True))
    if output == "json":
        rows = [{"where": row.where, "parts": [part.to_json() for part in parts]} for row, parts in found]
        print_json("data", {"rows": rows})
        return
    left_out = ("left out", f"longer than {target.data.sequence_length} tokens")
    for row, parts in found:
        named = [(f"{part.purpose} ({part.tokens})", part.text) for part in parts] or [left_out]
        click.echo("\n".join(lines_of_parts(named, row.where)) + "\n")


def _target(source: str, sets: tuple[str, ...], format_: str) -> _Target:
    import os

    from hpctrain.errors import RecipeError
    from hpctrain.recipe.check_data import MADE
    from hpctrain.recipe.schema import Data

    values: dict[str, Any] | None = None
    if source in MADE:
        values = {"source": source}
    elif _is_saved(source):
        values = {"source": "huggingface", "name": os.path.abspath(source)}  # noqa: PTH100 - it may be a link
    elif _is_data(source):
        values = {"source": "files", "paths": [source]}
    if values is not None:
        if sets:
            raise click.UsageError("--set changes a recipe, and this is data")
        return _Target(Data.model_validate({**values, "format": format_}), "", None)
    from hpctrain.recipe.resolve import resolve
    from hpctrain.settings_file import load_settings

    _refuse_other_data(source)
    recipe = resolve(source, sets, load_settings()).recipe
    if recipe.data is None or recipe.method is None:
        raise RecipeError("runs a command of its own, which brings its own data", where=source)
    if format_ not in ("auto", recipe.data.format):
        raise click.UsageError("--format is for files; a recipe says data.format, so: --set data.format=" + format_)
    return _Target(recipe.data, recipe.method, recipe)


def _refuse_other_data(source: str) -> None:
    """A file that holds data in a form that is not read, and would be taken for a recipe."""
    from pathlib import Path

    from hpctrain.errors import RecipeError
    from hpctrain.recipe.files import DATA_SUFFIXES

    path = Path(source)
    if not path.is_file():
        return
    with path.open("rb") as file:
        is_list = path.suffix == ".json" and file.read(4096).lstrip().startswith(b"[")
    if is_list or path.suffix in (".csv", ".tsv", ".arrow", ".zst", ".xz", ".bz2", ".gz", ".zip"):
        raise RecipeError(f"not one of {' '.join(DATA_SUFFIXES)}", where=source, hint=(
            "write its rows as jsonl, one object per line; with Hugging Face's datasets: "
            "load_dataset(...)['train'].to_json('rows.jsonl')"))


def _is_saved(source: str) -> bool:
    """A directory that Hugging Face's ``save_to_disk`` has made."""
    from hpctrain.data.hub import is_saved

    return is_saved(source)


def _is_data(source: str) -> bool:
    """A data file, a directory or a pattern, and not the name of a recipe."""
    import glob
    from pathlib import Path

    from hpctrain.recipe.files import DATA_SUFFIXES

    return source.endswith(DATA_SUFFIXES) or glob.has_magic(source) or Path(source).is_dir()


@data.command("prepare", epilog="\b\nExamples:\n  hpctrain data prepare recipe.yaml\n"
                                "  hpctrain data prepare recipe.yaml --submit")
@click.argument("recipe")
@_SET
@click.option("--submit", "submit_", is_flag=True, help="Do it in a Slurm job of one node, without GPUs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--in-run-dir", is_flag=True, hidden=True, help="RECIPE lies in this job's run directory.")
@output_option
def prepare(  # noqa: PLR0917 - click passes every option by name
    recipe: str, sets: tuple[str, ...], submit_: bool, dry_run: bool, in_run_dir: bool, output: str
) -> None:
    """Tokenise (and pack) a recipe's data once, before a job with GPUs waits for it.

    For pretrain, cpt, sft, dpo and reward. The tokens lie in the runs directory's prepared-data/, named by a hash of the
    data's contents and of the tokenizer: every later run on that data finds them, and doing it again costs the reading only.
    --submit makes a run of its own of it, with logs, a name and a place in the queue.
    """
    import os
    from pathlib import Path

    from hpctrain.recipe.resolve import resolve
    from hpctrain.settings_file import load_settings

    if in_run_dir:
        recipe = str(Path(os.environ.get("HPCTRAIN_RUN_DIR", ""), recipe))
    settings = load_settings()
    resolved = resolve(recipe, sets, settings)
    _require_tokens(resolved.recipe, recipe)
    if submit_:
        _submit_preparation(resolved, argument=recipe, dry_run=dry_run, output=output)
        return
    if dry_run:
        _say_what_is_read(resolved.recipe, Path(settings.runs_dir), output)
        return
    done = _prepare(resolved.recipe, Path(settings.runs_dir))
    if output == "json":
        print_json("prepared", done)
    elif "tokens" in done:
        how = "were there" if done["reused"] else "are made"
        click.echo(f"{done['tokens']:,} tokens of {done['documents']:,} documents {how}: {done['samples']:,} samples, "
                   f"{done['path']}")
    else:
        from hpctrain.train.tune.row_files import sentence

        click.echo(f"{sentence(done, 'there before' if done['reused'] else 'tokenised')}: {done['path']}")


def _prepare(recipe: Recipe, runs_dir: Path) -> dict[str, Any]:
    """Do it here; what was made, as JSON."""
    if recipe.method in ("pretrain", "cpt"):
        from hpctrain.train.prepared import prepare_text

        done = prepare_text(recipe, runs_dir, progress=lambda documents, _: _tell("documents", documents))
        return {"tokens": done.file.tokens, "documents": done.file.documents, "samples": done.samples,
                "path": done.file.path, "reused": done.file.reused, "data": done.hashes}
    from hpctrain.train.tune.prepare import prepare_rows

    found = prepare_rows(recipe, runs_dir, lambda rows: _tell("rows", rows))
    return {**found.facts, "path": str(found.folder), "reused": found.reused, "data": found.hashes}


def _tell(what: str, number: int) -> None:
    if number % 100_000 == 0:
        say(f"{number:,} {what}")


def _require_tokens(recipe: Recipe, name: str) -> None:
    from hpctrain.errors import RecipeError
    from hpctrain.recipe.check_data import PREPARED

    if recipe.data is None or recipe.method not in PREPARED:
        of_method = f"method '{recipe.method}' writes and judges answers while it trains"
        what = of_method if recipe.method else "it runs a command of its own"
        raise RecipeError(f"there is nothing to tokenise beforehand: {what}", where=name,
                          hint="'hpctrain data validate RECIPE' checks rows")


def _say_what_is_read(recipe: Recipe, runs_dir: Path, output: str) -> None:
    from hpctrain.data.identity import source_files

    assert recipe.data is not None  # noqa: S101 - _require_tokens has seen to it
    files = source_files(recipe.data)
    size, folder = sum(path.stat().st_size for path in files), str(runs_dir / "prepared-data")
    if output == "json":
        print_json("prepared", {"dry_run": True, "files": len(files), "bytes": size, "directory": folder})
        return
    from hpctrain.jobs.text import plural
    from hpctrain.recipe.units import format_bytes

    what = f"{plural(len(files), 'file')}, {format_bytes(size)}" if files else recipe.data.name or recipe.data.source
    click.echo(f"would tokenise {what} into {folder}")


def _submit_preparation(resolved: Resolved, *, argument: str, dry_run: bool, output: str) -> None:
    """A run of one process whose command is this command, on the recipe as it is resolved now."""
    import sys
    from pathlib import Path

    from hpctrain.cli.as_job import submit_command
    from hpctrain.recipe.resolve import dump_resolved
    from hpctrain.submit.command_recipe import command_recipe, without_gpus

    name = resolved.recipe.name
    command = (sys.executable, "-m", "hpctrain", "data", "prepare", "--in-run-dir", _JOB_RECIPE)
    text = command_recipe(f"prepare-{name}"[:80], command, without_gpus(resolved.recipe.resources),
                          description=f"tokens of the data of {name}", workdir=str(Path.cwd()))
    submit_command(text, argument=f"data prepare {argument}", files={_JOB_RECIPE: dump_resolved(resolved)}, dry_run=dry_run,
                   output=output)
