"""The server of answers that a run has beside it: a run of its own, submitted with it and ended with it (service).

The server's job comes first, and the training's waits in the queue until that one has begun: the larger group of nodes is
never held by ranks that wait. Each is a run as any other, so a server that dies is started again, elsewhere if need be.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hpctrain.errors import RecipeError
from hpctrain.files import write_json_atomic
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.units import several
from hpctrain.settings import Settings
from hpctrain.submit import run as single
from hpctrain.submit.command_recipe import command_recipe, with_gpus
from hpctrain.submit.run import Prepared, Site, Submitted

PROGRAM = "hpctrain.jobs.serve_beside"
_TRL = ("-m", "trl.scripts.vllm_serve")


def wants_server(recipe: Recipe) -> bool:
    """A server is to be started beside this run."""
    return recipe.method is not None and bool(recipe.generation.server_gpus)


def nodes_beside(recipe: Recipe) -> int:
    """Nodes that are needed at the same time, besides the run's own."""
    return int(wants_server(recipe))


def submit(
    prepared: Prepared, settings: Settings, site: Site, *, argument: str, sets: Sequence[str] = (),
    files: Mapping[str, str] = MappingProxyType({}),
) -> Submitted:
    """Submit a run, and before it the server that its recipe wants beside it.

    Raises:
        HpctrainError: as :func:`hpctrain.submit.run.submit`; neither of the two is left.
    """
    if not wants_server(prepared.resolved.recipe):
        return single.submit(prepared, settings, site, argument=argument, sets=sets, files=files)
    with _server_prepared(prepared, settings, site) as found:
        server = single.submit(found, settings, site, argument=f"the server beside {prepared.resolved.recipe.name}")
    submitted: Submitted | None = None
    try:
        place = str(server.run_dir.server.relative_to(server.run_dir.path))
        link = {place: json.dumps({"run_dir": str(server.run_dir.path)})}
        submitted = single.submit(prepared, settings, site, argument=argument, sets=sets, files={**files, **link},
                                  after=server.job_id)
        write_json_atomic(server.run_dir.serves, {"run_dir": str(submitted.run_dir.path)}, durable=False)
    except BaseException as error:
        with single.undisturbed():
            both = [one for one in (submitted, server) if one is not None]
            for one in both:
                single.add_advice(error, single.undo(one.run_dir, site, one.job_id))
        raise
    note = (f"answers are written by run {server.run_name} (job {server.job_id}), {_where_to(prepared)}; this run begins "
            "after it, and it ends with this run")
    return replace(submitted, prepared=single.with_notes(submitted.prepared, note))


def would_submit(prepared: Prepared, settings: Settings, site: Site) -> Prepared:
    """The same with a sentence about the server that :func:`submit` would start first, where there is one.

    Raises:
        RecipeError: no node here can hold it.
    """
    if not wants_server(prepared.resolved.recipe):
        return prepared
    with _server_prepared(prepared, settings, site) as found:
        return single.with_notes(prepared, (
            f"answers would be written by run {found.plan.run_name}, {_where_to(prepared)}, submitted first; this job would "
            "begin after that one (--dependency=after)"))


def _where_to(prepared: Prepared) -> str:
    return f"on {several(prepared.resolved.recipe.generation.server_gpus or 1, 'GPU')} of a node of its own"


@contextlib.contextmanager
def _server_prepared(prepared: Prepared, settings: Settings, site: Site) -> Iterator[Prepared]:
    """The server's run, while the file of its recipe is there."""
    recipe = prepared.resolved.recipe
    with tempfile.TemporaryDirectory(prefix="hpctrain-job-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(server_recipe(recipe, site.python), encoding="utf-8")
        try:
            found = single.prepare(str(path), (), settings, site)
        except RecipeError as error:
            where = prepared.resolved.origins.get("generation.server_gpus", str(prepared.resolved.source))
            raise RecipeError(f"the server that 'server_gpus' starts cannot run here: {error.message}", where=where,
                              hint=error.advice) from None
        yield found


def server_recipe(recipe: Recipe, python: str) -> str:
    """The server's run as a recipe.

    Args:
        recipe: of the run that it answers, resolved.
        python: the interpreter on the nodes.
    """
    generation, model, data = recipe.generation, recipe.model, recipe.data
    server = list(generation.server_command or (python, *_TRL))
    server += ["--model", str(model.path if model is not None else "")]
    server += ["--tensor-parallel-size", str(generation.server_gpus)]
    if data is not None:
        server += ["--max-model-len", str(data.sequence_length)]
    if model is not None and model.trust_remote_code:
        server += ["--trust-remote-code", "true"]
    # A file beside the recipe, such as random.py, must not become a module of the server's.
    env = {"PYTHONSAFEPATH": "1", **recipe.env}
    # It is asked and then waits, for as long as the training does something else: that is no hang.
    sections = {"detection": {"hang": {"action": "off"}}}
    return command_recipe(
        f"{recipe.name}-answers", [python, "-m", PROGRAM, *server], _resources(recipe), env=env, sections=sections,
        description=f"the server that writes answers for {recipe.name}", workdir=recipe.workdir or "")


def _resources(recipe: Recipe) -> dict[str, Any]:
    """Of one node the GPUs that are asked for, with as many CPUs and as much memory as the training has for so many."""
    own, gpus = recipe.resources, recipe.generation.server_gpus or 1
    share = min(1.0, gpus / own.gpus_per_node) if own.gpus_per_node else 1.0
    return {
        **with_gpus(own, gpus), "ranks_per_node": 1, "interface": own.interface,
        "cpus_per_node": math.ceil(own.cpus_per_node * share) if own.cpus_per_node else None,
        "memory_per_node": math.ceil(own.memory_per_node * share) if own.memory_per_node else None,
        "exclusive": own.exclusive or None,
    }
