"""``import``: recipes of other systems (entry point)."""

from __future__ import annotations

from pathlib import Path

import click

from hpctrain.cli.output import output_option, print_json, say


@click.group("import")
def import_() -> None:
    """Turn another system's recipe into one of ours."""


@import_.command("hyperpod")
@click.argument("file", type=click.Path())
@click.option("--to", "target", metavar="FILE", default="",
              help="Write the recipe there; an existing file is not overwritten.")
@click.option("--dry-run", is_flag=True, help="With --to: print instead of writing.")
@output_option
def hyperpod(file: str, target: str, dry_run: bool, output: str) -> None:
    """Turn a SageMaker HyperPod recipe into one of ours.

    FILE is a recipe of sagemaker-hyperpod-recipes for supervised fine-tuning, preferences (DPO) or reinforcement learning
    (GRPO with verified rewards or a judge). The recipe goes to standard output, every key that was not carried over to
    standard error, each with its line and the reason.
    """
    from hpctrain.errors import NotFoundError, RecipeError
    from hpctrain.files import create_atomic, storage_errors
    from hpctrain.recipe.import_hyperpod import WANTED, import_recipe
    from hpctrain.recipe.load import read

    if Path(file).is_dir():
        raise RecipeError("is a directory, not a recipe", where=file, hint=WANTED)
    if not Path(file).exists():
        raise NotFoundError("no such file", where=file, hint=WANTED)
    source = read(Path(file), file)
    found = import_recipe(source.text, source.label)
    writes = bool(target) and not dry_run
    if writes:
        if Path(target).exists() or Path(target).is_symlink():
            raise RecipeError("exists already, and is not overwritten", where=target, hint="choose another name")
        with storage_errors(target):
            create_atomic(Path(target), found.text, mode=0o644)
    if output == "json":
        print_json("import", {**found.to_json(), "path": target or None, "written": writes})
        return
    for item in found.left_out:
        say(f"not carried over: {item.where}: {item.key}: {item.reason}")
    for line in found.notes:
        say(f"note: {line}")
    say(f"{len(found.carried)} keys carried over, {len(found.left_out)} not")
    if writes:
        say(f"wrote {target}; next: set what it marks with '<-', then 'hpctrain validate {target}'")
    else:
        click.echo(found.text, nl=False)
