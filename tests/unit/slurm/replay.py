"""A runner for SlurmCli that answers from a list instead of starting programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpctrain.process import Result


def answer(stdout: str = "", *, stderr: str = "", rc: int = 0) -> Result:
    """What a program left behind."""
    return Result((), rc, stdout, stderr)


def refused(stderr: str) -> Result:
    """A program that complained."""
    return answer(stderr=stderr, rc=1)


HUNG = Result((), -9, "", "", timed_out=True)
UNREACHABLE = refused("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")


@dataclass
class Call:
    """One command as it would have been run."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: str | None
    stdin: str | None
    timeout_s: float

    @property
    def program(self) -> str:
        """Its name without directory."""
        return self.argv[0].rsplit("/", 1)[-1]


@dataclass
class Replay:
    """Give the answers in turn; the last one stays."""

    answers: list[Result]
    calls: list[Call] = field(default_factory=list)

    def __call__(
        self, argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None, cwd: str | None = None,
        stdin: str | None = None,
    ) -> Result:  # fmt: skip
        """Record the command; give the next answer."""
        self.calls.append(Call(list(argv), dict(env or {}), cwd, stdin, timeout_s))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def programs(self) -> list[str]:
        """Names of the programs run so far."""
        return [call.program for call in self.calls]
