"""A real OpenSSH server on a loopback port, run by the user who runs the tests, with keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from hpctrain import process
from hpctrain.fleet.target import SshTarget

SSHD = "/usr/sbin/sshd"
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
MaxStartups 200
MaxSessions 64
LogLevel VERBOSE
"""


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> str:
    """A new key pair; its public line."""
    made = process.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)], timeout_s=60,
    )
    assert made.ok, made.stderr
    return path.with_suffix(".pub").read_text().strip()


@dataclass
class SshServer:
    """The server and the files it reads.

    Attributes:
        home: the server's directory; ``authorized_keys`` in it says who may log in.
        host_key: the public line of its key.
        user: who may log in: the one who runs the tests.
    """

    home: Path
    port: int
    host_key: str
    process: process.Popen[bytes]
    user: str

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.home / "log").read_text(errors="replace")

    def known(self, name: str = "") -> str:
        """The known_hosts line for it, by its address or another name."""
        kind, key = self.host_key.split()[:2]
        return f"{name or f'[127.0.0.1]:{self.port}'} {kind} {key}\n"

    def freeze(self) -> None:
        """Stop it and its connections: the kernel still takes what is sent, and nobody answers."""
        for pid in (self.process.pid, *self.sessions()):
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        for pid in (self.process.pid, *self.sessions()):
            _signal(pid, signal.SIGCONT)

    def sessions(self) -> list[int]:
        """Process ids of the server's processes for its connections: how many there are to each depends on its version."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                before, _, after = stat.read_text().rpartition(")")
                if before.partition("(")[2].startswith("sshd"):
                    parents.setdefault(int(after.split()[1]), []).append(int(stat.parent.name))
        found, todo = [], [self.process.pid]
        while todo:
            children = parents.get(todo.pop(), [])
            found += children
            todo += children
        return found

    def drop_connections(self) -> None:
        """End every connection as a network that breaks does, and keep on listening."""
        for pid in self.sessions():
            _signal(pid, signal.SIGKILL)

    def start(self) -> None:
        """Start it again after :meth:`stop`, on the same port."""
        self.process = _launch(self.home)
        assert _answers(self.port, self.process), self.log

    def stop(self) -> None:
        """End it and all connections."""
        if self.process.poll() is not None:
            return
        for pid in self.sessions():
            _signal(pid, signal.SIGKILL)
        process.kill_group(self.process)
        self.process.wait()


@dataclass(frozen=True)
class Client:
    """Our side: a key, and the hosts that we know."""

    home: Path
    key: Path
    public: str

    @property
    def known_hosts(self) -> Path:
        """The file of host keys."""
        return self.home / ".ssh/known_hosts"

    def target(self, server: SshServer, name: str = "node") -> SshTarget:
        """The server, with our key and the hosts that we know."""
        return SshTarget(
            "127.0.0.1", server.user, server.port, (str(self.key),), known_hosts=(str(self.known_hosts),), name=name,
        )


def start_ssh_server(home: Path, authorized: str) -> SshServer:
    """Start a server that lets one key in; ready when this returns."""
    home.mkdir(mode=0o700, exist_ok=True)
    host_key = make_key(home / "host_key")
    (home / "authorized_keys").write_text(authorized + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # root's sshd wants it; the package's own unit makes it
    for _ in range(5):
        port = _free_port()
        (home / "sshd_config").write_text(_CONFIG.format(port=port, home=home))
        server = _launch(home)
        if _answers(port, server):
            return SshServer(home, port, host_key, server, getpass.getuser())
        process.kill_group(server)
        server.wait()
    raise AssertionError((home / "log").read_text())


def _launch(home: Path) -> process.Popen[bytes]:
    with (home / "log").open("ab") as log:
        return process.start([SSHD, "-D", "-e", "-f", str(home / "sshd_config")], stdout=log, stderr=log)


def _answers(port: int, server: process.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                return line.recv(4) == b"SSH-"
        except OSError:
            time.sleep(0.02)
    return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
