"""Run Slurm's commands so that they answer or fail clearly: clean environment, timeouts, bounded retries (adapter)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpctrain import process
from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import ControllerDownError, MissingDependencyError, SlurmMissingError
from hpctrain.process import Result
from hpctrain.slurm import refusal

_KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_JWKS", "SLURM_SACK_KEY"})
"""Which cluster, and who we are."""
_DROPPED = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SCONTROL_", "SCANCEL_", "SALLOC_", "SRUN_")
_READING = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0


class Runner(Protocol):
    """The shape of :func:`hpctrain.process.run`."""

    def __call__(
        self, argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None, cwd: str | None = None,
        stdin: str | None = None,
    ) -> Result:  # fmt: skip
        """Run a program to its end."""


@dataclass(frozen=True, slots=True)
class Commands:
    """How Slurm's commands are run.

    Attributes:
        env: their whole environment, see :func:`clean_environment`.
        timeout_s: longest wait for one command.
        retries: further tries when the controller does not answer, after 1, 2, 4, ... at most 15 s.
        announce: told in one sentence before each further try.
    """

    env: Mapping[str, str]
    timeout_s: float = 20.0
    retries: int = 3
    clock: Clock = field(default_factory=SystemClock)
    runner: Runner = process.run
    announce: Callable[[str], None] = lambda _: None

    def run(self, program: str, *arguments: str) -> Result:
        """Run a command once.

        Raises:
            SlurmMissingError: it is not installed.
        """
        return self._start(program, arguments, {**self.env, **_READING})

    def sbatch(self, script: str, *, work_dir: str, env: Mapping[str, str]) -> Result:
        """Run sbatch once; it keeps the user's locale, because its environment becomes the job's."""
        return self._start("sbatch", ("--parsable",), {**self.env, **env}, cwd=work_dir, stdin=script)

    def ask(self, program: str, *arguments: str) -> tuple[Result, bool]:
        """Run a command until the controller answers; also tells whether it took more than one try.

        Raises:
            ControllerDownError: it never did.
        """
        result, repeated = self.run(program, *arguments), False
        for pause_s in self.pauses():
            if not no_answer(result):
                return result, repeated
            self.wait(result, pause_s)
            result, repeated = self.run(program, *arguments), True
        if no_answer(result):
            tries = f", in {self.retries + 1} tries" if self.retries else ""
            raise ControllerDownError(f"{self.why(result)}{tries}")
        return result, repeated

    def read(self, action: str, program: str, *arguments: str) -> str:
        """Standard output of a command; ``action`` begins the message if Slurm refuses.

        Raises:
            SlurmError: Slurm refused, in one of its typed forms.
        """
        result, _ = self.ask(program, *arguments)
        if not result.ok:
            raise refusal.explain(said(result), action)
        return result.stdout

    def change(self, action: str, program: str, *arguments: str) -> None:
        """:meth:`read` for changes that may be sent twice without harm."""
        self.read(action, program, *arguments)

    def pauses(self) -> list[float]:
        """Seconds to wait before each further try."""
        return pauses(self.retries)

    def wait(self, result: Result, pause_s: float) -> None:
        """Say why, and wait."""
        self.announce(f"{self.why(result)}; trying again in {pause_s:g} s")
        self.clock.sleep(pause_s)

    def why(self, result: Result) -> str:
        """In words, why there was no answer."""
        if result.timed_out:
            causes = "down, overloaded, or throttling your requests"
            return f"Slurm's controller gave no answer within {self.timeout_s:g} s ({causes})"
        return f"Slurm's controller does not answer ({refusal.in_slurms_words(said(result))})"

    def _start(
        self,
        program: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: str | None = None,
        stdin: str | None = None,
    ) -> Result:
        path = process.find(program)
        try:
            if path is None:
                raise MissingDependencyError(f"{program} is not installed")
            return self.runner([path, *arguments], timeout_s=self.timeout_s, env=env, cwd=cwd, stdin=stdin)
        except MissingDependencyError as error:
            hint = "install Slurm's commands (Debian, Ubuntu: slurm-client), or run this on a login node"
            raise SlurmMissingError(str(error), hint=hint) from None


def pauses(retries: int) -> list[float]:
    """Seconds to wait before each of so many further tries."""
    return [min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) for attempt in range(retries)]


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables that change what Slurm's commands print or submit.

    ``SQUEUE_FORMAT`` and its like would change what is parsed; ``SBATCH_*`` override the ``#SBATCH`` lines, which is
    where a recipe's values are; variables of a surrounding job (``SLURM_MEM_PER_NODE``, ...) would reach into a new one.
    """
    return {key: value for key, value in env.items() if key in _KEPT or not key.startswith(_DROPPED)}


def no_answer(result: Result) -> bool:
    """The controller did not answer (as opposed to: it refused)."""
    return result.timed_out or (result.returncode != 0 and refusal.unreachable(said(result)))


def never_arrived(result: Result) -> bool:
    """There was no answer, and the request cannot have been carried out."""
    return not result.timed_out and refusal.never_arrived(result.stderr)


def said(result: Result) -> str:
    """What a failed command printed (scontrol complains on standard output at times), else its warnings."""
    return result.stderr if result.ok else f"{result.stderr}\n{result.stdout}"
