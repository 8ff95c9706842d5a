"""What Slurm's error texts mean: a typed error and what to do (pure).

The texts are those of ``slurm_strerror`` and have been stable from 21.08 to 26.05; an unknown one is passed on as it is.
Exit codes are no help: they are 1 for almost everything, and 0 for ``scancel`` of a job that does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpctrain.errors import JobStateError, NoSuchJobError, NoSuchNodeError, NotPermittedError, SlurmError, SlurmMissingError

_NEVER_ARRIVED = re.compile(r"connect failure|connection refused|Slurm backup controller in standby mode", re.I)
_NO_ANSWER = re.compile(
    r"unable to contact slurm controller|socket timed out|zero bytes were transmitted"
    # scontrol requeue, hold and release say only this when slurmctld does not answer.
    r"|unexpected message received|message (?:send|receive) failure|resource temporarily unavailable"
    r"|transport endpoint is not connected|connection timed out|connection reset by peer"
    r"|slurm temporarily unable to accept job",
    re.I,
)
_PREFIX = re.compile(r"^(?:\w+: )?(?:error: |fatal: )?(?:slurm_\w+ error: ?|Batch job submission failed: )?")
_INVALID_PARTITION = re.compile(r"invalid partition", re.I)
_CONFIGURATION_UNAVAILABLE = re.compile(r"requested node configuration is not available", re.I)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    kind: type[SlurmError]
    hint: str = ""


_LIMITS = "ask for less, or see your limits with 'sacctmgr show assoc user=$USER'"
_RULES = (
    _Rule(r"invalid job id", NoSuchJobError, "it may have left the controller's memory (MinJobAge); see 'hpctrain list'"),
    _Rule(r"invalid node name|node \S+ not found", NoSuchNodeError, "'sinfo --Node' lists the nodes"),
    _Rule(
        r"permission denied|invalid user id|operation not permitted|only \S+ may|must be an? (?:operator|admin)",
        NotPermittedError,
        "jobs may be changed by their owner, nodes by an administrator of Slurm (AdminLevel=Admin; not Operator) or root",
    ),
    _Rule(
        r"already finished|no longer pending|is pending execution|already completing|is (?:not )?(?:running|suspended)"
        r"|invalid job state|not pending nor running|requested operation is presently disabled",
        JobStateError,
        "look at its present state with 'hpctrain describe JOB'",
    ),
    _Rule(
        r"invalid account", SlurmError,
        "set resources.account in the recipe (SBATCH_ACCOUNT is not read); 'sacctmgr show assoc user=$USER' lists yours",
    ),
    _Rule(r"invalid qos", SlurmError, "correct resources.qos in the recipe; 'sacctmgr show qos' lists them"),
    # Before time limits: this text ends with "user's size and/or time limits".
    _Rule(r"accounting/qos policy|job submit limit|too many", SlurmError, _LIMITS),
    _Rule(r"time limit", SlurmError, "ask for less time, or use a partition that allows more ('scontrol show partition')"),
    _Rule(r"reservation", SlurmError, "'scontrol show reservation' lists reservations and who may use them"),
    _Rule(r"invalid feature", SlurmError, "correct resources.constraint; 'sinfo -o \"%N %f\"' lists the nodes' features"),
    _Rule(r"invalid generic resource|invalid gres", SlurmError, "'sinfo -o \"%N %G\"' lists the nodes' GPUs and types"),
    _Rule(r"user'?s group not permitted", NotPermittedError, "choose another partition, or ask for access to this one"),
    _Rule(r"requested partition configuration", SlurmError, "the partition is down or has too few nodes: see 'sinfo'"),
    _Rule(r"node count specification", SlurmError, "ask for fewer nodes; 'sinfo' shows how many the partition has"),
    _Rule(r"i/o error writing script", SlurmError, "the controller's own disk is full or broken: tell your administrator"),
    _Rule(
        r"configuration source|process configuration file|cannot stat file|clustername needs", SlurmMissingError,
        "set SLURM_CONF to the cluster's slurm.conf, or start a private cluster with 'hpctrain cluster up'",
    ),
    _Rule(
        r"authenti|munge|credential", SlurmError,
        "munge does not work between here and the controller: is munged running, and do the clocks agree?",
    ),
)  # fmt: skip


def unreachable(text: str) -> bool:
    """The command failed because slurmctld did not answer."""
    return bool(_NO_ANSWER.search(text) or _NEVER_ARRIVED.search(text))


def never_arrived(text: str) -> bool:
    """The request cannot have reached slurmctld, so that sending it again cannot do a thing twice."""
    return bool(_NEVER_ARRIVED.search(text))


def is_invalid_partition(text: str) -> bool:
    """A partition was named that does not exist."""
    return bool(_INVALID_PARTITION.search(text))


def is_configuration_unavailable(text: str) -> bool:
    """No node can give what was asked of one node."""
    return bool(_CONFIGURATION_UNAVAILABLE.search(text))


def explain(text: str, action: str) -> SlurmError:
    """The typed error for what a command printed.

    Args:
        text: its standard error (and output).
        action: what was tried, such as ``cannot requeue job 17``; begins the message.
    """
    said = in_slurms_words(text)
    for rule in _RULES:
        if re.search(rule.pattern, text, re.I):
            return rule.kind(f"{action}: {said}", hint=rule.hint)
    return SlurmError(f"{action}: {said}")


def in_slurms_words(text: str) -> str:
    """One sentence of the lines that Slurm printed, without program names, repetitions and decoration."""
    lines = (_PREFIX.sub("", line.strip()).strip() for line in text.splitlines())
    kept: list[str] = []
    for line in lines:
        if line and not set(line) <= {"*", " "} and not any(line in other for other in kept):
            kept = [other for other in kept if other not in line] + [line]
    return "; ".join(kept) or "Slurm did not say why"
