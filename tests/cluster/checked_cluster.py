"""A private cluster whose nodes are checked: simulated kernels and GPUs, programs of Slurm that a test can hold up."""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.health_setup import SCRIPTS, enable_health
from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.simulated_node import NodeKind
from hpctrain.devcluster.state import layout_of, load_spec
from hpctrain.files import write_atomic

KIND = NodeKind(gpus=8)
PATIENCE_S = 120.0
"""Longest wait for anything; a busy machine has time."""

# Runs a program of ours only while the test lets it: a file per node holds a prolog or epilog up, another one lets the
# health program look, and a third says that it is looking.
_HELD = 'while [ -e {place}/hold-{name}/"$SLURMD_NODENAME" ]; do /bin/sleep 0.1; done\n'
_LOOKING = """\
flag={place}/look/$SLURMD_NODENAME busy={place}/busy/$SLURMD_NODENAME
[ -e "$flag" ] && [ ! -e "$busy" ] || exit 0
: > "$busy"
[ -e "$flag" ] && /bin/sh {script}
/bin/rm -f "$busy"
exit 0
"""


def wait_for(what: Callable[[], bool], *, seconds: float = PATIENCE_S) -> None:
    """Until it holds."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.2)


@dataclass(frozen=True)
class Seen:
    """What Slurm said of all nodes and jobs: node -> (state, reason), job -> (state, node)."""

    nodes: Mapping[str, tuple[str, str]]
    jobs: Mapping[str, tuple[str, str]]


@dataclass
class HealthCluster:
    """A private cluster whose nodes are checked."""

    directory: Path
    conf: Path

    @property
    def environment(self) -> dict[str, str]:
        """For Slurm's commands."""
        return {"PATH": os.environ["PATH"], "SLURM_CONF": str(self.conf), "HOME": str(self.directory)}

    def files(self, node: str) -> NodeFiles:
        """The simulated kernel and GPUs of a node."""
        return NodeFiles(self.directory / "nodes" / node, node, KIND)

    def slurm(self, *argv: str) -> str:
        """Output of a command of Slurm, which must succeed."""
        result = process.run(argv, timeout_s=60, env=self.environment, cwd=str(self.directory))
        assert result.ok, f"{shlex.join(argv)}: {result.stderr or 'no answer'}"
        return result.stdout.strip()

    def node(self, name: str) -> tuple[str, str]:
        """State and reason."""
        state, _, reason = self.slurm("sinfo", "-h", "-N", "-n", name, "-o", "%T|%E").partition("|")
        return state.rstrip("*"), reason

    def look(self) -> Seen:
        """State of all nodes and jobs."""
        nodes = (line.split("|", 2) for line in self.slurm("sinfo", "-h", "-N", "-o", "%N|%T|%E").splitlines())
        jobs = (line.split("|", 2) for line in self.slurm("squeue", "-h", "-t", "all", "-o", "%i|%T|%N").splitlines())
        return Seen({name: (state.rstrip("*"), reason) for name, state, reason in nodes},
                    {job: (state, node) for job, state, node in jobs})  # fmt: skip

    def events(self, node: str) -> list[dict[str, Any]]:
        """The node's own log."""
        path = self.directory / "verdicts" / f"{node}.events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def submit(self, text: str, *options: str) -> str:
        """The id of a job that runs these lines."""
        script = self.directory / f"job{time.monotonic_ns()}-{threading.get_ident()}.sh"
        script.write_text(f"#!/bin/sh\n{text}\n")
        return self.slurm("sbatch", "--parsable", "-o", str(self.directory / "out.%j"), *options, str(script))

    def flag(self, kind: str, node: str, *, on: bool) -> None:
        """``hold-prolog``, ``hold-epilog`` or ``look``; only in a cluster that was made with ``held``."""
        path = self.directory / kind / node
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)
        if kind == "look" and not on:
            wait_for(lambda: not (self.directory / "busy" / node).exists())

    def configure(self, **changes: Any) -> None:
        """Change the site's health configuration."""
        path = self.directory / "health.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def _hold(self) -> None:
        for kind in ("hold-prolog", "hold-epilog", "look", "busy"):
            (self.directory / kind).mkdir()
        for script in SCRIPTS:
            path, name = self.directory / script, script.partition(".")[0]
            lines = path.read_text().splitlines()
            if name == "health_program":
                gate = _LOOKING.format(place=self.directory, script=lines[-1].rpartition(" ")[2])
                text = "\n".join([*lines[:-1], gate])
            else:
                gate = _HELD.format(place=self.directory, name=name)
                text = "\n".join([*lines[:-1], gate + lines[-1], ""])
            write_atomic(path, text, mode=0o700, durable=False)


@contextmanager
def checked_cluster(
    root: Path, name: str, nodes: int, *, interval_s: int = 2, held: bool = False
) -> Iterator[HealthCluster]:
    """A running cluster with prolog, epilog and health program.

    Args:
        held: the health program looks only at nodes that have the flag ``look``, and a check has all the time it needs.
    """
    clusters = Clusters(root / "clusters", say=print)
    try:
        info = clusters.up(name, nodes=nodes)
        spec = load_spec(info.state_dir)
        assert spec is not None
        layout = layout_of(spec, root / "clusters")
        enable_health(layout, spec, interval_s=interval_s)
        made = HealthCluster(layout.health_dir, layout.slurm_conf)
        if held:
            made._hold()
            settings = layout.health_dir / "health.env"
            settings.write_text(settings.read_text() + "export HPCTRAIN_HEALTH_BUDGET_S=60\n")
            off = dict.fromkeys(("disk_space", "mounts"), "off")  # those of this machine, on which much else may run
            made.configure(scontrol_timeout_s=30, modes=off, budget_s={"prolog": 60, "epilog": 60, "periodic": 60})
        yield made
    finally:
        clusters.down(name)
