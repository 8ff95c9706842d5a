"""Which commands ``--remote`` takes, which it refuses, and which stay here."""

from __future__ import annotations

import time

import pytest

from hpctrain.cli.main import COMMANDS, THERE, invoke
from hpctrain.fleet.remote_frames import Reader, hello
from hpctrain.fleet.remote_link import Link
from hpctrain.testing.run_builder import RunBuilder

SENT = {"submit", "list", "describe", "logs", "events", "why", "report", "cancel"}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """A configuration of this test alone, and no host that could be reached."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "hpctrain").mkdir()


def test_daily_commands_go_there():
    """At least the commands that this is for are marked so."""
    assert SENT <= {name for name, entry in COMMANDS.items() if entry.remote == THERE}


@pytest.mark.parametrize("name", sorted(name for name, entry in COMMANDS.items() if entry.remote != THERE))
def test_other_commands_say_that_they_do_not_go(name, capsys):
    """A command that is not sent is refused with what to do instead, before anything else happens."""
    assert invoke(["--remote", "alice@nowhere.invalid", name]) == 2
    assert f"'hpctrain {name}' does not work with --remote" in capsys.readouterr().err


def test_variable_leaves_local_commands_alone(monkeypatch, capsys):
    """With HPCTRAIN_REMOTE what needs no cluster runs here, and what would ask the wrong cluster is refused."""
    monkeypatch.setenv("HPCTRAIN_REMOTE", "alice@nowhere.invalid")
    assert invoke(["recipes", "list"]) == 0
    assert invoke(["checkpoints", "list", "latest"]) == 2
    assert "HPCTRAIN_REMOTE" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--remote", "here"]])
def test_here_is_here(arguments, capsys, monkeypatch):
    """Without the option, and with 'here', nothing is asked of another machine, whatever the variable says."""
    if arguments:
        monkeypatch.setenv("HPCTRAIN_REMOTE", "alice@nowhere.invalid")
    assert invoke([*arguments, "list", "-o", "json"]) == 0
    assert '"runs": []' in capsys.readouterr().out


def test_default_of_the_settings_counts(tmp_path, capsys):
    """A default profile is used when nothing is said: here one whose host cannot be a host."""
    (tmp_path / "hpctrain/config.toml").write_text('[remote]\ndefault = "lab"\n[remote.lab]\nhost = "a b"\n')
    assert invoke(["list"]) == 2
    assert "'a b' is no host to connect to" in capsys.readouterr().err
    assert invoke(["--remote", "here", "list", "-o", "json"]) == 0


def test_what_a_default_does_not_send_says_so(tmp_path, capsys):
    """With a default profile a command that is not sent runs here, and does not let anybody believe otherwise."""
    (tmp_path / "hpctrain/config.toml").write_text('[remote]\ndefault = "lab"\n[remote.lab]\n')
    assert invoke(["checkpoints", "list", "nothing"]) == 4
    assert "note: 'hpctrain checkpoints' is not sent to lab: it runs on this machine" in capsys.readouterr().err
    assert invoke(["recipes", "list"]) == 0
    assert "note" not in capsys.readouterr().err


def test_help_needs_no_connection(capsys):
    """--help of a command that would be sent is printed here."""
    assert invoke(["--remote", "alice@nowhere.invalid", "logs", "--help"]) == 0
    assert "--follow" in capsys.readouterr().out


def over_a_link(argv: list[str], **at: object) -> tuple[str, str, dict]:
    """What a command that runs for somebody elsewhere sends back: output, messages, and its position at the end."""
    reader, frames = Reader(), []
    reader.feed(hello("1"))
    link = Link(lambda data: frames.extend(reader.feed(data)), at=dict(at) or None, now=time.time())
    with link.in_place_of_the_terminal({}):
        code = invoke(argv, link=link)
    link.end(code)
    assert frames[-1]["exit"] == 0
    items = [item for frame in frames for item in frame.get("items", ())]
    return *("".join(text for stream, text in items if stream == number) for number in (1, 2)), link.at


@pytest.fixture
def ended_run(tmp_path):
    """A run of two hours ago, whose last minutes are in its log and its events."""
    then = time.time() - 7200
    builder = RunBuilder(tmp_path / "runs", "old-1", job_id=4, submitted=then)
    builder.log(0, "n1", [(then + 60 * minute, f"minute {minute}") for minute in range(20)])
    for minute in range(20):
        builder.event(then + 60 * minute, "trainer", "checkpoint.saved", f"minute {minute}", step=minute)
    builder.event(then + 1200, "coordinator", "job.finished")
    return builder


@pytest.mark.parametrize("command", [
    ["logs", "-f", "--since", "10m"], ["events", "-f", "--since", "10m", "--kind", "checkpoint"],
])
def test_ages_count_from_the_first_connection(command, ended_run):
    """After a long break '--since 10m' means the ten minutes before the command was typed, not those before now."""
    out, _, at = over_a_link([*command, "old-1"], now=ended_run.run.submitted_time + 1201)
    assert [line.split("minute ")[1].strip() for line in out.splitlines() if "minute " in line] == [
        str(minute) for minute in range(11, 20)
    ]
    assert (at["run"], at["job"]) == ("old-1", 4)


@pytest.mark.parametrize("command", ["logs", "events"])
def test_latest_stays_the_run_that_was_followed(command, ended_run, tmp_path):
    """A run that was submitted during the break is not what a connection that comes back goes on with."""
    _, _, at = over_a_link([command, "-f", "latest"])
    RunBuilder(tmp_path / "runs", "new-1", job_id=5, submitted=time.time()).event(time.time(), "coordinator", "job.finished")
    again, told, _ = over_a_link([command, "-f", "latest"], **at)
    assert again == "" and "old-1" in told and "new-1" not in told
