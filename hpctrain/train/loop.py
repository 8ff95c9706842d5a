"""Training, from the first line to the last (service).

Read :func:`train` and then :func:`train_steps` from top to bottom; every name they use is one file of this package.
Every rank runs the same lines; rank 0 also speaks and writes for all of them.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace

import torch

from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.checkpoint.manager import Checkpointer, SaveResult
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.detect.settings import DetectionSettings, LossSettings
from hpctrain.errors import RecipeError, StorageError
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.metrics import read_tail
from hpctrain.recipe.checkpoint_values import checkpoint_values
from hpctrain.recipe.schema import Recipe, Training
from hpctrain.recipe.units import format_bytes
from hpctrain.train.budget import BatchLayout, total_steps
from hpctrain.train.data import DataCursor, Samples
from hpctrain.train.distributed import disconnect, sum_over_ranks
from hpctrain.train.environment import CHECKPOINT, EXIT_REWIND, EXIT_STOPPED, INCARNATION, RankEnvironment
from hpctrain.train.evaluation import evaluate_at_end
from hpctrain.train.export import save_model
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.loss_policy import DivergedError, LossPolicy, RewindRequested
from hpctrain.train.meet import meet_ranks
from hpctrain.train.model import Network, build_network, load_config
from hpctrain.train.model_card import card_writer
from hpctrain.train.open_data import OpenData, open_data
from hpctrain.train.optim import build_optimizer, clip_gradient, set_learning_rate
from hpctrain.train.randomness import seed_all
from hpctrain.train.report import Reporter, StepReport
from hpctrain.train.schedule import learning_rate
from hpctrain.train.staging import release
from hpctrain.train.stop import StopRequest
from hpctrain.train.stream import StreamSamples
from hpctrain.train.tokenizers import Tokenizer


def train(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment) -> int:
    """Train a recipe on this rank; return the exit code.

    Args:
        recipe: resolved; it has ``model`` and ``data``.
        run_dir: an existing directory that all ranks share.

    Raises:
        HpctrainError: what the user or the site can mend; on every rank, with the same exit code.
    """
    if recipe.model is None or recipe.data is None:
        raise RecipeError("the trainer needs 'model' and 'data'")
    training = recipe.training

    # 1. Meet the other ranks.
    met = meet_ranks(recipe, run_dir, environment)
    place, ranks, batch, report, heartbeat, stop = met.place, met.ranks, met.batch, met.report, met.heartbeat, met.stop
    checkpointer = open_checkpointer(recipe, run_dir, ranks=ranks, report=report, heartbeat=heartbeat)

    # 2. The data: tokenised once, by rank 0, and mapped into memory by all; or read as a stream.
    data = open_data(recipe, recipe.data, run_dir, environment, ranks=ranks, report=report, heartbeat=heartbeat)
    samples, cursor = data.samples, data.cursor
    steps = total_steps(training, samples.training, samples.length)

    # 3. The model: the same weights on every rank, then spread over the ranks.
    heartbeat.beat("init", total_steps=steps, detail="building the model")
    seed_all(training.seed)
    config = load_config(recipe.model, data.vocab_size, data.end_of_text)
    network = build_network(
        recipe.model, config, training, place, met.mesh, sequence_length=samples.length, pretrained=recipe.method == "cpt"
    )
    optimizer = build_optimizer(network.model, training.optimizer)
    seed_all(training.seed + 1 + place.rank)  # from here on each rank draws its own dropout

    # 4. Continue where the newest complete checkpoint left off.
    heartbeat.beat("load")
    checkpointer.register(model=network.model, optimizer=optimizer, data=cursor, rng=True)
    losses = LossPolicy(loss_settings(recipe), run_dir, ranks=ranks, report=report, incarnation=checkpointer.incarnation)
    step = losses.restore(checkpointer, cursor, reached=reached_step(run_dir), resume=recipe.checkpoint.resume == "auto")
    report.start(step, steps, describe(network, training, batch, data))

    # 5. Train.
    run = Run(training, network, optimizer, samples, cursor, batch, steps)
    try:
        step, stopping = train_steps(
            run, step, checkpointer=checkpointer, stop=stop, report=report, heartbeat=heartbeat, losses=losses,
            save_final=recipe.checkpoint.save_final,
        )
    except (RewindRequested, DivergedError) as bad:
        return after_bad_loss(bad, checkpointer, report)
    if stopping:
        return after_stop(step, stopping, checkpointer, report)

    # 6. Leave the model behind in a form that others read.
    report.event("trainer.finished", f"all {steps} steps are done", step)
    heartbeat.beat("finish", step=step, detail="saving the model")
    save_with_card(network, data.tokenizer, recipe, run_dir, ranks=ranks, heartbeat=heartbeat)
    report.event("model.saved", f"{run_dir.model}", step)
    checkpointer.close(flush=recipe.checkpoint.save_final)
    del checkpointer, losses, run, network, optimizer  # their memory is for the models that are measured
    code = evaluate_at_end(recipe, run_dir, environment, ranks=ranks, report=report, heartbeat=heartbeat, stop=stop)
    leave(report)
    return code


def leave(report: Reporter) -> None:
    """Everything is done: close the files, let go of the other ranks and of what was copied to this node."""
    report.close()
    disconnect()
    release()


def save_with_card(
    network: Network, tokenizer: Tokenizer | None, recipe: Recipe, run_dir: RunDir, *, ranks: Ranks, heartbeat: Heartbeat,
) -> None:
    """Write the final model with its tokenizer, model card and lineage; all ranks together."""
    dtype = torch.bfloat16 if recipe.training.precision == "bf16" else torch.float32
    card = card_writer(recipe, run_dir, heartbeat)
    save_model(network, tokenizer, run_dir.model, dtype=dtype, ranks=ranks, complete=card)


@dataclass(frozen=True, slots=True)
class Run:
    """What every step needs."""

    training: Training
    network: Network
    optimizer: torch.optim.Optimizer
    samples: Samples | StreamSamples
    cursor: DataCursor
    batch: BatchLayout
    steps: int

    @property
    def tokens_per_step(self) -> int:
        """Predicted tokens of one global batch."""
        return self.batch.global_batch_size * self.samples.length


def train_steps(
    run: Run, step: int, *, checkpointer: Checkpointer, stop: StopRequest, report: Reporter, heartbeat: Heartbeat,
    losses: LossPolicy, save_final: bool,
) -> tuple[int, SaveResult | None]:
    """Train from ``step`` to the last one, or until all ranks agree to stop.

    Returns:
        The completed step, and how the last save went if the ranks were asked to stop before the end.

    Raises:
        RewindRequested, DivergedError: the loss went wrong, on every rank in the same step.
    """
    place = run.network.place
    while step < run.steps:
        started = time.monotonic()
        rate = learning_rate(step + 1, run.steps, run.training.optimizer.learning_rate, run.training.schedule)
        loss_sum, grad_norm = train_step(run, rate)
        step += 1

        # All ranks meet once per step: they add up their losses, and agree on stopping along the way.
        heartbeat.beat("step", detail="waiting for the other ranks")
        own = [loss_sum, float(bool(stop.reason)), float(not math.isfinite(grad_norm))]
        loss_sum, stopping, wild = sum_over_ranks(own, place.device)
        line = StepReport(
            step, loss_sum / run.tokens_per_step, rate, grad_norm, run.cursor.epoch, run.tokens_per_step,
            time.monotonic() - started,
        )
        if not wild and evaluation_due(run, step):
            line.validation_loss = evaluate(run, heartbeat)
        report.step(line)
        losses.judge(step, line.loss, gradient_ok=not wild, consumed=run.cursor.consumed,
                     global_batch=run.batch.global_batch_size)

        if stopping or step == run.steps or checkpointer.is_due(step):
            heartbeat.beat("save", step=step)
        if stopping and step < run.steps:
            return step, checkpointer.step(step, line.metrics, stopping=True)
        if step == run.steps and save_final:
            checkpointer.save_now("the last step", step=step, metrics=line.metrics)
        else:
            checkpointer.step(step, line.metrics)
        heartbeat.beat("step", step=step)
    return step, None


def train_step(run: Run, rate: float) -> tuple[float, float]:
    """One optimizer step; return the sum of this rank's token losses, and the norm of the whole gradient."""
    network, micro = run.network, run.batch.micro_batch_size
    place = network.place
    mine = run.cursor.next_share(run.batch.global_batch_size, place.rank, place.world_size)
    loss_sum = torch.zeros((), device=place.device)
    # Ranks' gradients are averaged, so each scales its sum by their number: the mean over all tokens of the global batch.
    scale = place.world_size / run.tokens_per_step
    for turn in range(run.batch.accumulation):
        inputs = run.samples.batch(mine[turn * micro : (turn + 1) * micro], place.device)
        with network.gradient_sync(turn == run.batch.accumulation - 1):
            loss = network.loss_sum(inputs)
            (loss * scale).backward()  # type: ignore[no-untyped-call,unused-ignore]
        loss_sum += loss.detach()
    norm = clip_gradient(network.model.parameters(), run.training.clip_grad_norm)
    set_learning_rate(run.optimizer, rate)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return loss_sum.item(), norm.item()


