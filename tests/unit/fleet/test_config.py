"""What is understood of OpenSSH's files: where a connection goes, and which host keys are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.errors import UsageError
from hpctrain.fleet import known_hosts
from hpctrain.fleet.find_target import find_target, read_statements
from hpctrain.fleet.known_hosts import CHANGED, KNOWN, REVOKED, UNKNOWN, judge, keys_of
from hpctrain.fleet.target import Destination, parse_destination

CONFIG = """\
# a comment
Include config.d/*
Host login !loginx
    HostName login.example.org
    User alice
    Port 2222
    IdentityFile ~/.ssh/%r_key
    IdentityFile "/keys/with blank"
    UserKnownHostsFile ~/.ssh/kh1 /kh2
Host n?
    ProxyJump bob@gate:23,login
    HostKeyAlias cluster-nodes
    IdentitiesOnly yes
Host gate
    User=carol
Match user dave host login.example.org
    Port 99
Match exec "touch /tmp/never"
    Port 1
Host *
    User everybody
    IdentityFile ~/.ssh/last
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with a configuration."""
    (tmp_path / ".ssh/config.d").mkdir(parents=True)
    (tmp_path / ".ssh/config").write_text(CONFIG)
    (tmp_path / ".ssh/config.d/a").write_text("Host included\n  HostName 10.0.0.9\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_host_of_the_configuration(home: Path) -> None:
    """HostName, User, Port, IdentityFile with tokens, quotes and several lines, UserKnownHostsFile."""
    target = find_target("login")

    assert ("login.example.org", "alice", 2222) == (target.host, target.user, target.port)
    assert (f"{home}/.ssh/alice_key", "/keys/with blank", f"{home}/.ssh/last") == target.identity_files
    assert (f"{home}/.ssh/kh1", "/kh2", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2") == target.known_hosts
    assert "[login.example.org]:2222" == target.known_as
    assert "login" == target.label


def test_what_is_typed_wins(home: Path) -> None:
    """User and port of the command line come before the configuration's; a Match looks at the user."""
    assert ("erin", 17) == ((typed := find_target("erin@login:17")).user, typed.port)
    assert ("frank", 2222) == ((other := find_target("login", user="frank")).user, other.port)
    assert 2222 == find_target("dave@login").port  # the first value found counts


def test_jump_hosts(home: Path) -> None:
    """ProxyJump leads through each host in turn, with the settings of each; HostKeyAlias names the key."""
    target = find_target("n1")

    assert [("gate", "bob", 23), ("login.example.org", "alice", 2222)] == [(j.host, j.user, j.port) for j in target.jump]
    assert all(not hop.jump for hop in target.jump)
    assert ("cluster-nodes", True) == (target.known_as, target.only_identities)


def test_included_files_and_patterns(home: Path) -> None:
    """Include reads files beside the configuration; a pattern with ``!`` leaves a host out; a command is never run."""
    assert "10.0.0.9" == find_target("included").host
    assert ("loginx", "everybody", 22) == ((target := find_target("loginx")).host, target.user, target.port)
    assert not Path("/tmp/never").exists()


def test_without_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSH's usual keys and files serve."""
    monkeypatch.setenv("HOME", str(tmp_path))
    target = find_target("root@[::1]:2022", statements=[])

    assert ("::1", "root", 2022, "[::1]:2022") == (target.host, target.user, target.port, target.known_as)
    assert f"{tmp_path}/.ssh/id_ed25519" in target.identity_files
    assert "/etc/ssh/ssh_known_hosts" in target.known_hosts


@pytest.mark.parametrize("text", ["", "-oProxyCommand=x", "a b", "user@", "@host", "host:port", "host:99999", "a;b@host"])
def test_what_is_no_host(text: str) -> None:
    """Options, blanks, empty parts and characters that no name has are refused."""
    assert Destination("h") == parse_destination(" h\n")
    with pytest.raises(UsageError):
        parse_destination(text)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("Host a\n  ProxyCommand nc %h %p\n", "ProxyCommand"),
        ("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n", "more than 8"),
        ("Host a\n  Port many\n", "port"),
        ('Host a\n  IdentityFile "open\n', ":2"),
        ("nonsense\n", "nonsense"),
        ("Include loop\n", "deep"),
    ],
)
def test_configurations_that_cannot_be_used(config: str, words: str, home: Path) -> None:
    """What is not supported is refused by name, not passed over: a connection must not go another way."""
    (home / ".ssh/config").write_text(config)
    (home / ".ssh/loop").write_text("Include loop\n")

    with pytest.raises(UsageError, match=words):
        find_target("a")


def test_openssh_agrees(home: Path) -> None:
    """OpenSSH itself resolves the same host, user and port from this configuration."""
    (home / ".ssh/config").write_text(CONFIG.replace('Match exec "touch /tmp/never"\n    Port 1\n', "").replace(
        "Include config.d/*", f"Include {home}/.ssh/config.d/*"))
    for name in ("login", "loginx", "n1", "gate", "included", "other", "dave@login"):
        said = process.run(["ssh", "-G", "-F", str(home / ".ssh/config"), name], timeout_s=60)
        if not said.ok:
            pytest.skip(f"ssh -G: {said.stderr}")
        theirs = dict(line.split(" ", 1) for line in said.stdout.splitlines() if " " in line)
        ours = find_target(name, statements=read_statements(home / ".ssh/config"))

        assert (theirs["hostname"], theirs["user"], theirs["port"]) == (ours.host, ours.user, str(ours.port)), name


# ---------------------------------------------------------------- known_hosts

FILE = """\
# comment
node,10.0.0.1 ssh-ed25519 AAAA1
[node]:2222 ssh-ed25519 AAAA2
*.example.org,!bad.example.org ssh-rsa AAAA3
@revoked * ssh-ed25519 AAAA9
@cert-authority *.ca ssh-rsa AAAA8
broken
"""


@pytest.mark.parametrize(
    ("name", "kind", "key", "state", "where"),
    [
        ("node", "ssh-ed25519", "AAAA1", KNOWN, "f:2"),
        ("NODE", "ssh-ed25519", "AAAA1", KNOWN, "f:2"),
        ("10.0.0.1", "ssh-ed25519", "AAAA1", KNOWN, "f:2"),
        ("node", "ssh-ed25519", "AAAA2", CHANGED, "f:2"),
        ("[node]:2222", "ssh-ed25519", "AAAA2", KNOWN, "f:3"),
        ("node", "ssh-rsa", "AAAA1x", UNKNOWN, ""),
        ("a.example.org", "ssh-rsa", "AAAA3", KNOWN, "f:4"),
        ("bad.example.org", "ssh-rsa", "AAAA3", UNKNOWN, ""),
        ("node", "ssh-ed25519", "AAAA9", REVOKED, "f:5"),
        ("x.ca", "ssh-rsa", "AAAA8", UNKNOWN, ""),
        ("other", "ssh-ed25519", "AAAA1", UNKNOWN, ""),
    ],
)
def test_known_hosts(name: str, kind: str, key: str, state: str, where: str) -> None:
    """Names, patterns, ports, exceptions and revoked keys mean what they mean to OpenSSH."""
    answer = judge(keys_of(name, [("f", FILE)]), kind, key)

    assert (state, where) == (answer.state, answer.where)


def test_a_damaged_hash_is_no_match() -> None:
    """A hashed name that is cut off matches nothing, and stops nothing."""
    assert () == keys_of("node", [("f", "|1|abc ssh-rsa A\n|1|a|b|c ssh-rsa A\n|1|%%|%% ssh-rsa A\n")])


def test_fingerprints_are_those_of_ssh_keygen() -> None:
    """The form is the one that people compare."""
    assert known_hosts.fingerprint(b"x").startswith("SHA256:LXEWQrcmsEQB")
