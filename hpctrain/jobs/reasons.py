"""Why Slurm lets a job wait, in sentences, and what to do about it (pure).

Slurm's own words are listed in the "Job Reason Codes" page of its documentation; new versions add some, so families
(``QOS...``, ``Assoc...``) are recognised by their parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """An explanation.

    Attributes:
        sentence: what it means, starting in lower case so that it can follow "waiting: ".
        advice: what a person can do, "" where the answer is to wait.
    """

    sentence: str
    advice: str = ""


_WAIT = "this needs nobody; 'squeue --start -j JOB' shows Slurm's own estimate"
_ADMIN = "ask the cluster's administrators"

_KNOWN: Mapping[str, Reason] = {
    "None": Reason("Slurm has not looked at it yet"),
    "": Reason("Slurm has not looked at it yet"),
    "Resources": Reason("the nodes it asks for are busy with other jobs; it is next in line", _WAIT),
    "Priority": Reason(
        "jobs with higher priority are ahead of it", _WAIT + "; a shorter time limit can let it slip into a gap"
    ),
    "BeginTime": Reason(
        "Slurm holds it back until a start time has come (after a requeue that is two minutes)",
        "lift the delay: scontrol update jobid=JOB StartTime=now"
        " ('hpctrain logs -f JOB' does that after a requeue of the job's own)",
    ),
    "Dependency": Reason("it waits for another job to end", "'scontrol show job JOB' names that job beside Dependency="),
    "DependencyNeverSatisfied": Reason(
        "it waits for a job that ended in a way that rules this one out: it will never start",
        "cancel it: hpctrain cancel JOB",
    ),
    "JobHeldUser": Reason("you hold it", "let it go: scontrol release JOB"),
    "JobHeldAdmin": Reason("an administrator holds it", _ADMIN + " what they need"),
    "JobHoldMaxRequeue": Reason(
        "Slurm requeued it as often as the site allows and now holds it",
        "look at 'hpctrain events JOB', then: scontrol release JOB",
    ),
    "ReqNodeNotAvail": Reason(
        "nodes it needs are down, drained or reserved",
        "'sinfo -R' shows which nodes are out of service and why",
    ),
    "NodeDown": Reason("a node it needs is down", "'sinfo -R' shows which nodes are out of service and why"),
    "PartitionDown": Reason(
        "its partition does not start jobs at present", _ADMIN + ", or choose another: --set resources.partition=NAME"
    ),
    "PartitionInactive": Reason(
        "its partition takes no jobs at present",
        _ADMIN + ", or choose another: --set resources.partition=NAME",
    ),
    "PartitionNodeLimit": Reason(
        "it asks for more (or fewer) nodes than its partition allows: it will never start as it is",
        "cancel it and submit with other resources.nodes or resources.partition",
    ),
    "PartitionTimeLimit": Reason(
        "its time limit is longer than its partition allows: it will never start as it is",
        "'scontrol update jobid=JOB TimeLimit=...' with what 'sinfo -o \"%P %l\"' allows",
    ),
    "Reservation": Reason("it waits for its reservation to begin", "'scontrol show reservation' shows when"),
    "ReservationDeleted": Reason(
        "its reservation no longer exists: it will never start as it is", "cancel it and submit again"
    ),
    "InvalidAccount": Reason(
        "its account does not exist or is not yours", "'sacctmgr show assoc user=$USER' lists your accounts"
    ),
    "AccountNotAllowed": Reason("its account may not use this partition", _ADMIN + ", or use another account or partition"),
    "InvalidQOS": Reason(
        "its QOS does not exist or is not yours", "'sacctmgr show assoc user=$USER format=qos' lists yours"
    ),
    "QOSNotAllowed": Reason("its QOS may not use this partition", _ADMIN + ", or use another QOS or partition"),
    "BadConstraints": Reason(
        "no node can ever satisfy what it asks for",
        "'sinfo -o \"%N %c %m %G %f\"' shows what nodes have; cancel it and submit again",
    ),
    "Licenses": Reason("it waits for a license", "'scontrol show licenses' shows who has them"),
    "Prolog": Reason("its nodes are being prepared (the prolog runs)"),
    "Cleaning": Reason("its last start is still being cleaned up on the nodes"),
    "BurstBufferResources": Reason("it waits for room in the burst buffer", _WAIT),
    "BurstBufferStageIn": Reason("its data is being copied to the burst buffer"),
    "FrontEndDown": Reason("the node that would run its script is down", _ADMIN),
    "NonZeroExitCode": Reason("its batch script ended with an error"),
    "SystemFailure": Reason("Slurm itself, the file system or the network failed", _ADMIN),
    "JobLaunchFailure": Reason(
        "it could not be started on its nodes", "'sinfo -R' shows nodes that were taken out because of it"
    ),
    "JobArrayTaskLimit": Reason("as many tasks of its array run as were allowed at once", _WAIT),
    "MaxRequeue": Reason(
        "it was requeued as often as the site allows", "look at 'hpctrain events JOB', then: scontrol release JOB"
    ),
    "Deadline": Reason("it cannot end before its deadline any more"),
    "TimeLimit": Reason("it reached its time limit"),
    "OutOfMemory": Reason("a node ran out of the memory it was given"),
    "RaisedSignal": Reason("a signal ended it"),
    "InactiveLimit": Reason("it did nothing for longer than the site allows"),
    "SchedDefer": Reason("it asked to start at once and that was not possible", "cancel it and submit again without that"),
    "NodeFail": Reason("one of its nodes failed"),
    "Preempted": Reason("a job with more priority took its nodes"),
}

_LIMITED = (
    ("gres", "GPUs"),
    ("cpu", "CPUs"),
    ("mem", "memory"),
    ("node", "nodes"),
    ("submit", "jobs in the queue"),
    ("wall", "run time"),
    ("billing", "billing units"),
    ("license", "licenses"),
    ("energy", "energy"),
    ("bb", "burst buffer"),
    ("job", "jobs"),
)
"""Parts of limits' names, the more telling first (``PerJob`` ends many of them)."""


