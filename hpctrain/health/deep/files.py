"""The private directory of a run of deep checks (adapter over the file system).

::

    plan.json              what is to be done
    secret                 with which the nodes prove to the conductor that they are his
    job-N.sh, job-N.log    script of each job, and what it printed
    jobs.json              Slurm's ids; nodes for which there is no job, and why
    nodes/NODE.jsonl       what a node is and what it measured; one line per thing, as it happens
    pairs-N.jsonl          what the pairs of job N measured
    report.json            the judged result
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError
from hpctrain.files import append_jsonl, make_private_dir, read_jsonl, storage_errors, write_atomic, write_json_atomic
from hpctrain.health.deep.baseline import parse
from hpctrain.health.deep.plan import DeepPlan

_DIRECTORY = "deep-checks"


class DeepFiles:
    """Paths and contents of one run's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def name(self) -> str:
        """The run's name."""
        return self.directory.name

    @property
    def shared_dir(self) -> Path:
        """Where the shared file system is measured."""
        return self.directory / "scratch"

    def create(self, plan: DeepPlan) -> None:
        """Write the plan and what the nodes need. Raises StorageError."""
        for path in (self.directory / "nodes", self.shared_dir):
            make_private_dir(path)
        write_atomic(self.directory / "secret", secrets.token_hex(32), durable=False)
        write_json_atomic(self.directory / "plan.json", plan.to_json())

    def plan(self) -> DeepPlan:
        """The plan.

        Raises:
            NotFoundError: there is none, or it does not parse.
        """
        path = self.directory / "plan.json"
        try:
            return DeepPlan.from_json(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise NotFoundError(f"there is no plan of deep checks here: {error}", where=str(path)) from None

    def secret(self) -> bytes:
        """The nodes' common secret."""
        with storage_errors(self.directory):
            return (self.directory / "secret").read_bytes()

    def write_jobs(self, ids: Sequence[int], skipped: Mapping[str, str]) -> None:
        """Keep what was submitted. Raises StorageError."""
        write_json_atomic(self.directory / "jobs.json", {"jobs": list(ids), "skipped": dict(skipped)}, durable=False)

    def jobs(self) -> tuple[list[int], dict[str, str]]:
        """Slurm's ids, and node -> why there is no job for it.

        Raises:
            NotFoundError: nothing was submitted from here.
        """
        path = self.directory / "jobs.json"
        try:
            record = json.loads(path.read_text())
            return [int(one) for one in record["jobs"]], {str(node): str(why) for node, why in record["skipped"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotFoundError(f"no deep checks were submitted from here: {error}", where=str(path)) from None

    def tell(self, node: str, kind: str, record: Mapping[str, Any]) -> None:
        """Append what a node has to say."""
        append_jsonl(self.directory / "nodes" / f"{node}.jsonl", {"kind": kind, **record})

    def told(self, node: str) -> list[dict[str, Any]]:
        """What a node has said, [] for nothing."""
        return list(read_jsonl(self.directory / "nodes" / f"{node}.jsonl"))

    def tell_pair(self, job: int, record: Mapping[str, Any]) -> None:
        """Append the outcome of a pair."""
        append_jsonl(self.directory / f"pairs-{job}.jsonl", record)

    def pairs(self, job: int) -> list[dict[str, Any]]:
        """Outcomes of all pairs of a job, in order."""
        return list(read_jsonl(self.directory / f"pairs-{job}.jsonl"))

    def last_words(self, job: int) -> str:
        """The last line of a job's log, shortened; "" if there is none."""
        try:
            text = (self.directory / f"job-{job}.log").read_bytes()[-4000:].decode(errors="replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:160]


def new_run(runs_dir: Path, stamp: str) -> DeepFiles:
    """Make a private directory of a new name. Raises StorageError."""
    parent = make_private_dir(runs_dir / _DIRECTORY)
    number = 1
    while True:
        name = stamp if number == 1 else f"{stamp}-{number}"
        try:
            return DeepFiles(make_private_dir(parent / name, exist_ok=False))
        except FileExistsError:
            number += 1


def default_baseline(runs_dir: Path) -> Path:
    """Where baselines are kept unless another file is named."""
    return runs_dir / _DIRECTORY / "baseline.json"


def read_baselines(path: Path, *, required: bool) -> dict[str, Any]:
    """The document of stored baselines; ``{}`` if there is none.

    Raises:
        NotFoundError: it is required and missing, or it is damaged.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        parse(document)
    except FileNotFoundError:
        if required:
            hint = "make it with --save-baseline, on nodes that are known to be good"
            raise NotFoundError("there is no file of baselines", where=str(path), hint=hint) from None
        return {}
    except (OSError, ValueError) as error:
        hint = "name another file with --baseline, or move this one away"
        raise NotFoundError(f"the baselines cannot be read: {error}", where=str(path), hint=hint) from None
    return document
