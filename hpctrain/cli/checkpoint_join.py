"""``hpctrain checkpoints copy --parts``: one checkpoint of what several nodes have on their disks (entry point)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpctrain.cli.checkpoint_place import open_target
from hpctrain.cli.output import print_json
from hpctrain.cli.progress import ByteProgress

if TYPE_CHECKING:
    from hpctrain.checkpoint.names import CheckpointName


def join(first: str, others: Sequence[Path], step: str, dest: str, *, dry_run: bool, output: str) -> None:
    """Join the parts of a checkpoint at DEST.

    Args:
        first: directory of one node's local tier; ``others`` those of the other nodes.

    Raises:
        NotFoundError: it is no directory, or no checkpoint has all its parts there.
        CheckpointError: a part is damaged.
        StorageError: it cannot be written.
    """
    from hpctrain.checkpoint.join_parts import join_parts, joinable
    from hpctrain.errors import NotFoundError
    from hpctrain.recipe.units import format_bytes

    folders = [Path(first).expanduser().absolute(), *others]
    if not folders[0].is_dir():
        raise NotFoundError(f"{first} is no directory; with --parts, RUN is that of one node's local tier")
    name, target = _chosen(joinable(folders), step, folders), open_target(dest)
    size = sum(path.stat().st_size for folder in folders for path in folder.glob(f"{name}/**/*") if path.is_file())
    written = 0
    if not dry_run:
        with ByteProgress(f"join {name}", size) as progress:
            written = join_parts(folders, target, name, on_bytes=progress.add)
    if output == "json":
        print_json("copy", {"dry_run": dry_run, "name": str(name), "path": target.at(name), "present": False,
                            "size_bytes": written or size, "written_bytes": written})
    else:
        click.echo(f"{'would join' if dry_run else 'joined'} {name} of {len(folders)} directories to {target.at(name)}"
                   f"  {format_bytes(written or size)}")


def _chosen(whole: Sequence[CheckpointName], step: str, folders: Sequence[Path]) -> CheckpointName:
    from hpctrain.errors import NotFoundError

    found = [name for name in whole if step == "latest" or str(name) == step or str(name.step) == step]
    if found:
        return max(found)
    steps = ", ".join(str(name.step) for name in whole[-8:])
    raise NotFoundError(
        f"no checkpoint {step!r} of which every part is there", where=", ".join(map(str, folders)),
        hint=f"these steps are whole: {steps}" if steps else "name the directories of all nodes that the ranks ran on",
    )
