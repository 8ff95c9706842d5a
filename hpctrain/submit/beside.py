"""The server of answers that a run has beside it: a run of its own, submitted with it and ended with it (service).

The server's job comes first, and the training's waits in the queue until that one has begun: the larger group of nodes is
never held by ranks that wait. Each is a run as any other, so a server that dies is started again, elsewhere if need be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
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
    server = _submit_server(prepared, settings, site)
    try:
        waiting = replace(prepared, after=server.job_id)
        submitted = single.submit(waiting, settings, site, argument=argument, sets=sets, files=files)
        write_json_atomic(server.run_dir.serves, {"run_dir": str(submitted.run_dir.path)}, durable=False)
    except BaseException:
        with single.undisturbed():
            single.undo(server.run_dir, site, server.job_id)
        raise
    gpus = several(prepared.resolved.recipe.generation.server_gpus or 1, "GPU")
    note = (f"answers are written by run {server.run_name} (job {server.job_id}) on {gpus} of a node of its own; this run "
            "begins after it, and it ends with this run")
    told = submitted.prepared.resolved
    return replace(submitted, prepared=replace(
        submitted.prepared, resolved=replace(told, notes=(*told.notes, note))))


def _submit_server(prepared: Prepared, settings: Settings, site: Site) -> Submitted:
    with tempfile.TemporaryDirectory(prefix="hpctrain-job-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(server_recipe(prepared.resolved.recipe, site.python), encoding="utf-8")
        try:
            found = single.prepare(str(path), (), settings, site)
        except RecipeError as error:
            raise RecipeError(f"the server that 'server_gpus' starts cannot run here: {error.message}",
                              where=_where(prepared), hint=error.advice) from None
        return single.submit(found, settings, site, argument=f"the server beside {prepared.resolved.recipe.name}")


def _where(prepared: Prepared) -> str:
    return prepared.resolved.origins.get("generation.server_gpus", str(prepared.resolved.source))


def server_recipe(recipe: Recipe, python: str) -> str:
    """The server's run as a recipe.

    Args:
        recipe: of the run that it answers, resolved.
        python: the interpreter on the nodes.
    """
    generation, model, data = recipe.generation, recipe.model, recipe.data
    program = python if recipe.resources.container is None else "python3"
    server = list(generation.server_command or (program, *_TRL))
    server += ["--model", str(model.path if model is not None else "")]
    server += ["--tensor-parallel-size", str(generation.server_gpus)]
    if data is not None:
        server += ["--max-model-len", str(data.sequence_length)]
    if model is not None and model.trust_remote_code:
        server += ["--trust-remote-code", "true"]
    resources: dict[str, Any] = {
        **with_gpus(recipe.resources), "gpus_per_node": generation.server_gpus, "ranks_per_node": 1,
        "interface": recipe.resources.interface,
    }
    return command_recipe(
        f"{recipe.name}-answers", [program, "-m", PROGRAM, *server], resources, env=recipe.env,
        description=f"the server that writes answers for {recipe.name}", workdir=recipe.workdir or "")
