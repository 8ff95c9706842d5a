"""This command as a Slurm job: a run of one process whose command is one of ours (entry point)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType


def submit_command(
    recipe_text: str, *, argument: str, sets: Sequence[str] = (), files: Mapping[str, str] = MappingProxyType({}),
    dry_run: bool, output: str,
) -> None:
    """Submit a recipe that was written for this, or show what would be submitted; no file of it is left but the run's own.

    Args:
        recipe_text: from :func:`hpctrain.submit.command_recipe.command_recipe`.
        argument: what the user asked for, for the record.
        sets: ``--set`` arguments.
        files: name to text of what the command reads in its run directory.

    Raises:
        HpctrainError: see :mod:`hpctrain.submit.run`.
    """
    from hpctrain.cli.submit import print_dry_run, print_submitted, site_of
    from hpctrain.settings_file import load_settings
    from hpctrain.submit import run as service

    settings = load_settings()
    site = site_of(settings, dry_run=dry_run)
    with tempfile.TemporaryDirectory(prefix="hpctrain-job-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe_text, encoding="utf-8")
        prepared = service.prepare(str(path), sets, settings, site)
        if dry_run:
            print_dry_run(prepared, output)
            return
        submitted = service.submit(prepared, settings, site, argument=argument, sets=sets, files=files)
    print_submitted(submitted, output, following=False)
