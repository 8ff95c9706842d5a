"""``hpctrain checkpoints copy`` and ``export``: checkpoints that leave their place (entry point)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpctrain.cli.checkpoint_join import join
from hpctrain.cli.checkpoint_place import Place, dry_run_option, find_place, open_target, run_argument
from hpctrain.cli.jobs import examples
from hpctrain.cli.output import output_option, print_json
from hpctrain.cli.progress import ByteProgress

if TYPE_CHECKING:
    from hpctrain.checkpoint.catalogue import Listed
    from hpctrain.train.checkpoint_export import Dress


@click.command("copy", short_help="Copy a checkpoint to another place, verified.", epilog=examples(
    "hpctrain checkpoints copy latest latest /archive/my-run", "hpctrain checkpoints copy 4711 40 s3://bucket/keep",
    "hpctrain checkpoints copy /nvme/node1 latest joined --parts /nvme/node2",
))
@run_argument
@click.argument("step", metavar="STEP")
@click.argument("dest", metavar="DEST")
@click.option(
    "--parts", metavar="DIR", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="RUN is a directory of the local tier of one node, DIR that of another one (repeat it for each): join their parts.",
)
@dry_run_option("copied")
@output_option
def copy(run: str, step: str, dest: str, *, parts: tuple[Path, ...], dry_run: bool, output: str) -> None:
    """Copy a checkpoint to DEST/step-..., verified, so that a run can be restored from there.

    DEST is a directory of checkpoints (it is made if need be) or the URL of an object store: set HPCTRAIN_CHECKPOINT_DIR to
    it, or copy to NEWRUN/checkpoints. A copy that was cut off does not count; the same command finishes it. With --parts,
    what the nodes have on their own disks becomes one checkpoint that stock PyTorch reads.
    """
    from hpctrain.checkpoint.copying import copy_checkpoint, plan_copy
    from hpctrain.recipe.units import format_bytes

    if parts:
        join(run, parts, step, dest, dry_run=dry_run, output=output)
        return
    place, target = find_place(run), open_target(dest)
    item = place.choose_complete(step)
    plan = plan_copy(place.tier, item.name, target)
    written = 0
    if not dry_run:
        with ByteProgress(f"copy {item.name}", 2 * item.size_bytes) as progress:
            written = copy_checkpoint(place.tier, plan, target, progress.add)
    folder = target.at(item.name)
    if output == "json":
        print_json("copy", {"dry_run": dry_run, "name": str(item.name), "path": folder, "present": plan.present,
                            "size_bytes": item.size_bytes, "written_bytes": written})
    elif plan.present:
        click.echo(f"{folder} is there already" + ("" if dry_run else ", and every byte of it is right"))
    else:
        click.echo(f"{'would copy' if dry_run else 'copied'} {item.name} to {folder}  {format_bytes(item.size_bytes)}")


@click.command("export", short_help="Write the model so that transformers loads it.", epilog=examples(
    "hpctrain checkpoints export latest latest my-model", "hpctrain checkpoints export 4711 40 my-model --dtype bfloat16",
))
@run_argument
@click.argument("step", metavar="STEP")
@click.argument("dest", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default=None,
    help="Of floating-point weights.  [default: as they are stored]",
)
@click.option("--max-shard-size", metavar="SIZE", default="5GB", show_default=True, help="Of one file, such as 500MB.")
@click.option(
    "--config", "config_dir", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False), default=None,
    help="Directory with config.json and tokenizer files.  [default: from the run's recipe]",
)
@click.option("--weights-only", is_flag=True, help="Only safetensors files, for a model that transformers does not know.")
@dry_run_option("written")
@output_option
def export(
    run: str, step: str, dest: Path, *, dtype: str | None, max_shard_size: str, config_dir: Path | None, weights_only: bool,
    dry_run: bool, output: str,
) -> None:
    """Write a checkpoint's model to the new directory DEST as safetensors, so that transformers loads it.

    AutoModelForCausalLM.from_pretrained(DEST) reads it. Of a run with an adapter it is the adapter, as peft reads it.
    DEST must not exist; it appears whole or not at all.
    """
    from hpctrain.checkpoint.weight_files import model_shapes, plan_files
    from hpctrain.errors import CheckpointError, StorageError
    from hpctrain.recipe.units import format_bytes, several

    place, target, limit = find_place(run), dest.expanduser().absolute(), _size(max_shard_size)
    item = place.choose_complete(step)
    if target.exists():
        raise StorageError("it is there already, and is not overwritten", where=str(dest), hint="choose another name")
    manifest = place.tier.open(item.name)[1]
    files = plan_files(model_shapes(manifest.table()), dtype=dtype, max_file_bytes=limit)
    if not files:
        raise CheckpointError(f"{item.name} has no model: nothing was registered as model=", where=place.where)
    if not dry_run:
        from hpctrain.train.checkpoint_export import bare
        from hpctrain.train.checkpoint_export import export as write

        dress = bare() if weights_only else _dress(place, config_dir, item)
        with ByteProgress(f"export {item.name}", sum(file.size_bytes for file in files)) as progress:
            reader = place.tier.reader(item.name)
            try:
                files = write(reader, place.tier.at(item.name), manifest, target, dress, dtype=dtype, max_file_bytes=limit,
                              on_bytes=progress.add)
            finally:
                reader.close()
    if output == "json":
        print_json("export", {"dry_run": dry_run, "name": str(item.name), "path": str(target),
                              "files": {file.name: file.size_bytes for file in files}})
    else:
        total = format_bytes(sum(file.size_bytes for file in files))
        click.echo(f"{'would write' if dry_run else 'wrote'} {target}  {several(len(files), 'file')}, {total}")


def _dress(place: Place, config_dir: Path | None, item: Listed) -> Dress:
    from hpctrain.errors import UsageError
    from hpctrain.recipe.schema import Recipe
    from hpctrain.train.checkpoint_export import dress_from_folder, dress_from_recipe, with_card

    if config_dir is not None:
        dress = dress_from_folder(config_dir)
    else:
        values: dict[str, Any] = {}
        if place.run is not None:
            values = dict(json.loads(place.run.dir.resolved_json.read_bytes()))
        if not values.get("method"):
            raise UsageError(
                "no recipe says what model this is", where=place.where,
                hint="name a directory with its config.json: --config DIR; or write weights alone: --weights-only",
            )
        dress = dress_from_recipe(Recipe.model_validate(values))
    if place.run is None:
        return dress
    return with_card(dress, place.run.dir, {"step": item.name.step, "name": str(item.name)})


def _size(text: str) -> int:
    from hpctrain.errors import UsageError
    from hpctrain.recipe.units import parse_memory

    try:
        return parse_memory(text)
    except ValueError as error:
        raise UsageError(f"--max-shard-size: {error}") from None
