"""Connections to a real OpenSSH server: host keys, our keys, commands, files, and everything that goes wrong with them."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.errors import (
    AuthenticationError,
    HostKeyError,
    MissingDependencyError,
    NotFoundError,
    RemoteTimeoutError,
    StopRequested,
    StorageError,
    UnreachableError,
)
from hpctrain.fleet.session import _PUT
from hpctrain.fleet.ssh import Keys, SshSession, connect
from tests.ssh_server import Client, SshServer, make_key

LONG_S = 60.0


@pytest.fixture
def session(client: Client, ssh_server: SshServer) -> SshSession:
    """An open connection; closed by the tests that use it, or with the process."""
    return connect(client.target(ssh_server), timeout_s=LONG_S)


# ---------------------------------------------------------------- host keys


def test_a_known_host_is_connected_to(client: Client, ssh_server: SshServer) -> None:
    """With its key in known_hosts and ours in authorized_keys, a command runs there."""
    with connect(client.target(ssh_server), timeout_s=LONG_S) as session:
        done = session.run(["echo", "a  b", "$HOME", "it's"], timeout_s=LONG_S)

    assert (0, b"a  b $HOME it's\n") == (done.returncode, done.stdout)


def test_a_hashed_entry_is_known(client: Client, ssh_server: SshServer) -> None:
    """A known_hosts file whose names are hashed, as Debian's default has it, serves as well."""
    assert process.run(["ssh-keygen", "-q", "-H", "-f", str(client.known_hosts)], timeout_s=LONG_S).ok
    assert "127.0.0.1" not in client.known_hosts.read_text()

    with connect(client.target(ssh_server), timeout_s=LONG_S) as session:
        assert session.run(["true"], timeout_s=LONG_S).ok


def test_an_unknown_host_is_refused_and_not_added(client: Client, ssh_server: SshServer) -> None:
    """The error has the fingerprint and says what to do; known_hosts stays as it was."""
    client.known_hosts.write_text("")

    with pytest.raises(HostKeyError) as caught:
        connect(client.target(ssh_server), timeout_s=LONG_S)

    shown = process.run(["ssh-keygen", "-l", "-f", str(ssh_server.home / "host_key.pub")], timeout_s=LONG_S).stdout
    assert shown.split()[1] in str(caught.value)
    assert "is not known" in str(caught.value)
    assert "ssh-keyscan" in caught.value.advice
    assert "" == client.known_hosts.read_text()


def test_a_changed_host_key_is_refused(client: Client, ssh_server: SshServer, tmp_path: Path) -> None:
    """Another key of the same kind under this name is an alarm that names the line."""
    other = make_key(tmp_path / "other").split()
    client.known_hosts.write_text(f"# comment\n[127.0.0.1]:{ssh_server.port} {other[0]} {other[1]}\n")

    with pytest.raises(HostKeyError) as caught:
        connect(client.target(ssh_server), timeout_s=LONG_S)

    assert f"{client.known_hosts}:2" == caught.value.where
    assert "another key" in caught.value.message
    assert "ssh-keygen -R" in caught.value.advice


def test_a_revoked_host_key_is_refused(client: Client, ssh_server: SshServer) -> None:
    """A key that is marked as revoked is not accepted, although it is also listed as known."""
    client.known_hosts.write_text(ssh_server.known() + "@revoked " + ssh_server.known("*"))

    with pytest.raises(HostKeyError, match="revoked"):
        connect(client.target(ssh_server), timeout_s=LONG_S)


# ---------------------------------------------------------------- our keys


def test_a_key_that_is_not_authorized_is_refused(client: Client, ssh_server: SshServer, tmp_path: Path) -> None:
    """The error names the key that was shown, and no password is asked for."""
    make_key(tmp_path / "stranger")

    with pytest.raises(AuthenticationError, match=r"refused .*stranger"):
        connect(replace(client.target(ssh_server), identity_files=(str(tmp_path / "stranger"),)), timeout_s=LONG_S)


