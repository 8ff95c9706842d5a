"""What every method that tunes a model needs: who the ranks are, how they speak, what is trained on what (service).

:func:`open_context` makes it; each method fills in its rows and its model, and hands it to
:func:`hpctrain.train.tune.engine.run_trainer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.distributed.device_mesh import DeviceMesh

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import RecipeError
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe import schema
from hpctrain.recipe.schema import Recipe
from hpctrain.train.budget import BatchLayout
from hpctrain.train.distributed import Place
from hpctrain.train.environment import RankEnvironment
from hpctrain.train.heartbeat import Heartbeat
from hpctrain.train.meet import meet_ranks
from hpctrain.train.report import Reporter
from hpctrain.train.stop import StopRequest
from hpctrain.train.tune.accelerate_state import use_our_device
from hpctrain.train.tune.tokenizer import load_tokenizer


@dataclass
class TuneContext:
    """One rank's view of a tuning run.

    Attributes:
        place, mesh, ranks: where this rank computes, what parameters are sharded over (None for DDP), how ranks agree.
        batch: how a global batch is spread.
        report, heartbeat, stop: what the run says, and who asks it to stop.
        tokenizer: a transformers tokenizer with end-of-text and padding tokens.
        train_rows, eval_rows: ``datasets.Dataset`` with the columns that the trainer's collator reads; eval_rows is None
            where nothing is kept out of training.
        fingerprint: of those rows, so that a checkpoint is not continued on others.
        model: the network that is trained, in memory or sharded, without an adapter.
        peft_config: the adapter that the trainer puts on it; None trains all weights.
        steps: optimizer steps of the whole run; the engine fills it in.
        answers_url: of the server that writes answers, "" where the ranks do.
    """

    recipe: Recipe
    run_dir: RunDir
    environment: RankEnvironment
    place: Place
    mesh: DeviceMesh | None
    ranks: Ranks
    batch: BatchLayout
    report: Reporter
    heartbeat: Heartbeat
    stop: StopRequest
    tokenizer: Any = None
    train_rows: Any = None
    eval_rows: Any = None
    fingerprint: str = ""
    model: Any = None
    peft_config: Any = None
    steps: int = 0
    answers_url: str = ""

    @property
    def training(self) -> schema.Training:
        """The recipe's training section."""
        return self.recipe.training

    @property
    def data(self) -> schema.Data:
        """The recipe's data section."""
        if self.recipe.data is None:
            raise RecipeError("the trainer needs 'data'")
        return self.recipe.data

    @property
    def source(self) -> schema.Model:
        """The recipe's model section."""
        if self.recipe.model is None or not self.recipe.model.path:
            raise RecipeError(f"method '{self.recipe.method}' starts from trained weights", where="model.path")
        return self.recipe.model

    @property
    def seed(self) -> int:
        """For libraries whose seeds have 32 bits."""
        return self.training.seed % 2**32


def open_context(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment) -> TuneContext:
    """Meet the other ranks and load the tokenizer; called by every rank.

    Raises:
        HpctrainError: the ranks do not come together.
        NotFoundError, RecipeError: see :func:`hpctrain.train.tune.tokenizer.load_tokenizer`.
    """
    met = meet_ranks(recipe, run_dir, environment, shard_name="fsdp")
    use_our_device(met.place.device)
    context = TuneContext(recipe, run_dir, environment, met.place, met.mesh, met.ranks, met.batch, met.report, met.heartbeat,
                          met.stop)
    context.tokenizer = load_tokenizer(recipe)
    return context
