"""What is decided before Slurm is asked."""

from __future__ import annotations

import json

from hpctrain.submit.plan import Place
from hpctrain.submit.plan_model import Plan
from tests.unit.submit.builders import COMMAND, PRETRAIN, cluster, plan


def test_one_rank_per_gpu_on_real_gpus() -> None:
    """GPUs that are asked for mean one rank each, on cuda."""
    made = plan(resources={"nodes": 2, "gpus_per_node": 8}, facts=cluster())
    assert (made.ranks_per_node, made.world_size, made.device) == (8, 16, "cuda")


def test_simulated_gpus_are_allocated_but_compute_on_the_cpu() -> None:
    """On the private cluster Slurm still hands out GPUs, and the ranks are told cpu."""
    made = plan(resources={"gpus_per_node": 2}, facts=cluster("sim"))
    assert (made.device, made.slurm.gpus_per_node, made.ranks_per_node) == ("cpu", 2, 2)


def test_threads_divide_the_cpus_that_are_known() -> None:
    """OMP_NUM_THREADS is the share of a rank: of what is asked for, of the whole node, else 1; the recipe may differ."""
    def threads(**sections: object) -> str:
        return plan(facts=cluster(cpus=96), **sections).command.env["OMP_NUM_THREADS"]

    assert threads(resources={"cpus_per_node": 64, "ranks_per_node": 4}) == "16"
    assert threads(resources={"exclusive": True, "gpus_per_node": 8}) == "12"
    assert threads(resources={"ranks_per_node": 4}) == "1"
    assert threads(resources={"cpus_per_node": 2, "ranks_per_node": 4}) == "1"
    assert threads(resources={"cpus_per_node": 64}, env={"OMP_NUM_THREADS": "3"}) == "3"


def test_interface_is_told_to_every_backend() -> None:
    """A chosen interface, or loopback where all nodes are one host, reaches gloo and nccl."""
    assert plan(resources={"interface": "ib0"}).command.env["NCCL_SOCKET_IFNAME"] == "ib0"
    private = plan(place=Place("r", "/r", "/py", one_host=True))
    assert (private.interface, private.command.env["GLOO_SOCKET_IFNAME"]) == ("lo", "lo")
    assert "GLOO_SOCKET_IFNAME" not in plan().command.env


def test_scripts_and_programs() -> None:
    """A first word that ends in .py gets our Python, unbuffered; any other program is taken as it is."""
    assert plan().command.argv == ("/venv/bin/python", "-u", "train.py", "--lr", "0.1")
    assert plan(command=["bash", "x.py"]).command.argv == ("bash", "x.py")
    assert not plan().command.is_trainer


def test_our_trainer_is_started_by_module() -> None:
    """A method runs hpctrain.train in the recipe's directory, where no stray file can pose as a module."""
    made = plan(PRETRAIN)
    assert made.command.argv == ("/venv/bin/python", "-u", "-m", "hpctrain.train", "--run-dir", "/runs/run-1")
    assert (made.command.workdir, made.command.is_trainer, made.total_steps) == ("/work", True, 10)
    assert made.command.env["PYTHONSAFEPATH"] == "1"


def test_images_bring_their_own_python() -> None:
    """In a container our interpreter's path means nothing; a .sif file is apptainer's, anything else pyxis'."""
    sif = plan(PRETRAIN, resources={"container": "/img/torch.sif"})
    assert (sif.command.argv[0], sif.container and sif.container.runtime) == ("python3", "apptainer")
    pyxis = plan(resources={"container": "nvcr.io#nvidia/pytorch", "container_mounts": ["/data"]})
    assert pyxis.container is not None
    assert (pyxis.container.runtime, pyxis.container.mounts) == ("pyxis", ("/data",))


def test_slurm_is_asked_for_spares_too() -> None:
    """Training nodes and spares are one allocation; with 'exclusive' the memory of the whole node."""
    request = plan(resources={"nodes": 3, "spares": 1, "exclusive": True}).slurm
    assert (request.nodes, request.memory_per_node_mib, request.comment) == (4, 0, "hpctrain:run-1")
    assert plan(resources={"memory_per_node": "1GB"}).slurm.memory_per_node_mib == 954


def test_gpu_ranks_without_cpus_are_pointed_out() -> None:
    """Eight GPU ranks on Slurm's default number of CPUs work badly, and the plan says what to write."""
    notes = plan(resources={"gpus_per_node": 8}, facts=cluster()).notes
    assert any("resources.cpus_per_node" in note for note in notes)
    assert not plan(resources={"gpus_per_node": 8, "cpus_per_node": 64}, facts=cluster()).notes


def test_plan_survives_json() -> None:
    """What submit writes the agents read back unchanged."""
    made = plan(COMMAND, resources={"container": "a.sif", "container_mounts": ["/a:/b"], "nodes": 2}, env={"A": "ü\n'\""})
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_tiers_are_decided_in_the_plan() -> None:
    """Agents keep memory unless the recipe switches it off, find peers from two nodes on, and read plans without tiers."""
    alone, two, off = plan(), plan(resources={"nodes": 2}), plan(checkpoint={"ram": {"enabled": False}})
    old = {key: value for key, value in alone.to_json().items() if key != "checkpoint"}

    assert [(True, False), (True, True), (False, False)] == [
        (made.checkpoint.ram, made.checkpoint.peer) for made in (alone, two, off)]
    assert two == Plan.from_json(json.loads(json.dumps(two.to_json())))
    assert (False, {}) == (Plan.from_json(old).checkpoint.ram, Plan.from_json(old).checkpoint.values)
