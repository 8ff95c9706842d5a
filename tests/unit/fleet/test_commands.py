"""``hpctrain fleet`` against real SSH servers: five names, of which one is broken in one way or another."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.cli.main import invoke
from tests.ssh_server import Client, SshServer

LONG_S = 60.0


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Run one command with ``-o json``: exit code, what is in its document, its messages."""
    code = invoke(["fleet", *arguments])
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    return code, document[document["kind"]], printed.err


@pytest.fixture
def one_down(hosts: tuple[str, ...], client: Client) -> tuple[str, ...]:
    """The five hosts, of which n3 does not listen."""
    config = client.home / ".ssh/config"
    config.write_text("Host n3\n  Port 1\n" + config.read_text())
    return hosts


# ---------------------------------------------------------------- run


def test_equal_outputs_are_folded_and_failures_named(
    one_down: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four of five answer alike and are shown once; the fifth is named with its reason, and the exit code says so."""
    code = invoke(["fleet", "run", "-w", "n[1-5]", "--", "sh", "-c", "printf 'a\\nb\\n'; echo careful >&2"])
    printed = capsys.readouterr()

    assert 18 == code
    assert "--- n[1-2,4-5] (4)\na\nb\n" == printed.out
    assert "careful\n" in printed.err
    assert "n3: no connection to n3 (127.0.0.1 port 1): Connection refused" in printed.err
    assert "error: 1 of 5 hosts failed: n3\n" in printed.err


def test_each_host_has_its_own_outcome(hosts: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit codes and bytes that are no UTF-8 are told per host; a command's failure fails the whole."""
    script = f'mkdir "{tmp_path}/first" 2>/dev/null && exit 3; printf "\\377x"'
    code, records, _ = run_json(capsys, "run", "-w", "n[1-5]", "-o", "json", "--", "sh", "-c", script)

    assert 18 == code
    assert list(hosts) == [record["host"] for record in records]
    assert [0, 0, 0, 0, 3] == sorted(record["returncode"] for record in records)
    assert 4 == sum(record["stdout"] == "\ufffdx" for record in records)


def test_words_arrive_as_they_are(hosts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Blanks, quotes, variables and options of the command are not ours to understand."""
    words = ["a  b", "it's", "$HOME", "--parallel", "*", "-o"]
    code, records, _ = run_json(capsys, "run", "-w", "n1", "-o", "json", "printf", "%s\n", *words)

    assert (0, "\n".join(words) + "\n") == (code, records[0]["stdout"])


def test_a_host_that_takes_too_long_is_ended(hosts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Its command is ended there when its time is over, and that is its error."""
    marker = f"{os.getpid()}.25"
    code, records, _ = run_json(capsys, "run", "-w", "n[1-2]", "--timeout", "1", "-o", "json", "--", "sleep", marker)

    assert 18 == code
    assert ["RemoteTimeoutError"] * 2 == [record["error"]["kind"] for record in records]
    assert not process.run(["pgrep", "-f", f"^sleep {marker}"], timeout_s=LONG_S).stdout


def test_a_host_that_hangs_delays_no_other(
    hosts: tuple[str, ...], client: Client, own_server: SshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A frozen server is given up after its connect timeout; the others have answered."""
    config = client.home / ".ssh/config"
    config.write_text(f"Host n2\n  Port {own_server.port}\n" + config.read_text())
    own_server.freeze()

    code, records, _ = run_json(capsys, "run", "-w", "n[1-3]", "--connect-timeout", "2", "-o", "json", "--", "echo", "x")

    assert 18 == code
    kinds = [record["error"] and record["error"]["kind"] for record in records]
    assert [None, "RemoteTimeoutError", None] == kinds


def test_an_unknown_host_key_is_an_error_of_its_host(
    hosts: tuple[str, ...], client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is sent to it; hosts with the same error are told together, with the hint."""
    client.known_hosts.write_text("")
    code = invoke(["fleet", "run", "-w", "n[1-2]", "--", "true"])
    printed = capsys.readouterr()

    assert 18 == code
    assert "n[1-2]: the key of n[1-2] (ssh-ed25519 SHA256:" in printed.err
    assert "hint: compare the fingerprint" in printed.err


def test_one_connection_to_a_gate_serves_all_hosts(
    client: Client, own_server: SshServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty hosts behind a gate: the gate is logged in to once, and its sshd's limit on new connections never met."""
    client.known_hosts.write_text(own_server.known())
    place = f"  HostName 127.0.0.1\n  Port {own_server.port}\n"
    (client.home / ".ssh/config").write_text(f"Host gate\n{place}Host n*\n{place}  ProxyJump gate\n")

    code, records, _ = run_json(capsys, "run", "-w", "n[1-20]", "-o", "json", "--", "echo", "x")

    assert (0, {"x\n"}, 20) == (code, {record["stdout"] for record in records}, len(records))
    assert 21 == own_server.log.count("Accepted publickey for")


def test_a_dry_run_connects_to_nobody(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what would be done, on hosts that need not exist."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("x")

    assert 0 == invoke(["fleet", "run", "-w", "x[1-3]", "--dry-run", "--", "rm", "a b"])
    assert 0 == invoke(["fleet", "push", "-w", "x1", "--dry-run", str(tmp_path / "file"), "/d/"])
    assert 0 == invoke(["fleet", "collect", "-w", "x1", "--dry-run", "--out", str(tmp_path)])
    printed = capsys.readouterr().out

    assert "would run 'rm 'a b'' on 3 hosts: x[1-3]" in printed
    assert "/d/file" in printed
    assert "kernel/dmesg.txt" in printed


def test_ctrl_c_ends_everything(hosts: tuple[str, ...], client: Client, tmp_path: Path) -> None:
    """The exit code is 130, the hosts that were not done are named, and there is no traceback."""
    began = tmp_path / "began"
    started = process.start(
        [sys.executable, "-m", "hpctrain", "fleet", "run", "-w", "n[1-2]", "--timeout", "600", "--",
         "sh", "-c", f"echo >'{began}'; sleep 30"],
        stdout=process.PIPE, stderr=process.PIPE, env={**os.environ, "HOME": str(client.home)},
    )
    _wait(began.exists)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=LONG_S)

    assert 130 == started.returncode
    assert b"interrupted; not done on n[1-2]" in err
    assert b"Traceback" not in err


def test_sudo_that_refuses_is_said(
    hosts: tuple[str, ...], own_server: SshServer, client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What sudo says of a user who may not is one clear error for every command."""
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    (shims / "sudo").chmod(0o755)
    config = own_server.home / "sshd_config"
    own_server.stop()
    config.write_text(config.read_text() + f"SetEnv PATH={shims}:{os.environ['PATH']}\n")
    own_server.start()
    client.known_hosts.write_text(own_server.known())
    (client.home / ".ssh/config").write_text(f"Host n1\n  HostName 127.0.0.1\n  Port {own_server.port}\n")
    (tmp_path / "file").write_text("x")

    for name, *arguments in (("run", "--", "true"), ("push", str(tmp_path / "file"), "/x")):
        assert 18 == invoke(["fleet", name, "-w", "n1", "--sudo", *arguments])
        printed = capsys.readouterr().err
        assert "sudo on n1 refuses: sudo: a password is required" in printed
        assert "NOPASSWD" in printed


# ---------------------------------------------------------------- push


def test_files_are_pushed(one_down: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Content and mode arrive where a host answers; the one that does not is named."""
    (tmp_path / "a").write_bytes(os.urandom(10_000))
    (tmp_path / "a").chmod(0o751)
    (tmp_path / "to").mkdir()

    code, records, _ = run_json(capsys, "push", "-w", "n[2-3]", "-o", "json", str(tmp_path / "a"), f"{tmp_path}/to/")

    assert (18, [1, 0]) == (code, [record["copied"] for record in records])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "to/a").read_bytes()
    assert 0o751 == stat.S_IMODE((tmp_path / "to/a").stat().st_mode)


# ---------------------------------------------------------------- check and install


def test_hosts_are_checked(one_down: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The checks that are sent along judge a host that has nothing of ours; nothing stays there."""
    code, records, err = run_json(capsys, "check", "-w", "n[1,3]", "--python", sys.executable, "-o", "json")
    health = records[0]["health"]

    assert 18 == code
    assert health["checks"] > 40
    assert "level" in health
    assert set(health["daemons"]) == {"slurmd", "munged", "sshd"}
    assert health["daemons"]["sshd"]
    assert "UnreachableError" == records[1]["error"]["kind"]
    assert "of 2 hosts failed, or are to be drained: " in err  # one, or both: this machine may have a fault of its own
    assert not list(Path("/dev/shm").glob("hpctrain-look.*"))


def test_a_python_that_is_not_there_is_said(hosts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The error says which, and which option names another."""
    assert 18 == invoke(["fleet", "check", "-w", "n1", "--python", "/nonexistent/python"])
    assert "there is no /nonexistent/python of version 3.10 or newer: name one with --python" in capsys.readouterr().err


def test_install_status_upgrade_and_rollback(
    hosts: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a host has is told before and after; done twice, nothing is changed; drift has its own exit code."""
    places = ["--root", f"{tmp_path}/root", "--directory", f"{tmp_path}/etc", "--python", sys.executable]
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("settle_s = 1\n")
    two.write_text("settle_s = 2\n")

    def do(*arguments: str) -> tuple[int, Any, str]:
        return run_json(capsys, "install-health", "-w", "n1", *places, "-o", "json", *arguments)

    code, drift, _ = do("--config", str(one), "--status")
    assert (18, ["nothing is installed"]) == (code, drift["hosts"][0]["drift"])
    code, drift, _ = do("--config", str(one), "--dry-run")
    assert (0, False) == (code, (tmp_path / "root").exists())

    code, done, _ = do("--config", str(one))
    assert (0, True, done["version"]) == (code, done["hosts"][0]["changed"], done["hosts"][0]["version"])
    code, again, _ = do("--config", str(one))
    assert (0, False) == (code, again["hosts"][0]["changed"])

    code, drift, err = do("--config", str(two), "--diff")
    assert (18, done["version"]) == (code, drift["hosts"][0]["version"])
    assert '-  "settle_s": 1' in drift["hosts"][0]["diff"]
    assert "not as they should be: n1" in err
    code, new, _ = do("--config", str(two))
    assert (0, done["version"]) == (code, new["hosts"][0]["previous"])
    code, back, _ = do("--rollback")
    assert (0, done["version"]) == (code, back["hosts"][0]["version"])
    assert 0 == do("--config", str(one), "--status")[0]


# ---------------------------------------------------------------- collect

SECRETS = ("hunter2-in-a-log", "tok3n-in-an-option", "swordfish-in-slurm", "AKIA" + "Q7" * 8)


def test_a_bundle_holds_no_secrets(one_down: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Planted secrets are taken out; a key is not read, also not through a link; the host that is down is told."""
    log, link = tmp_path / "site.log", tmp_path / "innocent"
    log.write_text(
        f"connected\nDB_PASSWORD={SECRETS[0]}\nstarted --token {SECRETS[1]} -v\n"
        f"StoragePass={SECRETS[2]}\nid {SECRETS[3]} end\n"
    )
    (tmp_path / "munge").mkdir()
    (tmp_path / "munge/munge.key").write_text("the munge key itself")
    link.symlink_to(tmp_path / "munge/munge.key")
    out = tmp_path / "bundle.tar.gz"

    code, bundle, _ = run_json(
        capsys, "collect", "-w", "n[2-3]", "--out", str(out), "--no-slurm", "--python", sys.executable, "-o", "json",
        "--also", str(log), "--also", str(link), "--also", "/etc/shadow",
    )
    with tarfile.open(out) as tar:
        files = {name.partition("/")[2]: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        modes = {entry.mode for entry in tar.getmembers()}
    everything = b"".join(files.values())
    manifest = json.loads(files["manifest.json"])

    assert 18 == code
    assert bundle["manifest"] == manifest
    assert ({0o600}, 0o600) == (modes, stat.S_IMODE(out.stat().st_mode))
    assert [] == [secret for secret in (*SECRETS, "the munge key itself") if secret.encode() in everything]
    assert b"connected\nDB_PASSWORD=[redacted]\n" in files[f"hosts/n2/also{log}"]
    assert {f"also{link}", "also/etc/shadow"} <= set(manifest["hosts"]["n2"]["missing"])
    assert (4, True) == (manifest["hosts"]["n2"]["redacted"], manifest["hosts"]["n2"]["ok"])
    assert "Connection refused" in manifest["hosts"]["n3"]["error"]
    for name in ("health/recording.json", "system/meminfo.txt", "system/df.txt", "versions/uname.txt"):
        assert files[f"hosts/n2/{name}"]
    assert json.loads(files["hosts/n2/health/recording.json"])["format"] == "hpctrain health recording"


def test_a_bundle_is_bounded_and_overwrites_nothing(
    hosts: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A host's limit holds whatever is asked for, and a file that is there is left alone."""
    (tmp_path / "long").write_bytes(b"x" * 3_000_000)
    out = tmp_path / "bundle.tar.gz"
    also = [word for _ in range(3) for word in ("--also", str(tmp_path / "long"))]

    code, bundle, _ = run_json(
        capsys, "collect", "-w", "n1", "--limit", "1", "--no-slurm", "--out", str(out), "-o", "json",
        "--python", sys.executable, *also,
    )

    assert 0 == code
    assert bundle["manifest"]["hosts"]["n1"]["bytes"] <= 2**20
    assert "left out: the host's limit is reached" in bundle["manifest"]["hosts"]["n1"]["missing"].values()
    assert 9 == invoke(["fleet", "collect", "-w", "n1", "--out", str(out)])
    assert "there already" in capsys.readouterr().err


def test_a_host_that_breaks_off_keeps_what_it_gave(
    client: Client, own_server: SshServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A connection that is cut in the middle: what came before is in the bundle, and the manifest says that it broke off."""
    client.known_hosts.write_text(own_server.known())
    (client.home / ".ssh/config").write_text(f"Host n1\n  HostName 127.0.0.1\n  Port {own_server.port}\n")
    wall = tmp_path / "wall"
    os.mkfifo(wall)  # reading the last of a pipe that nobody writes to does not end
    out = tmp_path / "b.tar.gz"

    def cut() -> None:
        _wait(lambda: bool(process.run(["pgrep", "-f", f"^tail .*{wall}"], timeout_s=LONG_S).stdout))
        own_server.drop_connections()

    cutter = threading.Thread(target=cut)
    cutter.start()
    code, bundle, err = run_json(
        capsys, "collect", "-w", "n1", "--no-slurm", "--out", str(out), "-o", "json", "--python", sys.executable,
        "--also", str(wall),
    )
    cutter.join()
    entry = bundle["manifest"]["hosts"]["n1"]

    assert 18 == code
    assert not entry["ok"]
    assert "broke" in entry["error"]
    assert len(entry["files"]) > 5
    assert "n1" in err


def _wait(true: Any) -> None:
    deadline = time.monotonic() + LONG_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert true()
