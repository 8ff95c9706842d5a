"""``init``, ``validate`` and ``recipes``: everything before a submission (entry point)."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.output import output_option, print_json, say

if TYPE_CHECKING:
    from hpctrain.recipe.facts import ClusterFacts
    from hpctrain.settings import Settings

LIST_WIDTH = 80
"""Columns of a terminal that people can be expected to have."""
QUICK_TIMEOUT_S = 3.0
"""Validation must not wait for a cluster that does not answer."""


@click.command()
@click.argument("file", default="recipe.yaml", type=click.Path())
@click.option("--from", "base", metavar="NAME", default="quickstart", show_default=True, help="Shipped recipe to copy.")
@click.option("--dry-run", is_flag=True, help="Print the recipe instead of writing it.")
@output_option
def init(file: str, base: str, dry_run: bool, output: str) -> None:
    """Write a first recipe to edit.

    FILE is never overwritten. 'hpctrain recipes list' shows what to start --from.
    """
    from hpctrain.recipe.first import first_recipe, write_first

    first = first_recipe(base, file)
    if not dry_run:
        write_first(first)
    if output == "json":
        print_json("recipe", {"path": str(first.path), "from": base, "written": not dry_run, "text": first.text})
    elif dry_run:
        click.echo(first.text, nl=False)
    else:
        say(f"wrote {', '.join(str(path) for path in first.written)}")
        say(f"next: edit it, then 'hpctrain validate {file}' and 'hpctrain submit {file} --follow'")


@click.command()
@click.argument("recipe")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Change a value: training.steps=100. Repeatable.")
@click.option("--resolved", is_flag=True, help="Print every value of the recipe, with the place it comes from.")
@click.option("--no-cluster", is_flag=True, help="Do not ask Slurm what the cluster has.")
@output_option
def validate(recipe: str, sets: tuple[str, ...], resolved: bool, no_cluster: bool, output: str) -> None:
    """Check a recipe without submitting it.

    RECIPE is a file, or the name of a shipped recipe. Lists everything that is wrong with file and line, also in the
    first rows of its data, or shows the arithmetic of batch, length and memory. Exit code 3 if something is wrong.
    """
    from hpctrain.data.check import check_before_submission
    from hpctrain.recipe.resolve import dump_resolved, resolve
    from hpctrain.recipe.summary import facts_of, lines_of
    from hpctrain.settings_file import load_settings

    settings = load_settings()
    facts, why_not = (None, "--no-cluster") if no_cluster else _cluster_facts(settings)
    result = resolve(recipe, sets, settings, facts=facts)
    about_data = check_before_submission(result.recipe)
    if output == "json":
        document: dict[str, Any] = {
            "valid": True, "source": str(result.source), **facts_of(result.recipe, result.estimate),
            "notes": [*result.notes, *about_data], "cluster": facts.name if facts else None,
        }
        if resolved:
            document |= {"resolved": result.recipe.model_dump(mode="json"), "origins": result.origins}
        print_json("validation", document)
        return
    if resolved:
        click.echo(dump_resolved(result), nl=False)
    else:
        click.secho("OK", fg="green", bold=True, nl=False)
        click.echo(f"  {result.recipe.name} ({recipe})")
        click.echo("\n".join(lines_of(result.recipe, result.estimate)))
        click.echo(f"  cluster {facts.name} has what it asks for" if facts else f"  cluster not checked: {why_not}")
    for note in (*result.notes, *about_data):
        say(f"note: {note}")


@click.group()
def recipes() -> None:
    """List, show and suggest recipes, export the schema."""


@recipes.command("list")
@click.option("--family", default="", metavar="NAME", help="Only models of this family: llama3, qwen3, gemma, ...")
@click.option("--method", default="", metavar="NAME", help="Only this method: sft, dpo, rlvr, ...")
@click.option("--gpus", type=click.IntRange(min=0), default=None, metavar="N",
              help="Only what needs no more than so many GPUs.")
@output_option
def list_(family: str, method: str, gpus: int | None, output: str) -> None:
    """List the recipes that ship with hpctrain."""
    from hpctrain.recipe.catalogue import catalogue, chosen
    from hpctrain.recipe.summary import short_count

    entries = chosen(catalogue(), family=family, method=method, gpus=gpus)
    if output == "json":
        print_json("recipes", [entry.to_json() for entry in entries])
        return
    if not entries:
        say("no shipped recipe is like that; 'hpctrain recipes suggest' makes one")
        return
    rows = [("NAME", "METHOD", "PARAMETERS", "NODES X GPUS", "")]
    rows += [
        (item.name, item.method, short_count(item.parameters) or "-", f"{item.nodes} x {item.gpus_per_node}",
         "" if item.generated else item.description)  # the name of a generated recipe says it all
        for item in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)).rstrip())
        if row[4]:  # on lines of its own: beside the columns a terminal of 80 would break it anywhere
            click.echo(textwrap.fill(row[4], LIST_WIDTH, initial_indent="    ", subsequent_indent="    "))


@recipes.command("suggest")
@click.option("--model", required=True, metavar="NAME",
              help="A hub id or name of the catalogue, or a directory with a config.json.")
@click.option("--method", required=True, metavar="NAME", help="What to do with it: cpt, sft, dpo, reward, rlvr, ...")
@click.option("--gpus", required=True, type=click.IntRange(min=1, max=65536), metavar="N", help="GPUs, over all nodes.")
@click.option("--gpu-memory-gib", required=True, type=click.FloatRange(min=1, max=4096), metavar="GIB",
              help="Memory of one GPU.")
@click.option("--gpus-per-node", default=8, show_default=True, type=click.IntRange(min=1, max=1024), metavar="N",
              help="GPUs of a node.")
@click.option("--adapter", default="auto", show_default=True, type=click.Choice(("auto", "full", "lora", "dora", "qlora")),
              help="auto: all weights where that fits, else LoRA, else QLoRA.")
@click.option("--sequence-length", type=click.IntRange(min=8), default=None, metavar="TOKENS",
              help="Tokens per sample; default: the method's.")
@output_option
def suggest(  # noqa: PLR0917 - click passes every option by name
    model: str, method: str, gpus: int, gpu_memory_gib: float, gpus_per_node: int, adapter: str,
    sequence_length: int | None, output: str,
) -> None:
    r"""Propose a recipe for a model, a method and the GPUs at hand.

    The recipe goes to standard output, the reasons for its layout to standard error:

    \b
        hpctrain recipes suggest --model Qwen/Qwen3-8B --method sft --gpus 8 --gpu-memory-gib 80 > my.yaml
    """
    from hpctrain.recipe import proposal

    found = proposal.suggest(model, method, gpus=gpus, gpu_memory_gib=gpu_memory_gib, gpus_per_node=gpus_per_node,
                             adapter=adapter, sequence_length=sequence_length)
    if output == "json":
        print_json("suggestion", found.to_json())
        return
    for line in found.reasons:
        say(line)
    click.echo(found.recipe.text, nl=False)


@recipes.command("show")
@click.argument("name")
@output_option
def show(name: str, output: str) -> None:
    """Print a shipped recipe, comments included."""
    from hpctrain.recipe.load import locate, read

    source = read(locate(name), name)
    if output == "json":
        print_json("recipe", {"name": name, "path": str(source.path), "text": source.text})
    else:
        click.echo(source.text, nl=not source.text.endswith("\n"))


@recipes.command("schema")
def schema() -> None:
    r"""Print the JSON Schema of recipes, for editors.

    With an editor that uses yaml-language-server: 'hpctrain recipes schema > recipe.schema.json', and as the first
    line of a recipe

    \b
        # yaml-language-server: $schema=recipe.schema.json
    """
    import json

    from hpctrain.recipe.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


def _cluster_facts(settings: Settings) -> tuple[ClusterFacts | None, str]:
    """The cluster's facts if there is one and it answers at once, else the reason why not."""
    import dataclasses

    from hpctrain.errors import HpctrainError
    from hpctrain.recipe.facts import ClusterFacts
    from hpctrain.slurm.connect import connect

    hurried = dataclasses.replace(settings, slurm_timeout_s=QUICK_TIMEOUT_S, slurm_retries=0)
    try:
        slurm = connect(hurried)
        return ClusterFacts.build(slurm.nodes(), slurm.partitions(), slurm.cluster_name()), ""
    except HpctrainError as error:
        return None, error.message