def evaluation_due(run: Run, step: int) -> bool:
    """Validation is measured as often as the recipe says, and after the last step."""
    every = run.training.evaluate_every_steps
    return run.samples.validation > 0 and (step == run.steps or (every > 0 and step % every == 0))


@torch.no_grad()
def evaluate(run: Run, heartbeat: Heartbeat) -> float:
    """Mean loss per token on the validation samples, over all ranks."""
    network, micro = run.network, run.batch.micro_batch_size
    place = network.place
    mine = run.samples.validation_share(place.rank, place.world_size)
    network.model.eval()
    loss_sum = 0.0
    for begin in range(0, len(mine), micro):
        heartbeat.beat("evaluate", detail=f"{begin} of {len(mine)} samples")
        indices = [index for index in mine[begin : begin + micro] if index is not None]
        # A rank with nothing left still takes part, since a sharded model needs all ranks for every pass.
        loss = network.loss_sum(run.samples.batch(indices or [0], place.device))
        loss_sum += loss.item() if indices else 0.0
    network.model.train()
    network.after_evaluation()
    total = sum_over_ranks([loss_sum], place.device)[0]
    return total / (run.samples.validation * run.samples.length)


def after_stop(step: int, save: SaveResult, checkpointer: Checkpointer, report: Reporter) -> int:
    """The exit code after a stop request.

    If the last save failed but an older checkpoint exists, starting again still continues the run, at the cost of the
    steps since. Without any checkpoint it would start over and most likely fail to save again: that needs a person.

    Raises:
        StorageError: nothing was ever saved.
    """
    if not save.ok and not checkpointer.has_checkpoint():
        raise StorageError(
            f"asked to stop after step {step}, and the state could not be saved: {save.error}",
            where=str(checkpointer.config.root), hint="make room, then start the run again; it begins at step 0",
        )
    if save.ok:
        report.say(f"stopped on request after step {step}; the state is saved")
    else:
        report.say(f"warning: stopped on request after step {step}, but saving failed: an older checkpoint will be used")
    checkpointer.close()
    report.close()
    disconnect()
    return EXIT_STOPPED


