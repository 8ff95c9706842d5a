"""``hpctrain evaluate --submit``: the same command as a Slurm job (entry point)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.errors import UsageError

if TYPE_CHECKING:
    from hpctrain.cli.evaluate_ask import Asked

_PASSED = {"limit": "--limit", "max_new_tokens": "--max-new-tokens", "sequence_length": "--sequence-length",
           "batch_size": "--batch-size", "device": "--device", "precision": "--precision", "judge": "--judge",
           "judge_model": "--judge-model", "judge_key_env": "--judge-key-env", "rubric": "--rubric"}
_FLAGS = {"no_compare": "--no-compare", "spread": "--spread", "trust_remote_code": "--trust-remote-code"}


def submit(asked: Asked, sets: Sequence[str], *, dry_run: bool, output: str) -> int:
    """Make a recipe whose command is this evaluation, and submit it.

    Raises:
        HpctrainError: see :mod:`hpctrain.submit.run`.
    """
    from hpctrain.cli.as_job import submit_command

    if asked.options["page"]:
        raise UsageError("--html is for results that are here; the job leaves evaluation.html in its run directory")
    submit_command(recipe_text(asked), argument=f"evaluate {asked.name}", sets=sets, dry_run=dry_run, output=output)
    return 0


def recipe_text(asked: Asked) -> str:
    """The job as a recipe."""
    from hpctrain.submit.command_recipe import command_recipe, with_gpus

    resources: dict[str, Any] = {"nodes": 1}
    if asked.recipe is not None:
        own = asked.recipe.resources
        resources = with_gpus(own, own.gpus_per_node if asked.options["spread"] else 1)
    return command_recipe(_name(asked.name), command(asked), resources, description=f"evaluation of {asked.name}",
                          workdir=str(Path.cwd()))


def command(asked: Asked) -> list[str]:
    """The program and its arguments, every path absolute."""
    options = asked.options
    model = str(asked.run.dir.path) if asked.run is not None else asked.subjects[-1][1]
    words = [sys.executable, "-m", "hpctrain", "evaluate", model]
    for suite in asked.suites:
        words += ["--suite", suite_text(suite.model_dump(exclude_defaults=True))]
    if options["compare"]:
        words += ["--compare", asked.subjects[0][1]]
    for key, option in _PASSED.items():
        if options[key] is not None:
            words += [option, str(options[key])]
    words += [option for key, option in _FLAGS.items() if options[key]]
    if options["folder"] is not None:
        words += ["--to", str(options["folder"].expanduser().absolute())]
    return words


def suite_text(values: Mapping[str, Any]) -> str:
    """A suite as ``--suite`` reads it.

    Raises:
        UsageError: a path holds a comma, which parts it there.
    """
    parts = []
    for key, value in values.items():
        if key == "kind":
            continue
        for one in value if isinstance(value, list) else [value]:
            text = str(one).lower() if isinstance(one, bool) else str(one)
            if "," in text:
                raise UsageError(f"a comma in {text!r} cannot be passed to a job", hint="give the file a name without one")
            parts.append(f"{key}={text}")
    return str(values["kind"]) + (":" + ",".join(parts) if parts else "")


def _name(name: str) -> str:
    """A run's name: letters, digits, dots and dashes."""
    return "evaluate-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:40] or "model")
