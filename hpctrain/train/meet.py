"""The beginning that all trainers share: torch is set up, the ranks meet, and each can speak (service)."""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Recipe, Training
from hpctrain.train.budget import BatchLayout, batch_layout
from hpctrain.train.distributed import Place, build_mesh, choose_device, connect
from hpctrain.train.environment import RankEnvironment
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.hugging_face import quiet
from hpctrain.train.model import use_own_compiler_cache
from hpctrain.train.randomness import make_deterministic
from hpctrain.train.report import Reporter
from hpctrain.train.stop import StopRequest
from hpctrain.train.traceable import write_stacks_on_signal


@dataclass(frozen=True, slots=True)
class Meeting:
    """One rank, among the others.

    Attributes:
        place, mesh, ranks: where it computes, what parameters are sharded over (None for DDP), how ranks agree.
        batch: how a global batch is spread.
        report, heartbeat, stop: what the run says, and who asks it to stop.
    """

    place: Place
    mesh: DeviceMesh | None
    ranks: Ranks
    batch: BatchLayout
    report: Reporter
    heartbeat: Heartbeat
    stop: StopRequest


def meet_ranks(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment, *, shard_name: str = "shard") -> Meeting:
    """Join the other ranks; called by every rank.

    Args:
        shard_name: of the mesh's dimension that parameters are sharded over.

    Raises:
        HpctrainError: the ranks do not come together.
        RecipeError: they do not divide into shard groups or batches.
    """
    training = recipe.training
    quiet()
    stop = StopRequest(environment.stop_file)
    stop.install()
    heartbeat = Heartbeat(environment.heartbeat_file, environment.rank, environment.incarnation)
    heartbeat.beat("init", detail="joining the other ranks")
    write_stacks_on_signal(environment.heartbeat_file)
    prepare_torch(training, f"{run_dir.name}-i{environment.incarnation:03d}")
    place = connect(environment, choose_device(environment))
    mesh = build_mesh(training.parallelism, place, environment.local_world_size, shard_name=shard_name)
    batch = batch_layout(training, place.world_size)
    report = Reporter(run_dir, environment, heartbeat, log_every_steps=training.log_every_steps,
                      tensorboard=recipe.tracking.tensorboard)
    return Meeting(place, mesh, Ranks(), batch, report, heartbeat, stop)


def prepare_torch(training: Training, start: str) -> None:
    """Settings of torch that must be made before it does anything.

    Args:
        start: a name that belongs to this start of this run alone.
    """
    if training.deterministic:
        make_deterministic()
    if training.compile:
        use_own_compiler_cache(start)