def after_bad_loss(bad: RewindRequested | DivergedError, checkpointer: Checkpointer, report: Reporter) -> int:
    """The exit code for a rewind; what was saved before the loss went wrong is completed first.

    Raises:
        DivergedError: there is no rewind.
    """
    report.say(f"stopping: {bad}")
    checkpointer.close(flush=isinstance(bad, DivergedError))  # a rewind goes on from memory
    report.close()
    disconnect()
    if isinstance(bad, DivergedError):
        raise bad
    return EXIT_REWIND


def open_checkpointer(
    recipe: Recipe, run_dir: RunDir, *, ranks: Ranks, report: Reporter, heartbeat: Heartbeat
) -> Checkpointer:
    """The checkpoints of this run, which say what they do; the report learns from them which start this is.

    Raises:
        CheckpointError, UsageError, StorageError: see :class:`~hpctrain.checkpoint.manager.Checkpointer`.
    """
    checkpointer = Checkpointer(
        checkpoint_config(recipe, run_dir), ranks=ranks, notify=report.event,
        waiting=lambda what: heartbeat.beat("save", detail=what),
        progress=lambda done, of: heartbeat.beat("load", detail=f"{format_bytes(done)} of {format_bytes(of)} restored"),
    )
    report.incarnation = checkpointer.incarnation
    return checkpointer


def checkpoint_config(recipe: Recipe, run_dir: RunDir) -> CheckpointConfig:
    """The tiers of this run: as the agent says, or, where there is no agent, as the recipe does."""
    if os.environ.get(CHECKPOINT):
        return CheckpointConfig.from_env(os.environ)
    values = checkpoint_values(recipe, root=str(run_dir.checkpoints), run_name=run_dir.name)
    # Without an agent nobody may count the starts; then the checkpoints do.
    given = os.environ.get(INCARNATION)
    return replace(CheckpointConfig.from_json(values), incarnation=int(given) if given else None)


def loss_settings(recipe: Recipe) -> LossSettings:
    """``detection.loss`` in the form that the judge of losses reads."""
    return DetectionSettings.read(recipe.detection.model_dump(mode="json")).loss


def reached_step(run_dir: RunDir) -> int | None:
    """Completed steps of earlier starts, as far as their metrics tell; None when there was none."""
    return max((point.step for point in read_tail(run_dir.metrics)), default=None)


def describe(network: Network, training: Training, batch: BatchLayout, data: OpenData) -> str:
    """One line about what is trained on what."""
    size = sum(parameter.numel() for parameter in network.model.parameters())
    place = network.place
    return (
        f"{network.config.model_type} with {size:,} parameters, {place.world_size} ranks on {place.device.type} "
        f"({training.parallelism.kind}, {training.precision}), {batch.global_batch_size} of {data.describe} "
        f"x {data.samples.length} tokens per step"
    )

