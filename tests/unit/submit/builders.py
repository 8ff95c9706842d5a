"""Recipes, facts and sites for the tests of submission."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.recipe.facts import ClusterFacts, NodeGroup, PartitionFacts
from hpctrain.recipe.schema import Recipe
from hpctrain.submit.plan import Place, make_plan
from hpctrain.submit.plan_model import Plan

PLACE = Place("run-1", "/runs/run-1", "/venv/bin/python")
COMMAND: dict[str, Any] = {"version": 1, "name": "cmd", "command": ["train.py", "--lr", "0.1"], "workdir": "/work"}
PRETRAIN: dict[str, Any] = {
    "version": 1, "name": "llm", "method": "pretrain", "workdir": "/work",
    "model": {"config": {"model_type": "llama"}}, "data": {"source": "python-docs"}, "training": {"steps": 10},
}


def recipe(base: Mapping[str, Any] = COMMAND, **sections: Any) -> Recipe:
    """A recipe with some sections replaced."""
    return Recipe.model_validate({**base, **sections})


def plan(
    base: Mapping[str, Any] = COMMAND, facts: ClusterFacts | None = None, place: Place = PLACE, **sections: Any
) -> Plan:
    """Its plan."""
    return make_plan(recipe(base, **sections), facts, place)


def cluster(gpu_type: str = "h100", gpus: int = 8, cpus: int = 96) -> ClusterFacts:
    """Four alike nodes in one partition."""
    group = NodeGroup(4, cpus, 512 * 2**30, gpus, gpu_type)
    return ClusterFacts((PartitionFacts("main", (group,), is_default=True),), "testcluster")


def write_recipe(path: Path, text: str = "") -> Path:
    """A recipe file that runs a script which exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "train.py").write_text("print('hello')\n")
    path.write_text(text or "version: 1\nname: demo\ncommand: [train.py]\nresources: {nodes: 2, ranks_per_node: 2}\n")
    return path
