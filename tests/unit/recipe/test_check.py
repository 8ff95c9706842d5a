"""Combinations that cannot work, and what the cluster lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpctrain.ids import NodeName
from hpctrain.recipe.check import check, notes_on
from hpctrain.recipe.check_checkpoint import peer_wanted
from hpctrain.recipe.facts import ClusterFacts, NodeGroup, PartitionFacts
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.schema import Recipe
from hpctrain.slurm.model import Node, Partition

Make = Callable[..., Recipe]
COMMAND: dict[str, Any] = {"method": None, "model": None, "data": None, "command": ["x.py"]}


def problems(recipe: Recipe, facts: ClusterFacts | None = None) -> list[tuple[str, str]]:
    config = recipe.model.config if recipe.model else None
    return [(dotted(problem.path), problem.message) for problem in check(recipe, config, facts)]


def test_a_good_recipe_has_no_problems(make: Make) -> None:
    """The recipe the others are made from passes, as a method and as a command."""
    assert problems(make()) == []
    assert problems(make(**COMMAND)) == []


@pytest.mark.parametrize(("changes", "key", "message"), [
    ({"command": ["x"]}, "command", "not both"),
    ({"method": None, "model": None, "data": None}, "", "either 'method' or 'command'"),
    ({"model": None}, "model", "needs a 'model'"),
    ({"data": None}, "data", "needs a 'data'"),
    ({**COMMAND, "data": {"source": "python-docs"}}, "data", "no effect with 'command'"),
    ({**COMMAND, "command": ["torchrun", "x.py"]}, "command[0]", "leave out 'torchrun'"),
    ({"model__path": "x"}, "model", "exactly one of"),
    ({"model": {}}, "model", "exactly one of"),
    ({"model__config": {"vocab_size": 300}}, "model.config", "model_type"),
    ({"method": "cpt"}, "method", "model.path"),
    ({"model__attention": "flash_attention_2"}, "model.attention", "needs GPUs"),
    ({"data__source": "files"}, "data", "needs data.paths"),
    ({"data__source": "huggingface"}, "data", "needs data.name"),
    ({"data__paths": ["x"]}, "data.paths", "belongs to source 'files'"),
    ({"data__sequence_length": 512}, "data.sequence_length", "256 positions"),
    ({"tokenizer": {"kind": "pretrained"}}, "tokenizer", "needs tokenizer.path"),
    ({"tokenizer": {"path": "x"}}, "tokenizer.path", "no path"),
    ({"model__config__vocab_size": 257}, "model.config.vocab_size", "= 258"),
    ({"training__steps": None}, "training", "got none"),
    ({"training__tokens": 5}, "training.tokens", "got steps and tokens"),
    ({"training__schedule": {"warmup_steps": 11}}, "training.schedule.warmup_steps", "more than the 10 steps"),
    ({"training__evaluate_every_steps": 5}, "training.evaluate_every_steps", "validation_fraction"),
    ({"checkpoint": {"every": 60, "every_steps": 5}}, "checkpoint.every", "at most one"),
    ({"checkpoint": {"local": {"path": "/d", "every": 60, "every_steps": 5}}}, "checkpoint.local.every", "at most one"),
    ({"checkpoint": {"local": {"path": "scratch"}}}, "checkpoint.local.path", "not an absolute path"),
    ({"checkpoint": {"local": {"path": "/a/../b"}}}, "checkpoint.local.path", "not a plain path"),
    ({"checkpoint": {"local": {"every": 60}}}, "checkpoint.local", "without checkpoint.local.path"),
    ({"checkpoint": {"object": {"every": 60}}}, "checkpoint.object", "without checkpoint.object.url"),
    ({"checkpoint": {"object": {"url": "bucket/prefix"}}}, "checkpoint.object.url", "is not a URL"),
    ({"checkpoint": {"object": {"url": "s3://key:hidden@bucket/p"}}}, "checkpoint.object.url", "carries credentials"),
    ({"checkpoint": {"object": {"url": "s3://b/p?access_key=hidden"}}}, "checkpoint.object.url", "carries credentials"),
    ({"checkpoint": {"ram": {"enabled": False}, "peer": True}, "resources": {"nodes": 2}}, "checkpoint.peer", "ram tier"),
    ({"checkpoint": {"ram": {"enabled": False, "history": 1}}}, "checkpoint.ram.history", "ram tier"),
    ({"checkpoint": {"ram": {"enabled": False}, "local": {"path": "/d"}}}, "checkpoint.local.path", "ram tier"),
    ({"checkpoint": {"peer": True}}, "checkpoint.peer", "another node"),
    ({"checkpoint": {"flush_limit": 7200}}, "checkpoint.flush_limit", "at most 1 h 00 min"),
    ({"checkpoint": {"keep_best": {"count": 3}}}, "checkpoint.keep_best", "without checkpoint.keep_best.metric"),
    ({"training__parallelism": {"shard_size": 2}}, "training.parallelism.shard_size", "belongs to kind 'hsdp'"),
    ({"training__parallelism": {"kind": "hsdp"}}, "training.parallelism.kind", "has one rank"),
    ({"training__parallelism": {"kind": "hsdp", "shard_size": 3}, "resources": {"nodes": 4}},
     "training.parallelism.shard_size", "4 = 1 x 3 + 1); sizes that do: 2, 4"),
    ({"resources": {"gpu_type": "h100"}}, "resources.gpu_type", "gpus_per_node is 0"),
    ({"resources": {"gpus_per_node": 2, "ranks_per_node": 4}}, "resources.ranks_per_node", "serves one rank"),
    ({"resources": {"cpus_per_node": 1, "ranks_per_node": 2}}, "resources.cpus_per_node", "at least one"),
    ({"resources": {"time_limit": 120}}, "resilience.stop_before_limit", "leaves nothing"),
    ({"resilience": {"stop_before_limit": 70_000}}, "resilience.stop_before_limit", "65535"),
    ({"resources": {"container_mounts": ["/a"]}}, "resources.container_mounts", "without resources.container"),
    ({"resources": {"container": "x.sif", "container_runtime": "pyxis"}}, "resources.container_runtime", "apptainer"),
    ({"resources": {"container": "x", "container_mounts": ["a:b"]}}, "resources.container_mounts[0]", "/host/path"),
    ({"resources": {"container": "x", "container_mounts": ["/a,/b"]}}, "resources.container_mounts[0]", "commas"),
    ({"resources": {"container": "--evil"}}, "resources.container", "not the name of an image"),
    ({"env": {"RANK": "1"}}, "env.RANK", "may not change"),
    ({"env": {"MASTER_PORT": "1"}}, "env.MASTER_PORT", "may not change"),
    ({"env": {"SLURM_CONF": "1"}}, "env.SLURM_CONF", "may not change"),
    ({"env": {"HPCTRAIN_RUN_DIR": "1"}}, "env.HPCTRAIN_RUN_DIR", "may not change"),
    ({"env": {"BIG": "x" * 200_000}}, "env.BIG", "131072"),
])
def test_what_cannot_work_is_refused(make: Make, changes: dict[str, Any], key: str, message: str) -> None:
    """Each impossible combination is exactly one problem, at the key that is to be changed."""
    found = problems(make(**changes))

    assert [place for place, _ in found] == [key]
    assert message in found[0][1]


def test_batch_that_does_not_divide_shows_the_arithmetic(make: Make) -> None:
    """The message holds the numbers of the division and the nearest batches that work."""
    recipe = make(training__global_batch_size=30, training__micro_batch_size=2, resources={"nodes": 2, "ranks_per_node": 4})

    (key, message), = problems(recipe)

    assert key == "training.global_batch_size"
    assert "2 x 8 ranks (2 nodes x 4) = 16 samples per pass, and 30 = 1 x 16 + 14; nearest that work: 16 or 32" in message


def test_allowed_env_is_left_alone(make: Make) -> None:
    """OMP_NUM_THREADS is the user's to set, as under torchrun, and a newline in a value is a value."""
    assert problems(make(env={"OMP_NUM_THREADS": "2", "TEXT": "a\nb"})) == []