def test_no_key_at_all_is_said(client: Client, ssh_server: SshServer, tmp_path: Path) -> None:
    """Without a key there is nothing to show, and the error says so."""
    with pytest.raises(AuthenticationError, match="no key to show"):
        connect(replace(client.target(ssh_server), identity_files=(str(tmp_path / "none"),)), timeout_s=LONG_S)


def test_a_key_that_others_may_read_is_not_used(client: Client, ssh_server: SshServer) -> None:
    """As with OpenSSH, it is left out, and the error says how to mend it."""
    client.key.chmod(0o644)

    with pytest.raises(AuthenticationError, match="chmod 600"):
        connect(client.target(ssh_server), timeout_s=LONG_S)


def test_an_encrypted_key_is_asked_for_once(client: Client, own_server: SshServer, tmp_path: Path) -> None:
    """The passphrase is asked for once for all connections; without a terminal the error says what to do."""
    public = make_key(tmp_path / "locked", passphrase="open sesame")
    (own_server.home / "authorized_keys").write_text(public + "\n")
    client.known_hosts.write_text(own_server.known())
    target = replace(client.target(own_server), identity_files=(str(tmp_path / "locked"),))
    asked: list[str] = []
    keys = Keys(lambda path: asked.append(path) or "open sesame")  # type: ignore[func-returns-value]

    for _ in range(2):
        with connect(target, timeout_s=LONG_S, keys=keys) as session:
            assert session.run(["true"], timeout_s=LONG_S).ok
    with pytest.raises(AuthenticationError, match="ssh-add"):
        connect(target, timeout_s=LONG_S, keys=Keys(lambda _: None))

    assert [str(tmp_path / "locked")] == asked


def test_an_agent_logs_in(
    client: Client, ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that only the agent has is enough."""
    place = tmp_path / "a"
    agent = process.start(["ssh-agent", "-D", "-a", str(place)], stdout=process.DEVNULL, stderr=process.DEVNULL)
    try:
        deadline = time.monotonic() + LONG_S
        while not place.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        assert process.run(["ssh-add", "-q", str(client.key)], timeout_s=LONG_S).ok
        with connect(replace(client.target(ssh_server), identity_files=()), timeout_s=LONG_S) as session:
            assert session.run(["true"], timeout_s=LONG_S).ok
    finally:
        process.kill_group(agent)
        agent.wait()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, client: Client, ssh_server: SshServer) -> None:
    """Without paramiko the error names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "paramiko", None)

    with pytest.raises(MissingDependencyError) as caught:
        connect(client.target(ssh_server), timeout_s=LONG_S)

    assert "hpctrain[ssh]" in caught.value.advice


# ---------------------------------------------------------------- hosts that do not answer


