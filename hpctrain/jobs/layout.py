"""Names of everything inside a run directory (pure).

``<root>/<run name>/`` is 0700 and append-only across restarts::

    run.json                 written last by submit: job id, times, cluster; without it there is no run
    recipe.yaml              the recipe file as the user wrote it
    recipe.resolved.yaml     every value, and where it came from
    recipe.resolved.json     the same values as plain JSON; what the trainer reads
    plan.json                what the agents read: ranks, nodes, command, environment, limits
    sbatch.sh                the script as it was submitted
    events/<source>-<host>.jsonl
    metrics.jsonl            one line per step, written by rank 0
    progress.json            newest heartbeat of rank 0, relayed by its agent, replaced about once a second
    logs/job.out             the batch step and the agents
    logs/i000/rank-00003@n1.log   one rank of incarnation 0 on node n1; each line "<ISO time>Z <text>"
    checkpoints/             hpctrain.checkpoint
    tensorboard/
    control/                 what coordinator and agents must find again; see hpctrain.agent.control
    cache/                   tokenised data
    model/                   final weights in Hugging Face format, with a model card and its lineage
    lineage.json             where it comes from; see hpctrain.jobs.lineage
    mlflow.json              which run of MLflow it is, and how much that has been told
    evaluation.json          what the evaluation at the end measured
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpctrain.ids import Incarnation, NodeName, Rank

_RANK_LOG = re.compile(r"^rank-(\d+)@(.+)\.log$")
_INCARNATION = re.compile(r"^i(\d+)$")


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def record(self) -> Path:
        """``run.json``: its presence is what makes the directory a run."""
        return self.path / "run.json"

    @property
    def recipe(self) -> Path:
        """The recipe as written."""
        return self.path / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        """The recipe with every value."""
        return self.path / "recipe.resolved.yaml"

    @property
    def resolved_json(self) -> Path:
        """``Recipe.model_dump(mode="json")``, for the trainer."""
        return self.path / "recipe.resolved.json"

    @property
    def plan(self) -> Path:
        """The plan that coordinator and agents read."""
        return self.path / "plan.json"

    @property
    def script(self) -> Path:
        """The submitted batch script."""
        return self.path / "sbatch.sh"

    @property
    def events(self) -> Path:
        """Directory of event files."""
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        """Per-step metrics."""
        return self.path / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """Newest heartbeat of rank 0."""
        return self.path / "progress.json"

    @property
    def logs(self) -> Path:
        """Directory of logs."""
        return self.path / "logs"

    @property
    def job_log(self) -> Path:
        """Output of the batch step."""
        return self.logs / "job.out"

    @property
    def checkpoints(self) -> Path:
        """Root of the shared checkpoint tier."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def control(self) -> Path:
        """Rendezvous and stop requests."""
        return self.path / "control"

    @property
    def rewind(self) -> Path:
        """The newest order to go back to an older checkpoint; see :mod:`hpctrain.detect.rewind`."""
        return self.control / "rewind.json"

    @property
    def answers(self) -> Path:
        """Where the server that writes this run's answers is, and for which start of the ranks: ``{"url", "incarnation"}``;
        written by the server's run.
        """
        return self.control / "answers.json"

    @property
    def server(self) -> Path:
        """Which run is the server that writes this run's answers, ``{"run_dir": ...}``; there from the beginning."""
        return self.control / "server.json"

    @property
    def serves(self) -> Path:
        """Of a server's run: the run that it writes answers for, ``{"run_dir": ...}``."""
        return self.control / "serves.json"

    @property
    def cache(self) -> Path:
        """Tokenised data."""
        return self.path / "cache"

    @property
    def model(self) -> Path:
        """Final weights."""
        return self.path / "model"

    @property
    def lineage(self) -> Path:
        """Where the run comes from; see :mod:`hpctrain.jobs.lineage`."""
        return self.path / "lineage.json"

    @property
    def evaluation(self) -> Path:
        """What the evaluation at the end measured."""
        return self.path / "evaluation.json"

    @property
    def mlflow(self) -> Path:
        """Which run of MLflow this is, and how much of it that has been told."""
        return self.path / "mlflow.json"

    def rank_log(self, incarnation: Incarnation, rank: Rank, node: NodeName) -> Path:
        """Log of one rank in one incarnation."""
        return self.logs / f"i{incarnation:03d}" / f"rank-{rank:05d}@{node}.log"


@dataclass(frozen=True, slots=True, order=True)
class RankLog:
    """A rank log found on disk."""

    incarnation: int
    rank: int
    node: str
    path: Path


def parse_rank_log(path: Path) -> RankLog | None:
    """Read incarnation, rank and node back from the path of a rank log; None for any other file."""
    file, folder = _RANK_LOG.match(path.name), _INCARNATION.match(path.parent.name)
    if not file or not folder:
        return None
    return RankLog(int(folder.group(1)), int(file.group(1)), file.group(2), path)
