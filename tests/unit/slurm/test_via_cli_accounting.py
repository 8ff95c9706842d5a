"""The adapter asks the database once, for what was wanted, and tells "there is none" from "it is down"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpctrain.errors import AccountingDownError, NoAccountingError, SlurmError
from hpctrain.ids import JobId
from hpctrain.process import Result
from hpctrain.slurm.accounting import AccountingQuery
from hpctrain.slurm.parse_accounting import COLUMNS
from hpctrain.slurm.via_cli import SlurmCli
from hpctrain.testing.fake_clock import FakeClock
from tests.unit.slurm.replay import HUNG, Replay, answer, refused

GOLDEN = Path(__file__).parents[2] / "golden/slurm"
DOWN = (
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:db:6819: Connection"
    " refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused"
)
GONE = (
    "sacct: error: slurm_get_port: Address family '0' not supported\n"
    "sacct: error: Error connecting, bad data: family = 0, port = 0\nsacct: error: Sending PersistInit msg: No error\n"
    "sacct: error: DBD_GET_JOBS_COND failure: Unspecified error"
)
"""26.05, when the host of slurmdbd is switched off and its name is not known any more."""
COMPLAINTS = ("disabled", "down", "no-database", "no-such-user", "nothing")


def recorded(path: Path) -> Result:
    """What sacct left behind when it was recorded."""
    found = re.fullmatch(r"rc=(\d+)\n--- stdout\n(.*)--- stderr\n(.*)", path.read_text(), re.S)
    assert found is not None
    return answer(found[2], stderr=found[3], rc=int(found[1]))


def adapter(runner: Replay) -> SlurmCli:
    """Timeout of 8 s, and no patience."""
    return SlurmCli({"PATH": "/usr/bin"}, timeout_s=8.0, retries=3, clock=FakeClock(), runner=runner, uid=1234)


def asked(query: AccountingQuery) -> list[str]:
    """The arguments that a query becomes."""
    runner = Replay([answer()])
    assert adapter(runner).accounting(query) == []
    assert runner.programs == ["sacct"]
    return runner.calls[0].argv[1:]


def test_one_call_with_every_attempt_and_no_step() -> None:
    """Duplicates are attempts; times are epochs, so that no time zone matters; the answer is never JSON."""
    arguments = asked(AccountingQuery(since=1_800_000_000.7, until=1_800_000_100.2))
    assert {"--duplicates", "--allocations", "--noheader", "--noconvert", "--parsable"} <= set(arguments)
    assert "--starttime=uts1800000000" in arguments
    assert "--endtime=uts1800000101" in arguments
    assert f"--format={','.join(COLUMNS)}" in arguments
    assert "--user=1234" in arguments
    assert not any("json" in argument for argument in arguments)


@pytest.mark.parametrize(
    ("query", "there", "absent"),
    [
        (AccountingQuery(), ["--starttime=uts1000000", "--user=1234"], "--endtime"),
        (AccountingQuery(all_users=True), ["--allusers"], "--user="),
        (AccountingQuery(users=("bob", "eve")), ["--user=bob,eve"], "--allusers"),
        (AccountingQuery(all_users=True, accounts=("a", "b")), ["--allusers", "--accounts=a,b"], "--user="),
        (AccountingQuery(ids=(JobId(7), JobId(9)), all_users=True), ["--jobs=7,9"], "--user="),
    ],
)
def test_query_becomes_options(query: AccountingQuery, there: list[str], absent: str) -> None:
    """Whose, which and where."""
    arguments = asked(query)
    assert set(there) <= set(arguments)
    assert not any(argument.startswith(absent) for argument in arguments)


def test_separator_is_new_in_every_call() -> None:
    """A name that holds the last one is harmless."""
    marks = {next(word for word in asked(AccountingQuery()) if word.startswith("--delimiter=")) for _ in range(4)}
    assert len(marks) == 4


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (refused("Slurm accounting storage is disabled"), NoAccountingError),
        (answer("Slurm accounting storage is disabled", rc=1), NoAccountingError),
        (refused(DOWN), AccountingDownError),
        (answer(stderr=DOWN), AccountingDownError),
        (refused(GONE), AccountingDownError),
        (HUNG, AccountingDownError),
        (refused("sacct: fatal: Invalid user id: nosuch"), SlurmError),
    ],
)
def test_what_is_the_matter_is_told(result: Result, kind: type[SlurmError]) -> None:
    """None, down and refused are three things; nothing is tried twice, since every caller can go on without."""
    runner = Replay([result])
    with pytest.raises(SlurmError) as caught:
        adapter(runner).accounting(AccountingQuery())
    assert type(caught.value) is kind
    assert len(runner.calls) == 1
    assert "\n" not in caught.value.message
    assert runner.calls[0].timeout_s == 24.0


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/accounting/*.txt")), ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_recorded_complaints(path: Path) -> None:
    """What each version says when there is no accounting, no slurmdbd, no database behind it, no such user, no such job."""
    if path.stem not in COMPLAINTS:
        return
    runner = Replay([recorded(path)])
    expected = {"disabled": NoAccountingError, "down": AccountingDownError, "no-database": AccountingDownError}
    if path.stem == "nothing":
        assert adapter(runner).accounting(AccountingQuery()) == []
        return
    with pytest.raises(SlurmError) as caught:
        adapter(runner).accounting(AccountingQuery())
    wanted = expected.get(path.stem)
    assert type(caught.value) is (wanted or SlurmError)


def test_answer_that_does_not_parse_is_an_error() -> None:
    """A torn answer is told, not taken for fewer jobs."""
    with pytest.raises(SlurmError, match="does not parse"):
        adapter(Replay([answer("7~x~")])).accounting(AccountingQuery())
