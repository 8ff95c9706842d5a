"""``hpctrain doctor`` finds what is broken, says what to do, and its exit code follows from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke
from hpctrain.clock import SystemClock
from hpctrain.doctor import host_checks, slurm_checks
from hpctrain.doctor.finding import Check, healthy
from hpctrain.doctor.read import controller_time, counting_since, read_config, user_requests
from hpctrain.process import Result
from hpctrain.slurm.adapter import choose_adapter
from hpctrain.slurm.commands import Commands
from hpctrain.slurm.pyslurm_helper import Helper

CONFIG = """Configuration data as of {now}
AccountingStorageHost   = db1
AccountingStorageType   = {accounting}
ClusterName             = hal
MailProg                = /bin/mail -s = x
SLURM_VERSION           = 24.11.5
TopologyParam           = (null)
"""
SDIAG = """*******************************************************
sdiag output at Sun Nov 29 12:00:00 2026 (1795953600)
Data since      Sun Nov 29 00:00:00 2026 (1795910400)
*******************************************************

Remote Procedure Call statistics by user
	root            (       0) count:55     ave_time:216    total_time:11917
	alice           (    2001) count:90000  ave_time:1500   total_time:135000000

Pending RPC statistics
	No pending RPCs
"""


class Slurm:
    """Slurm's commands, by name of the program."""

    def __init__(self, **outputs: str) -> None:
        self.outputs = outputs

    def __call__(self, argv, **options) -> Result:  # type: ignore[no-untyped-def] - the shape of process.run
        name = Path(argv[0]).name
        text = self.outputs.get(name)
        return Result(tuple(argv), 0 if text is not None else 1, text or "", "" if text is not None else f"{name}: no")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with programs named like Slurm's; they are never run, but for scontrol, which fails."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel", "sacct", "sdiag"):
        (directory / name).write_text("#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2\nexit 1\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}/bin")
    return directory


def checks(now: float, accounting: str, **outputs: str) -> dict[str, Check]:
    text = CONFIG.format(now=int(now), accounting=accounting)
    commands = Commands({}, retries=0, runner=Slurm(scontrol=text, **outputs))
    return {check.name: check for check in slurm_checks.controller_checks(commands, SystemClock())}


def test_configuration_is_read_line_by_line() -> None:
    """Values may hold anything; Slurm's word for nothing is nothing."""
    found = read_config(CONFIG.format(now=1795953600, accounting="(null)"))

    assert (found["ClusterName"], found["MailProg"], found["TopologyParam"]) == ("hal", "/bin/mail -s = x", "")
    assert controller_time(CONFIG.format(now=1795953600, accounting="")) == 1795953600.0


def test_requests_are_found_by_user() -> None:
    """By number, since a name may be cut off."""
    assert user_requests(SDIAG, 2001) == (90000, 0.0015)
    assert user_requests(SDIAG, 200) is None
    assert counting_since(SDIAG) == 1795910400.0


def test_a_good_controller_is_described(programs: Path) -> None:
    """Version, cluster, clock, accounting."""
    found = checks(SystemClock().time(), "accounting_storage/slurmdbd", sacct="")

    assert healthy(list(found.values()))
    assert "cluster 'hal', Slurm 24.11.5" in found["controller"].text
    assert "db1 answers" in found["accounting"].text
    assert found["controller clock"].status == "ok"
    assert found["requests"].status == "note"


def test_clocks_apart_are_a_problem(programs: Path) -> None:
    """A minute off: events would be told in the wrong order."""
    found = checks(SystemClock().time() - 60, "accounting_storage/none")

    assert found["controller clock"].status == "problem"
    assert "behind" in found["controller clock"].text
    assert "NTP" in found["controller clock"].advice


def test_no_accounting_is_no_problem(programs: Path) -> None:
    """It is said, and that hpctrain works without; a database that is down is told apart."""
    now = SystemClock().time()

    assert "no slurmdbd" in checks(now, "accounting_storage/none")["accounting"].text
    down = checks(now, "accounting_storage/slurmdbd")["accounting"]
    assert (down.status, "sacct: no" in down.text) == ("note", True)


def test_a_silent_controller_is_a_problem(programs: Path) -> None:
    """With what Slurm said."""
    commands = Commands({}, retries=0)
    (found,) = slurm_checks.controller_checks(commands, SystemClock())

    assert found.status == "problem"
    assert "connect failure" in found.text


def test_the_runs_directory_must_be_writable(tmp_path: Path) -> None:
    """One that is not there yet is looked for further up; nothing is left behind."""
    found = host_checks.runs_check(str(tmp_path / "a/b"), SystemClock().time())
    assert healthy(found)
    assert list(tmp_path.iterdir()) == []

    wrong = host_checks.runs_check("/proc/runs", SystemClock().time())
    assert [(check.name, check.status) for check in wrong] == [("runs", "problem")]
    assert "HPCTRAIN_RUNS_DIR" in wrong[0].advice


def test_adapters_are_named_with_the_reason() -> None:
    """What is used, why, and what pyslurm's process says when it cannot start."""
    now, staying = (choose_adapter("auto", long_lived=long, installed=lambda: True) for long in (False, True))
    assert (now.name, staying.name) == ("cli", "pyslurm")
    found = slurm_checks.adapter_checks(now, staying, Helper({}, command=("/nonexistent/python",)))

    assert "asks again and again" in found[1].text
    assert found[2].status == "note"


@pytest.mark.parametrize(("wish", "long_lived", "name"), [("cli", True, "cli"), ("pyslurm", False, "pyslurm")])
def test_a_wish_is_followed(wish: str, long_lived: bool, name: str) -> None:
    """Whatever is installed; only a named pyslurm must work."""
    choice = choose_adapter(wish, long_lived=long_lived, installed=lambda: False)

    assert (choice.name, choice.required) == (name, wish == "pyslurm")


def test_without_pyslurm_nothing_is_started() -> None:
    """The setting auto finds that out without importing anything."""
    choice = choose_adapter("auto", long_lived=True, installed=lambda: False)

    assert (choice.name, choice.why) == ("cli", "pyslurm is not installed")


def test_the_exit_code_tells(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """A controller that does not answer: exit code 1, and the document names the problem and the advice."""
    conf = tmp_path / "slurm.conf"
    conf.touch()
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path))
    assert invoke(["doctor", "-o", "json"]) == 1

    found = json.loads(capsys.readouterr().out)["doctor"]
    assert found["healthy"] is False
    assert found["adapters"]["commands"] == "cli"
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["controller"]["status"] == "problem"
    assert by_name["cluster"]["text"].endswith("SLURM_CONF is set")
    assert all(check["advice"] for check in found["checks"] if check["status"] == "problem")
    assert invoke(["doctor"]) == 1
    assert "problem" in capsys.readouterr().out