def explain(reason: str) -> Reason:
    """What a pending reason means; an unknown word is quoted as it is."""
    word = reason.strip().strip("()")
    head = re.split(r"[,:(\s]", word, maxsplit=1)[0]
    if "launch_failed_requeued_held" in word or "launch failed requeued held" in word:
        return Reason(
            "it could not be started on a node, and Slurm put it back in the queue and holds it",
            "'sinfo -R' shows the node; then let it go: scontrol release JOB",
        )
    if word.startswith("Nodes required for job are"):
        return _KNOWN["ReqNodeNotAvail"]
    if "requeued" in word and "held" in word:
        return Reason("it was put back in the queue and is held", "let it go: scontrol release JOB")
    return _KNOWN.get(head) or _limit(head) or Reason(f"Slurm's reason is {word!r}")


def _limit(word: str) -> Reason | None:
    family = re.match(r"(QOS|Assoc|MaxJobs|MaxSubmit|MaxCpu|MaxMem|MaxNodes|MaxWall)", word)
    if family is None:
        return None
    what = next((name for part, name in _LIMITED if part in word.lower()), "resources")
    owner = "its QOS" if family.group(1) == "QOS" else "its account"
    # Max...PerUser: your own jobs count; Grp: everybody's.
    who = "all jobs of " + owner + " together" if "Grp" in word else "your jobs"
    per_job = "PerJob" in word or re.search(r"Max(Wall|\w+)(Duration)?PerJob", word) is not None
    if per_job or "WallDuration" in word:
        return Reason(
            f"it asks for more {what} than {owner} allows one job ({word}): it will never start as it is",
            "cancel it and submit again with less, or with another account or QOS",
        )
    return Reason(
        f"{who} have reached the limit of {what} of {owner} ({word})", "it starts when some of those jobs end; " + _ADMIN
    )
