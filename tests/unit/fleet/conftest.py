"""SSH servers for tests of the fleet, and a home directory whose configuration leads to them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh_server import SSHD, Client, SshServer, make_key, start_ssh_server


@pytest.fixture(scope="session")
def keys_home() -> Iterator[Path]:
    """A directory with a short path for the keys of all tests."""
    if not Path(SSHD).exists():
        pytest.skip("not installed: openssh-server")
    path = Path(tempfile.mkdtemp(prefix="hpcs-", dir="/tmp"))
    make_key(path / "id")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def ssh_server(keys_home: Path) -> Iterator[SshServer]:
    """One server for all tests that do it no harm."""
    server = start_ssh_server(keys_home / "server", (keys_home / "id.pub").read_text())
    yield server
    server.stop()


@pytest.fixture
def own_server(keys_home: Path, tmp_path: Path) -> Iterator[SshServer]:
    """A server for one test, which may stop, freeze and end it."""
    server = start_ssh_server(tmp_path / "own", (keys_home / "id.pub").read_text())
    yield server
    server.thaw()
    server.stop()


@pytest.fixture
def client(keys_home: Path, ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A home directory of its own, whose user knows the shared server and has the key for it."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for suffix in ("", ".pub"):
        shutil.copy(keys_home / f"id{suffix}", home / f".ssh/id_ed25519{suffix}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (home / ".ssh/known_hosts").write_text(ssh_server.known())
    return Client(home, home / ".ssh/id_ed25519", (keys_home / "id.pub").read_text())


@pytest.fixture
def hosts(client: Client, ssh_server: SshServer) -> Iterator[tuple[str, ...]]:
    """Five names in the SSH configuration, n1 to n5, that all lead to the shared server."""
    names = tuple(f"n{number}" for number in range(1, 6))
    (client.home / ".ssh/config").write_text(
        "".join(f"Host {name}\n  HostName 127.0.0.1\n  Port {ssh_server.port}\n\n" for name in names)
    )
    yield names

