"""Slurm's complaints become typed errors with advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.errors import (
    JobStateError,
    NoSuchJobError,
    NoSuchNodeError,
    NotPermittedError,
    SlurmError,
    SlurmMissingError,
)
from hpctrain.slurm import refusal

GOLDEN = Path(__file__).parents[2] / "golden/slurm"
SILENT = "cancel-of-unknown-job"
"""The only refusal that Slurm does not mention."""
RECORDED = [path for path in sorted(GOLDEN.glob("*/errors/*.txt")) if path.stem != SILENT]
SBATCH = "sbatch: error: Batch job submission failed: "
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
KINDS = {
    "change-of-ended-job": JobStateError, "change-of-running-job": JobStateError, "change-of-unknown-job": NoSuchJobError,
    "hold-of-ended-job": JobStateError, "hold-of-unknown-job": NoSuchJobError, "requeue-of-pending-job": JobStateError,
    "requeue-of-unknown-job": NoSuchJobError, "list-of-unknown-job": NoSuchJobError,
    "show-of-unknown-node": NoSuchNodeError, "drain-of-unknown-node": NoSuchNodeError,
    "drain-without-reason": SlurmError, "drain-by-ordinary-user": NotPermittedError,
    "cancel-by-other-user": NotPermittedError, "hold-by-other-user": NotPermittedError,
    "requeue-by-other-user": NotPermittedError, "submit-to-unknown-partition": SlurmError,
    "submit-with-too-many-gpus": SlurmError, "submit-with-unknown-feature": SlurmError,
    "submit-with-unknown-reservation": SlurmError, "submit-of-no-script": SlurmError,
}  # fmt: skip


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_recorded_complaints_get_their_type(path: Path) -> None:
    """Each recorded text maps to one class; those of a silent controller are told apart first."""
    text = path.read_text()
    if path.stem.startswith("down-"):
        assert refusal.unreachable(text)
        return
    assert not refusal.unreachable(text)
    error = refusal.explain(text, "cannot do it")
    assert type(error) is KINDS[path.stem]
    assert error.message.startswith("cannot do it: ")
    assert "\n" not in error.message
    assert "error:" not in error.message


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/exit-codes.txt")), ids=lambda path: path.parent.name)
def test_recorded_exit_codes_tell_nothing(path: Path) -> None:
    """All refusals exit alike, whatever they are; cancelling a job that does not exist is a success without a word."""
    codes = dict(line.split() for line in path.read_text().splitlines())
    assert set(codes) == {error.stem for error in path.parent.glob("errors/*.txt")}
    assert {name for name, code in codes.items() if code == "0"} == {SILENT}
    assert (path.parent / f"errors/{SILENT}.txt").read_text() == ""
    assert {code for name, code in codes.items() if not name.startswith(("cancel", "down"))} == {"1"}


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        (SBATCH + "Invalid account or account/partition combination specified", SlurmError, "resources.account"),
        (SBATCH + "Invalid qos specification", SlurmError, "resources.qos"),
        (SBATCH + "Requested time limit is invalid (missing or exceeds some limit)", SlurmError, "less time"),
        (SBATCH + POLICY, SlurmError, "sacctmgr"),
        (SBATCH + "User's group not permitted to use this partition", NotPermittedError, "partition"),
        (SBATCH + "Node count specification invalid", SlurmError, "fewer nodes"),
        (SBATCH + "I/O error writing script/environment to file", SlurmError, "administrator"),
        ("squeue: error: s_p_parse_file: cannot stat file /nope: No such file", SlurmMissingError, "SLURM_CONF"),
        ("sbatch: error: Munge encode failed: Failed to access \"/run/munge/munge.socket.2\"", SlurmError, "munged"),
        ("Requested operation is presently disabled for job 7", JobStateError, "state"),
        ("slurm_update error: Access/permission denied", NotPermittedError, "administrator"),
    ],
)  # fmt: skip
def test_known_complaints_carry_advice(text: str, kind: type[SlurmError], advice: str) -> None:
    """What to do is said where it is known."""
    error = refusal.explain(text, "refused")
    assert type(error) is kind
    assert advice in error.advice


def test_unknown_complaint_is_passed_on() -> None:
    """A text of a later Slurm is shown as it is."""
    assert str(refusal.explain("sbatch: error: Flux capacitor missing\n", "refused")) == "refused: Flux capacitor missing"
    assert str(refusal.explain("", "refused")) == "refused: Slurm did not say why"


def test_repetitions_are_said_once() -> None:
    """Slurm often says the same twice."""
    text = "Invalid user id for job 16\nslurm_suspend error: Invalid user id\n*****\n"
    assert refusal.in_slurms_words(text) == "Invalid user id for job 16"


@pytest.mark.parametrize("text", ["Socket timed out on send/recv operation", "Zero Bytes were transmitted or received"])
def test_lost_answers_may_have_arrived(text: str) -> None:
    """After such a failure nobody knows whether Slurm did it."""
    assert refusal.unreachable(text)
    assert not refusal.never_arrived(text)


def test_refused_connections_never_arrived() -> None:
    """A connection that was refused carried nothing."""
    assert refusal.never_arrived("Unable to contact slurm controller (connect failure)")
