"""``hpctrain evaluate --submit``: the same command as a Slurm job (entry point)."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.errors import UsageError

if TYPE_CHECKING:
    from hpctrain.cli.evaluate_ask import Asked

_INHERITED = ("gpu_type", "gpu_memory", "partition", "account", "qos", "reservation", "constraint", "container",
              "container_runtime", "container_mounts", "time_limit")
"""What the job takes from the run's own resources; one node and one GPU, unless --set says more."""
_PASSED = {"limit": "--limit", "max_new_tokens": "--max-new-tokens", "sequence_length": "--sequence-length",
           "batch_size": "--batch-size", "device": "--device", "precision": "--precision", "judge": "--judge",
           "judge_model": "--judge-model", "judge_key_env": "--judge-key-env", "rubric": "--rubric"}
_FLAGS = {"no_compare": "--no-compare", "spread": "--spread", "trust_remote_code": "--trust-remote-code"}


def submit(asked: Asked, sets: Sequence[str], *, dry_run: bool, output: str) -> int:
    """Make a recipe whose command is this evaluation, and submit it.

    Raises:
        HpctrainError: see :mod:`hpctrain.submit.run`.
    """
    from hpctrain.cli.submit import print_dry_run, print_submitted, site_of
    from hpctrain.settings_file import load_settings
    from hpctrain.submit import run as service

    if asked.options["page"]:
        raise UsageError("--html is for results that are here; the job leaves evaluation.html in its run directory")
    settings = load_settings()
    site = site_of(settings, dry_run=dry_run)
    with tempfile.TemporaryDirectory(prefix="hpctrain-evaluate-") as folder:
        path = Path(folder) / "evaluate.yaml"
        path.write_text(recipe_text(asked), encoding="utf-8")
        prepared = service.prepare(str(path), sets, settings, site)
        if dry_run:
            return print_dry_run(prepared, output)
        submitted = service.submit(prepared, settings, site, argument=f"evaluate {asked.name}", sets=sets)
    print_submitted(submitted, output, following=False)
    return 0


def recipe_text(asked: Asked) -> str:
    """The job as a recipe; every value is quoted as JSON, which YAML reads as it is meant."""
    lines = ["# Written by 'hpctrain evaluate --submit'.", "version: 1", f"name: {_name(asked.name)}",
             f"description: {json.dumps(f'evaluation of {asked.name}')}", f"command: {json.dumps(command(asked))}",
             f"workdir: {json.dumps(str(Path.cwd()))}", "resources:",
             *(f"  {key}: {json.dumps(value)}" for key, value in _resources(asked).items())]
    return "\n".join(lines) + "\n"


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


def _resources(asked: Asked) -> dict[str, Any]:
    own = asked.recipe.resources.model_dump(mode="json") if asked.recipe is not None else {}
    found = {key: own[key] for key in _INHERITED if own.get(key)}
    found["nodes"] = 1
    if own.get("gpus_per_node"):
        found["gpus_per_node"] = 1
    else:
        found = {key: value for key, value in found.items() if key not in ("gpu_type", "gpu_memory")}
    if "container" not in found:
        found = {key: value for key, value in found.items() if not key.startswith("container")}
    return found


def _name(name: str) -> str:
    """A run's name: letters, digits, dots and dashes."""
    return "evaluate-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:40] or "model")
