"""Launchers that are programs: torchrun, NVRx's ft_launcher, torchft's lighthouse with a launcher per replica (adapter)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpctrain import process
from recovery_systems import timeline

HERE = Path(__file__).resolve().parent
MOST_RESTARTS = "100000"
Judge = Callable[[Sequence[timeline.Moment], float, int], "timeline.Recovery | None"]


@dataclass
class Job:
    """A training that runs, and is killed again and again.

    Attributes:
        folder: where its ranks write their timelines.
        judge: what to make of them after a fault.
        what: the arrangement, in a few words.
    """

    folder: Path
    judge: Judge
    what: str
    processes: list[process.Popen[bytes]] = field(default_factory=list)

    def moments(self) -> list[timeline.Moment]:
        """What its ranks have written down so far."""
        return timeline.read(self.folder)

    def judged(self, moments: Sequence[timeline.Moment], fault: float, world: int) -> timeline.Recovery | None:
        """What the fault cost; None while it is not over."""
        return self.judge(moments, fault, world)

    def has_ended(self) -> bool:
        """One of its processes has stopped."""
        return any(child.poll() is not None for child in self.processes)

    def pids(self) -> dict[int, int]:
        """The running process of each rank."""
        return timeline.newest_pids(self.moments())

    def log(self) -> str:
        """The end of what it printed."""
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))

    def run(self, name: str, argv: Sequence[str], env: dict[str, str]) -> None:
        """Start one of its processes; its output goes to a file."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(process.start(argv, env={**os.environ, **env}, stdout=log, stderr=log))

    def stop(self) -> None:
        """Kill everything that it started."""
        for pid in timeline.newest_pids(timeline.read(self.folder)).values():
            _kill(pid)
        for child in reversed(self.processes):
            process.kill_group(child)
            child.wait()
        for pid in timeline.newest_pids(timeline.read(self.folder)).values():
            _kill(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


# The last: without it torch 2.13 keeps the store of the last start, and ranks that trust the addresses in it hang.
ENV = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore",
       "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(folder: Path, world: int, every: int, python: str) -> Job:
    """Torch's own launcher with its defaults; the c10d rendezvous, since the static one fails after a few restarts."""
    del python
    job = Job(folder, timeline.recovery, "torchrun, c10d rendezvous, DCP load")
    job.run("torchrun", [sys.executable, "-m", "torch.distributed.run", *_elastic(world), *_program(folder, every)], ENV)
    return job


def ft_launcher(folder: Path, world: int, every: int, python: str) -> Job:
    """NVRx's launcher with its defaults; the program does not send heartbeats, since a killed process needs none."""
    job = Job(folder, timeline.recovery, "ft_launcher, c10d rendezvous, DCP load")
    launcher = [python, str(Path(python).with_name("ft_launcher")), "--ignore-missing-fault-tol-cfg"]
    job.run("ft_launcher", [*launcher, *_elastic(world), *_program(folder, every)], ENV)
    return job


def torchft(folder: Path, world: int, every: int, python: str) -> Job:
    """A lighthouse with the values of its README, and per replica a torchrun that starts it again."""
    del every
    job = Job(folder, timeline.recovery_by_replicas, "one replica per rank, weights from a living replica")
    port = free_port()
    lighthouse = [str(Path(python).with_name("torchft_lighthouse")), "--min_replicas", "1", "--quorum_tick_ms", "100",
                  "--join_timeout_ms", "10000", "--bind", f"[::]:{port}"]
    job.run("lighthouse", lighthouse, {})
    ours = {name: value for name, value in ENV.items() if name != "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"}  # it needs it
    for replica in range(world):
        env = {**ours, "REPLICA": str(replica), "TORCHFT_LIGHTHOUSE": f"http://localhost:{port}"}
        program = [str(HERE / "torchft_program.py"), str(folder)]
        job.run(f"replica-{replica}", [python, "-m", "torch.distributed.run", *_elastic(1), *program], env)
    return job


def _elastic(ranks: int) -> list[str]:
    return ["--nnodes=1", f"--nproc-per-node={ranks}", f"--max-restarts={MOST_RESTARTS}", "--rdzv-backend=c10d",
            f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=benchmark"]


def _program(folder: Path, every: int) -> list[str]:
    return [str(HERE / "plain_program.py"), str(folder), str(every)]