def test_a_host_that_is_down(client: Client, ssh_server: SshServer) -> None:
    """A refused connection is an error that names host and port, and has a code of its own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it
        port = taken.getsockname()[1]
        with pytest.raises(UnreachableError, match=f"node .*{port}.*refused") as caught:
            connect(replace(client.target(ssh_server), port=port), timeout_s=LONG_S)

    assert 14 == caught.value.exit_code


def test_a_name_that_nobody_knows(client: Client, ssh_server: SshServer) -> None:
    """An unknown name is an error of this host, too."""
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid"):
        connect(replace(client.target(ssh_server), host="nowhere.invalid", name=""), timeout_s=LONG_S)


def test_a_host_that_hangs(client: Client, own_server: SshServer) -> None:
    """A server that is stopped takes the connection and says nothing: the attempt ends when its time is over."""
    client.known_hosts.write_text(own_server.known())
    own_server.freeze()

    with pytest.raises(RemoteTimeoutError, match="within 1 s"):
        connect(client.target(own_server), timeout_s=1)


def test_a_host_that_hangs_in_the_middle(client: Client, own_server: SshServer) -> None:
    """A host that stops while a command streams is noticed by its silence, and is not alive."""
    client.known_hosts.write_text(own_server.known())
    with connect(client.target(own_server), timeout_s=LONG_S, keep_alive_s=1) as session:
        assert session.is_alive(LONG_S)

        def freeze(_: bytes) -> None:
            own_server.freeze()

        with pytest.raises(UnreachableError, match="no longer answers"):
            session.stream(["sh", "-c", "echo begun; sleep 600"], freeze, print, stop=threading.Event())
        assert not session.is_alive(0.5)


def test_a_connection_that_breaks(client: Client, own_server: SshServer) -> None:
    """A connection that is cut while a command runs is an error, not an empty success."""
    client.known_hosts.write_text(own_server.known())
    with connect(client.target(own_server), timeout_s=LONG_S) as session:
        with pytest.raises(UnreachableError, match="broke"):
            begun = ["sh", "-c", "echo begun; sleep 600"]
            session.stream(begun, lambda _: own_server.drop_connections(), print, stop=threading.Event())
        with pytest.raises(UnreachableError):
            session.run(["true"], timeout_s=LONG_S)
        assert not session.is_alive(1)


# ---------------------------------------------------------------- commands


def test_status_and_streams_are_kept_apart(session: SshSession) -> None:
    """Exit status, output and errors come back, with bytes that are no UTF-8 as they were."""
    with session:
        done = session.run(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin=b"\xff\x00x", timeout_s=LONG_S)

    assert (3, b"\xff\x00x", "oops", "\ufffd\x00x") == (done.returncode, done.stdout, done.error_text(), done.text())


def test_a_command_that_a_signal_ends(session: SshSession) -> None:
    """It has no exit status, which is no success."""
    with session:
        done = session.run(["sh", "-c", "kill -KILL $$"], timeout_s=LONG_S)

    assert not done.ok


def test_fifty_megabytes_are_kept_in_bounds(session: SshSession) -> None:
    """Of a long output the beginning and the end are kept, and memory does not grow with it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    script = "echo first; head -c 50000000 /dev/zero; echo; echo last"
    with session:
        done = session.run(["sh", "-c", script], timeout_s=300, keep_bytes=65536)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert done.ok
    assert done.stdout.startswith(b"first\n")
    assert done.stdout.endswith(b"last\n")
    assert len(done.stdout) < 66000
    assert 50_000_012 - 65536 == done.dropped_bytes
    assert grown_kib < 30_000


def test_a_command_that_takes_too_long(session: SshSession) -> None:
    """It is left when its time is over, and the connection still serves."""
    with session:
        with pytest.raises(RemoteTimeoutError, match=r"'sleep' on node took longer than 0\.5 s"):
            session.run(["sleep", "5"], timeout_s=0.5)
        assert session.run(["true"], timeout_s=LONG_S).ok


def test_a_command_that_is_stopped(session: SshSession) -> None:
    """A stream ends when it is told to; a command that was waited for says that it was ended."""
    stop = threading.Event()
    seen: list[bytes] = []

    def take(chunk: bytes) -> None:
        seen.append(chunk)
        stop.set()

    with session:
        assert -1 == session.stream(["sh", "-c", "echo line; sleep 5"], take, print, stop=stop)
        with pytest.raises(StopRequested):
            session.run(["sleep", "5"], timeout_s=LONG_S, stop=stop)

    assert [b"line\n"] == seen


def test_a_stream_takes_input(session: SshSession) -> None:
    """Standard input reaches a command that is streamed, and ends."""
    seen: list[bytes] = []
    with session:
        code = session.stream(["wc", "-c"], seen.append, print, stdin=b"x" * 3_000_000, stop=threading.Event())

    assert (0, b"3000000") == (code, b"".join(seen).strip())


def test_many_threads_share_a_connection(session: SshSession) -> None:
    """Commands at the same time over one connection do not mix."""
    found: dict[int, bytes] = {}

    def work(number: int) -> None:
        found[number] = session.run(["sh", "-c", f"seq {number} {number + 2000}"], timeout_s=LONG_S).stdout

    with session:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert found == {n: "".join(f"{k}\n" for k in range(n, n + 2001)).encode() for n in range(8)}


def test_through_another_host(client: Client, ssh_server: SshServer) -> None:
    """A jump host is gone through, and both host keys are checked."""
    first = client.target(ssh_server, "gate")
    with connect(replace(first, name="node", jump=(first,)), timeout_s=LONG_S) as session:
        assert b"through\n" == session.run(["echo", "through"], timeout_s=LONG_S).stdout
    with pytest.raises(HostKeyError, match="gate"):
        connect(replace(first, name="node", jump=(replace(first, known_hosts=()),)), timeout_s=LONG_S)
    with pytest.raises(UnreachableError, match="no connection to node"):
        connect(replace(first, name="node", port=1, jump=(first,)), timeout_s=LONG_S)


