"""Every error a user can meet, each with its exit code and a hint (pure).

The tree (kept true by ``tests/unit/test_errors.py``)::

    HpctrainError                    1   anything of ours not named below
    ├── UsageError                   2   the command line is wrong
    ├── RecipeError                  3   a recipe, overlay or settings file is wrong
    ├── NotFoundError                4   no such run, job, recipe, file or node
    ├── SlurmError                   5   Slurm answered, and the answer is no
    │   ├── SlurmMissingError        6   no Slurm commands, or no cluster configured
    │   ├── ControllerDownError      7   slurmctld does not answer in time
    │   ├── NotPermittedError        8   Slurm refuses this user
    │   ├── NoSuchJobError           4   (also NotFoundError)
    │   ├── NoSuchNodeError          4   (also NotFoundError)
    │   ├── JobStateError            5   the job is in a state that does not allow this
    │   ├── NoAccountingError        5   the cluster keeps no accounting
    │   └── AccountingDownError      5   slurmdbd does not answer
    ├── StorageError                 9   disk full, read-only or not writable
    ├── JobFailedError              10   ``--wait``, ``--follow``: the job ended, and not well
    ├── ClusterError                11   the private test cluster could not do it
    ├── MissingDependencyError      12   an optional package or program is not installed
    ├── CheckpointError             13   no checkpoint, or one that must not be trusted
    ├── UnreachableError            14   no SSH connection to a host, or it broke
    │   ├── HostKeyError            15   the host's key is unknown, or another one than known
    │   ├── AuthenticationError     16   the host does not let us in
    │   └── RemoteTimeoutError      17   the host, or a command on it, took too long
    ├── HostsFailedError            18   some of many hosts failed
    ├── EndpointError               19   a judge or teacher model does not answer, or refuses
    │   └── QuestionRefusedError    19   it refuses this question, and perhaps no other
    └── StopRequested              130   Ctrl-C

A class owns its exit code; ``docs/exit-codes.md`` is generated from this module.
"""

from __future__ import annotations

from typing import ClassVar


class HpctrainError(Exception):
    """Base of every error that hpctrain raises on purpose.

    Args:
        message: what is wrong, in one sentence, without a trailing full stop needed.
        where: the place it was found, such as ``recipe.yaml:12``; printed first.
        hint: what to do about it; falls back to the class's own ``hint``.
    """

    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.advice = hint or self.hint
        if self.advice and hasattr(self, "add_note"):  # from Python 3.11: a traceback in somebody's program shows it, too
            self.add_note(f"hint: {self.advice}")

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UsageError(HpctrainError):
    """The command line asks for something impossible."""

    exit_code = 2


class RecipeError(HpctrainError):
    """A recipe, an overlay or a settings file says something wrong."""

    exit_code = 3
    hint = "run 'hpctrain validate FILE' to check a recipe without submitting it"


class NotFoundError(HpctrainError):
    """What was named does not exist."""

    exit_code = 4


class SlurmError(HpctrainError):
    """Slurm answered, and refused or failed."""

    exit_code = 5


class SlurmMissingError(SlurmError):
    """There are no Slurm commands here, or no cluster is configured."""

    exit_code = 6
    hint = "start a private test cluster with 'hpctrain cluster up', or set SLURM_CONF"


class ControllerDownError(SlurmError):
    """slurmctld does not answer within the timeout, after bounded retries."""

    exit_code = 7
    hint = "check 'scontrol ping'; nothing was submitted or changed unless a line above says so"


class NotPermittedError(SlurmError):
    """Slurm does not allow this user to do that."""

    exit_code = 8
    hint = "nodes may be changed by a Slurm administrator (AdminLevel=Admin, not Operator), SlurmUser, root"


class NoSuchJobError(SlurmError, NotFoundError):
    """Slurm does not know the job (it may have left the controller's memory)."""

    exit_code = 4


class NoSuchNodeError(SlurmError, NotFoundError):
    """Slurm does not know the node."""

    exit_code = 4


class JobStateError(SlurmError):
    """The job exists, but its state does not allow what was asked."""

    exit_code = 5


class NoAccountingError(SlurmError):
    """The cluster keeps no accounting database, or there is no ``sacct`` to read it with."""

    exit_code = 5
    hint = "older jobs are known from their run directories only; a site keeps accounts with slurmdbd"


class AccountingDownError(SlurmError):
    """Slurm's accounting database (slurmdbd) does not answer."""

    exit_code = 5
    hint = "what happens meanwhile is not lost: slurmctld keeps it until slurmdbd answers again"


class StorageError(HpctrainError):
    """A file system is full, read-only, or not ours to write."""

    exit_code = 9


class JobFailedError(HpctrainError):
    """The job that was waited for ended without success."""

    exit_code = 10


class ClusterError(HpctrainError):
    """The private test cluster could not be brought up, changed or taken down."""

    exit_code = 11


class MissingDependencyError(HpctrainError):
    """An optional Python package or a program is not installed."""

    exit_code = 12


class CheckpointError(HpctrainError):
    """A checkpoint is missing, incomplete, damaged or must not be trusted."""

    exit_code = 13


class UnreachableError(HpctrainError):
    """There is no SSH connection to a host, or it broke."""

    exit_code = 14


class HostKeyError(UnreachableError):
    """The key that a host shows is not known, or not the one that is known."""

    exit_code = 15


class AuthenticationError(UnreachableError):
    """The host does not accept any of our keys."""

    exit_code = 16
    hint = "see 'ssh-add -l' and IdentityFile in ~/.ssh/config; passwords are never used"


class RemoteTimeoutError(UnreachableError):
    """A host, or a command on it, did not answer in time."""

    exit_code = 17


class HostsFailedError(HpctrainError):
    """Some of the hosts that a command went to failed; each is named with its reason."""

    exit_code = 18


class EndpointError(HpctrainError):
    """A model behind an HTTP endpoint does not answer in time, refuses, or answers nonsense."""

    exit_code = 19


class QuestionRefusedError(EndpointError):
    """A model behind an HTTP endpoint refuses one question, such as one that is too long for it."""

    exit_code = 19


class StopRequested(HpctrainError):  # noqa: N818 - a wish of the user, not a mistake
    """The user pressed Ctrl-C."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; its class where it says nothing.

    A first line that ends in a colon announces the second, which then holds the reason.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
