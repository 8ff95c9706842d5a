"""What a rank finds in its environment, and how it is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpctrain.agent.rank_environment import LocalFiles, Rendezvous, rank_argv, rank_environment
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.ids import Incarnation, NodeName, Rank
from hpctrain.submit.plan_model import CheckpointPlan, Container, Plan, RankCommand, SlurmRequest
from hpctrain.train.environment import TORCHRUN_NAMES, RankEnvironment

RANKS = RankPlan(Incarnation(2), (NodeName("n1"), NodeName("n2")), (), 2)
FILES = LocalFiles("/tmp/l/heartbeat-3.json", "/tmp/l/stop", "/tmp/l/error-3.json")


def make_plan(container: Container | None = None, device: str = "cpu", **env: str) -> Plan:
    return Plan(
        run_name="r", run_dir="/runs/r", python="/py", nodes=2, spares=0, ranks_per_node=2, device=device,
        command=RankCommand(("python3", "-u", "t.py", "a b"), "/work dir", env), container=container,
        slurm=SlurmRequest("r", 2, "/runs/r/logs/job.out"),
    )


def environment(plan: Plan, interface: str = "", **base: str) -> dict[str, str]:
    rendezvous = Rendezvous("10.0.0.1", 4711, NodeName("n1"), interface)
    return rank_environment(
        plan, RANKS, node=NodeName("n2"), rank=Rank(3), rendezvous=rendezvous, files=FILES, base=base
    )


def test_torchruns_names_are_all_there() -> None:
    """Every name that torchrun sets is set, with torchrun's meaning, so that its scripts run unchanged."""
    env = environment(make_plan())
    assert set(TORCHRUN_NAMES) <= set(env)
    expected = {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2", "ROLE_RANK": "3", "ROLE_WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "4711", "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_ERROR_FILE": FILES.error,
    }
    assert expected.items() <= env.items()


def test_our_names_are_understood_by_the_trainer() -> None:
    """The trainer reads back the place, incarnation and files that the agent gave it."""
    read = RankEnvironment.read(environment(make_plan()))
    assert (read.rank, read.local_rank, read.world_size, read.incarnation) == (3, 1, 4, 2)
    assert (read.run_dir, read.heartbeat_file, read.stop_file) == ("/runs/r", FILES.heartbeat, FILES.stop)
    assert (read.node, read.device) == ("n2", "cpu")


def test_recipe_wins_over_the_job_and_torchrun_over_the_recipe() -> None:
    """A variable of the recipe replaces the job's own; a rank number can be changed by nobody."""
    env = environment(make_plan(OMP_NUM_THREADS="7", RANK="99"), OMP_NUM_THREADS="1", HOME="/h", PYTHONUNBUFFERED="x")
    assert (env["OMP_NUM_THREADS"], env["HOME"], env["RANK"], env["PYTHONUNBUFFERED"]) == ("7", "/h", "3", "x")


def test_known_interface_is_told_to_gloo_unless_the_user_did() -> None:
    """The interface of the rendezvous becomes gloo's, but never replaces the user's choice."""
    assert environment(make_plan(), "ib0")["GLOO_SOCKET_IFNAME"] == "ib0"
    assert environment(make_plan(GLOO_SOCKET_IFNAME="eth1"), "ib0")["GLOO_SOCKET_IFNAME"] == "eth1"
    assert "GLOO_SOCKET_IFNAME" not in environment(make_plan())


def test_apptainer_wraps_the_rank() -> None:
    """The rank's own words come last and unchanged, after the mounts of run directory, package and recipe."""
    plan = make_plan(Container("/img/a b.sif", "apptainer", ("/data:/data:ro",)), device="cuda")
    argv = rank_argv(plan, package_dir="/site/hpctrain", local_dir="/tmp/l")
    assert argv[:3] == ("apptainer", "exec", "--nv")
    assert argv[-5:] == ("/img/a b.sif", "python3", "-u", "t.py", "a b")
    binds = [argv[at + 1] for at, word in enumerate(argv) if word == "--bind"]
    assert binds == ["/runs/r:/runs/r", "/site/hpctrain:/opt/hpctrain/hpctrain:ro", "/data:/data:ro", "/tmp/l"]


def test_pyxis_is_left_to_srun() -> None:
    """Under pyxis the agent already runs in the container and starts ranks as they are."""
    plan = make_plan(Container("nvcr.io#x", "pyxis"))
    assert rank_argv(plan, package_dir="/p", local_dir="/l") == plan.command.argv


def test_tiers_reach_the_ranks_of_any_script() -> None:
    """HPCTRAIN_CHECKPOINT is what the library reads, on this node; the secret is only named by its private file."""
    values = {"root": "/runs/r/checkpoints", "ram": {"history": 1}, "local": {"path": "/scratch/r"}}
    env = environment(replace(make_plan(), checkpoint=CheckpointPlan(ram=True, values=values)))
    config = CheckpointConfig.from_env(env)

    assert config.ram is not None and (1, 2) == (config.ram.history, config.incarnation)
    assert config.local is not None and Path("/scratch/r/n2") == config.local.path
    assert "/runs/r/control/keeper.secret" == env["HPCTRAIN_KEEPER_SECRET_FILE"]
    assert {"HPCTRAIN_CHECKPOINT", "HPCTRAIN_KEEPER_SECRET_FILE"}.isdisjoint(environment(make_plan()))