# ---------------------------------------------------------------- files


def test_a_file_is_written_whole(session: SshSession, ugly_dir: Path) -> None:
    """Content and mode arrive, whatever the name; what was there is replaced, and nothing else is left."""
    path = ugly_dir / "a file"
    path.write_text("old")
    data = os.urandom(300_000)
    with session:
        session.put(data, str(path), mode=0o640)
        assert data == session.get(str(path))

    assert (data, 0o640) == (path.read_bytes(), path.stat().st_mode & 0o777)
    assert [path] == list(ugly_dir.iterdir())


def test_a_file_from_disk_and_back(session: SshSession, tmp_path: Path) -> None:
    """A path is sent and fetched without holding it in memory."""
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(2_000_000))
    with session:
        session.put(source, str(tmp_path / "there"), mode=0o755)
        assert 2_000_000 == session.get_file(str(tmp_path / "there"), back)

    assert source.read_bytes() == back.read_bytes()
    assert 0o600 == back.stat().st_mode & 0o777


def test_files_that_cannot_be_had(session: SshSession, tmp_path: Path) -> None:
    """A missing file, a directory and one that is too long are told apart; half a copy is never left."""
    (tmp_path / "long").write_bytes(b"x" * 5000)
    with session:
        with pytest.raises(NotFoundError):
            session.get(str(tmp_path / "none"))
        with pytest.raises(NotFoundError):
            session.get_file(str(tmp_path / "none"), tmp_path / "copy")
        with pytest.raises(StorageError, match="cannot be read"):
            session.get(str(tmp_path))
        with pytest.raises(StorageError, match="longer than 1000"):
            session.get(str(tmp_path / "long"), limit_bytes=1000)

    assert not (tmp_path / "copy").exists()


def test_places_that_cannot_be_written(session: SshSession, tmp_path: Path) -> None:
    """A missing directory, a directory in the file's place and an owner that does not exist are errors that say so."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "kept").write_text("old")
    with session:
        with pytest.raises(StorageError, match="cannot be written"):
            session.put(b"x", str(tmp_path / "none/file"))
        with pytest.raises(StorageError, match="cannot be written"):
            session.put(b"x", str(tmp_path / "dir"))
        with pytest.raises(StorageError, match="cannot be given to nobody-of-this-name"):
            session.put(b"x", str(tmp_path / "kept"), owner="nobody-of-this-name")

    assert "old" == (tmp_path / "kept").read_text()
    assert ["dir", "kept"] == sorted(path.name for path in tmp_path.iterdir() if path.name in ("dir", "kept", "none"))


def test_a_copy_that_is_cut_off(client: Client, own_server: SshServer, tmp_path: Path) -> None:
    """A connection that breaks in mid-copy leaves the old file whole, and soon nothing else."""
    client.known_hosts.write_text(own_server.known())
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").write_text("old")
    pipe_in, pipe_out = os.pipe()
    os.write(pipe_out, b"x" * 50_000)  # and no end: the copy waits for more

    with connect(client.target(own_server), timeout_s=LONG_S) as session, os.fdopen(pipe_in, "rb") as half:
        argv = ["sh", "-c", _PUT, "sh", str(place / "file"), "600", hashlib.sha256(b"all of it").hexdigest(), ""]
        cut = threading.Thread(target=_cut_when_begun, args=(place, own_server))
        cut.start()
        with pytest.raises(UnreachableError):
            session.run(argv, stdin=half, timeout_s=LONG_S)
        cut.join()
        os.close(pipe_out)

    deadline = time.monotonic() + LONG_S
    while len(list(place.iterdir())) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ["file"] == [path.name for path in place.iterdir()]
    assert "old" == (place / "file").read_text()


def _cut_when_begun(place: Path, server: SshServer) -> None:
    deadline = time.monotonic() + LONG_S
    while len(list(place.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    server.drop_connections()