def test_notes_warn_without_refusing(make: Make) -> None:
    """Secrets and preloaded libraries are allowed, and said."""
    notes = " ".join(notes_on(make(env={"WANDB_API_KEY": "x", "LD_PRELOAD": "y"})))

    assert "WANDB_API_KEY" in notes and "LD_PRELOAD" in notes
    assert notes_on(make()) == []


GPU_NODES = NodeGroup(4, cpus=64, memory_bytes=2**39, gpus=8, gpu_type="h100")
CPU_NODES = NodeGroup(10, cpus=32, memory_bytes=2**37)
FACTS = ClusterFacts((
    PartitionFacts("gpu", (GPU_NODES, CPU_NODES), is_default=True, max_time_s=86400),
    PartitionFacts("debug", (CPU_NODES,), max_time_s=60, default_time_s=60),
))


@pytest.mark.parametrize(("wanted", "key", "message"), [
    ({"partition": "gpuu"}, "resources.partition", "did you mean 'gpu'?"),
    ({"partition": "zzz"}, "resources.partition", "there are: debug, gpu"),
    ({"time_limit": 90000}, "resources.time_limit", "more than partition 'gpu' allows, 1 d 0 h"),
    ({"partition": "debug"}, "resilience.stop_before_limit", "default time, 1 min 00 s"),
    ({"nodes": 15}, "resources.nodes", "15 nodes asked for, and partition 'gpu' has 14"),
    ({"nodes": 8, "spares": 7}, "resources.nodes", "8 nodes + 7 spares asked for"),
    ({"gpus_per_node": 16}, "resources.gpus_per_node", "no such node; its nodes have at most 8 GPUs"),
    ({"gpus_per_node": 8, "nodes": 5}, "resources.gpus_per_node", "has 4 such nodes of 14"),
    ({"gpus_per_node": 8, "gpu_type": "a100"}, "resources.gpu_type", "its types are: h100"),
    ({"cpus_per_node": 65}, "resources.cpus_per_node", "at most 64 CPUs"),
    ({"memory_per_node": 2**40}, "resources.memory_per_node", "at most 512.0 GiB"),
])
def test_what_the_cluster_lacks_is_refused(make: Make, wanted: dict[str, Any], key: str, message: str) -> None:
    """A job that could never start is refused with what there is."""
    nodes = wanted.get("nodes", 1) * wanted.get("gpus_per_node", 1)
    found = problems(make(resources=wanted, training__global_batch_size=nodes), FACTS)

    assert [place for place, _ in found] == [key]
    assert message in found[0][1]


