"""Which commands ``--remote`` takes, which it refuses, and which stay here."""

from __future__ import annotations

import pytest

from hpctrain.cli.main import COMMANDS, THERE, invoke

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


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SENT))
def test_other_commands_say_that_they_do_not_go(name, capsys):
    """A command that is not sent is refused with what to do instead, before anything else happens."""
    if COMMANDS[name].remote == THERE:
        pytest.skip("it is sent")
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


def test_help_needs_no_connection(capsys):
    """--help of a command that would be sent is printed here."""
    assert invoke(["--remote", "alice@nowhere.invalid", "logs", "--help"]) == 0
    assert "--follow" in capsys.readouterr().out
