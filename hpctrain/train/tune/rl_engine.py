"""Who writes the answers: transformers on the training ranks, or vLLM beside them or elsewhere (adapter over its server)."""

from __future__ import annotations

import importlib.util
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hpctrain.errors import EndpointError, MissingDependencyError, RecipeError, UnreachableError
from hpctrain.files import read_json_object
from hpctrain.jobs.event import RUN_ENDS
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.state import events_of_last_start
from hpctrain.network import HeldPort
from hpctrain.train.tune.context import TuneContext

SERVER_WAIT_S, SERVER_BESIDE_WAIT_S = 300.0, 1800.0
"""How long a server of answers may take to load its model before the run stops; and one that was started beside the run,
which its own recovery may move to another node meanwhile."""
_TRY_EVERY_S, _ONE_TRY_S = 2.0, 10.0


def uses_vllm(context: TuneContext) -> bool:
    """Whether vLLM writes the answers; the same on all ranks of an environment.

    Raises:
        MissingDependencyError: the recipe wants it, and it is not installed or there is no GPU.
        RecipeError: the recipe wants it together with sharded weights, which trl cannot hand to it.
    """
    generation = context.recipe.generation
    installed, gpu = importlib.util.find_spec("vllm") is not None, context.place.device.type == "cuda"
    wanted = generation.engine == "vllm" or generation.placement == "separate"
    if wanted and not gpu:
        raise MissingDependencyError("generation.engine 'vllm' needs GPUs, and this rank computes on the CPU",
                                     hint="set generation.engine to transformers")
    if wanted and not installed:
        raise MissingDependencyError("generation.engine 'vllm' needs the package 'vllm', which is not installed",
                                     hint="pip install 'trl[vllm]', or set generation.engine to transformers")
    if wanted and context.mesh is not None:
        raise RecipeError("vLLM takes its weights from ranks that each hold all of them, not from sharded ones",
                          where="training.parallelism.kind", hint="use ddp, or set generation.engine to transformers")
    return wanted or (generation.engine == "auto" and installed and gpu and context.mesh is None)


def generation_arguments(context: TuneContext) -> dict[str, Any]:
    """Keyword arguments of trl's configuration that say who writes the answers.

    Raises:
        MissingDependencyError, RecipeError: see :func:`uses_vllm`.
    """
    generation = context.recipe.generation
    if not uses_vllm(context):
        return {"use_vllm": False}
    if generation.placement == "separate":
        # Rank 0 listens for the weights' group: where the other ranks meet it, and on a port of this run's own.
        os.environ.setdefault("VLLM_HOST_IP", os.environ.get("MASTER_ADDR", ""))
        port = HeldPort()
        port.close()
        return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": context.answers_url,
                "vllm_server_timeout": SERVER_WAIT_S, "vllm_group_port": port.port}
    return {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": generation.gpu_memory_share,
            "vllm_max_model_length": context.data.sequence_length}


def wait_for_server(context: TuneContext) -> None:
    """Wait until the server of answers is there, on rank 0 for all; the context then has its address.

    Raises:
        MissingDependencyError, RecipeError: see :func:`uses_vllm`; before anything is waited for.
        UnreachableError: it does not answer in time.
    """
    if context.recipe.generation.placement == "separate":
        uses_vllm(context)
        context.answers_url = context.ranks.on_first(lambda: find_server(context))


def find_server(context: TuneContext) -> str:
    """The address of a server that answers.

    Raises:
        UnreachableError: none does in time.
        EndpointError: the server's own run has ended.
    """
    server = context.recipe.generation.server
    wait_s = SERVER_WAIT_S if server else SERVER_BESIDE_WAIT_S
    deadline, reason = time.monotonic() + wait_s, "it has not said where it is"
    while True:
        url = (server or _beside(context)).rstrip("/")
        context.heartbeat.beat("init", detail=f"waiting for the server of answers{f' at {url}' if url else ''}")
        try:
            if url:
                with urllib.request.urlopen(f"{url}/health", timeout=_ONE_TRY_S):  # noqa: S310 - http(s) by the recipe's check
                    return url
        except (OSError, urllib.error.URLError) as error:
            reason = str(getattr(error, "reason", error))
        if not server:
            _require_living(context)
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"no answer within {wait_s:g} s: {reason}", where=url or "the server of answers beside this run",
                hint="start 'trl vllm-serve' there first; docs/reinforcement.md shows how" if server else
                "'hpctrain list' has its run, whose name ends in -answers: its log says why")
        time.sleep(_TRY_EVERY_S)


def _beside(context: TuneContext) -> str:
    """Where the server's own run says that it is; "" before it has, and while the server is that of an earlier start."""
    told = read_json_object(context.run_dir.answers)
    return str(told.get("url", "")) if told.get("incarnation") == context.environment.incarnation else ""


def _require_living(context: TuneContext) -> None:
    """Do not hold nodes and wait for a server whose run has ended since it was last started.

    Raises:
        EndpointError: it has.
    """
    place = str(read_json_object(context.run_dir.server).get("run_dir", ""))
    if not place:
        return
    current = events_of_last_start(read_events(RunDir(Path(place))))
    if end := next((event for event in reversed(current) if event.kind in RUN_ENDS), None):
        raise EndpointError(
            f"the run of the server has ended: {end.reason or end.kind}", where=place,
            hint=f"its log says why; start it again, and then this run: sbatch {place}/sbatch.sh && "
                 f"sbatch {context.run_dir.path}/sbatch.sh")