def test_what_the_cluster_has_is_accepted(make: Make) -> None:
    """The largest job that fits is no problem, and an unknown default partition is none either."""
    wanted = {"nodes": 4, "gpus_per_node": 8, "gpu_type": "H100", "time_limit": 86400}
    recipe = make(resources=wanted, training__global_batch_size=32)

    assert problems(recipe, FACTS) == []
    assert problems(recipe, ClusterFacts()) == []


def test_facts_are_built_from_slurms_listing(make: Make) -> None:
    """Nodes that are alike are counted together, per partition; simulated GPUs are known as such."""
    nodes = [Node(NodeName(f"n{i}"), "IDLE", cpus=2, memory_mib=1024, gpus=8, gpu_type="sim") for i in range(3)]
    nodes.append(Node(NodeName("cpu"), "DOWN", cpus=4))
    everybody = tuple(node.name for node in nodes)
    parts = [Partition("a", is_default=True, nodes=everybody), Partition("b", nodes=(NodeName("gone"),))]

    facts = ClusterFacts.build(nodes, parts, "c")

    part = facts.partition(None)
    assert part is not None and part.name == "a" and part.node_count == 4 and part.max_gpus_per_node == 8
    assert part.groups[0] == NodeGroup(3, 2, 2**30, 8, "sim")
    assert facts.simulated_gpus() and not facts.simulated_gpus("b")
    assert any("simulated" in note for note in notes_on(make(resources={"gpus_per_node": 2}), facts))


def test_credentials_of_a_url_are_not_repeated(make: Make) -> None:
    """The message about a URL with a password does not itself carry it on, into terminals and logs."""
    for url in ("s3://key:hidden@b/p", "s3://b/p?token=hidden", "key:hidden@bucket"):
        assert not any("hidden" in message for _, message in problems(make(checkpoint={"object": {"url": url}})))


def test_peer_copies_need_two_nodes(make: Make) -> None:
    """``auto`` uses peers from two nodes on, and never without the ram tier."""
    assert not peer_wanted(make())
    assert peer_wanted(make(resources={"nodes": 2}))
    assert not peer_wanted(make(resources={"nodes": 2}, checkpoint={"ram": {"enabled": False}}))
    assert not peer_wanted(make(resources={"nodes": 2}, checkpoint={"peer": False}))


def test_values_that_older_versions_wrote_still_load(make: Make) -> None:
    """A resolved recipe from before the tiers says ``every: null``; it means what ``auto`` means now."""
    assert problems(make(checkpoint={"every_steps": 5, "every": None})) == []


SFT: dict[str, Any] = {
    "method": "sft", "model": {"path": "/m"}, "data": {"source": "arithmetic", "validation_fraction": 0.1}}


def test_rewards_beside_a_suite_that_measures_them_pass(make: Make) -> None:
    """Any method may have rewards for a suite of kind 'reward'; without one they are one problem, and so is a teacher."""
    rewards = [{"kind": "math"}]
    assert problems(make(**SFT, rewards=rewards, evaluate={"suites": [{"kind": "reward"}]})) == []
    for section, key in (({"rewards": rewards}, "rewards"), ({"teacher": {"path": "/t"}}, "teacher")):
        assert [place for place, _ in problems(make(**SFT, **section))] == [key]


def test_a_missing_judge_is_one_problem(make: Make) -> None:
    """However many ask it, its absence is told once, at the first that does."""
    suites = {"suites": [{"kind": "judge"}, {"kind": "judge", "name": "b"}]}
    assert problems(make(**SFT, evaluate=suites)) == [
        ("evaluate.suites[0]", "needs a 'judge' section with the url and the model's name")]
