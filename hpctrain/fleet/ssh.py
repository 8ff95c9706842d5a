"""Connect to a host over SSH (adapter over ``paramiko``, which is imported on first use).

The host must show a key that a known_hosts file has for it: an unknown or another key ends the attempt, and nothing is ever
added to these files. We show keys of the agent and of files, never a password. Nothing is forwarded: no agent, no port, no
display. ``SshSession`` has what is done over the connection.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain.errors import (
    AuthenticationError,
    HostKeyError,
    MissingDependencyError,
    RemoteTimeoutError,
    StopRequested,
    UnreachableError,
)
from hpctrain.fleet import known_hosts
from hpctrain.fleet.known_hosts import KnownKey, fingerprint
from hpctrain.fleet.session import NO_STATUS, Completed, SshSession
from hpctrain.fleet.target import SshTarget

__all__ = ["NO_STATUS", "Completed", "Gates", "Keys", "SshSession", "SshTarget", "ask_passphrase", "connect"]

DEFAULT_TIMEOUT_S = 20.0
DEFAULT_KEEP_ALIVE_S = 15.0
_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""How a host proves that it has a key of this kind, where that has other names than the kind (RFC 8332)."""
_TOO_WEAK = {"keys": ["ssh-rsa", "ssh-dss"], "pubkeys": ["ssh-rsa", "ssh-dss"],
             "kex": ["diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1"]}
_LOG = "hpctrain.fleet.ssh"


def ask_passphrase(path: str) -> str | None:
    """Ask for the passphrase of a key on the terminal; None where there is no terminal."""
    if not sys.stdin.isatty():
        return None
    return getpass.getpass(f"passphrase of {path}: ", stream=sys.stderr)


class Keys:
    """The private keys of files, each read once for all connections; may be shared by threads.

    Args:
        ask: gives the passphrase of an encrypted key, or None to leave the key out; it is asked once for each.
    """

    def __init__(self, ask: Callable[[str], str | None] = ask_passphrase) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._read: dict[str, tuple[Any, str]] = {}

    def load(self, path: str) -> tuple[Any, str]:
        """A file's key, or None and why there is none ("" where there is no file)."""
        with self._lock:
            if path not in self._read:
                self._read[path] = self._load(path)
            return self._read[path]

    def _load(self, path: str) -> tuple[Any, str]:
        file = Path(path)
        try:
            mode = file.stat().st_mode
            file.open("rb").close()
        except (FileNotFoundError, NotADirectoryError):
            return None, ""
        except OSError as error:
            return None, error.strerror or "cannot be read"
        if mode & 0o077:
            return None, f"others may read it (mode {mode & 0o777:o}): chmod 600 it"
        paramiko = _paramiko()
        key, why = _parse_key(paramiko, path, None)
        if why == "encrypted":
            passphrase = self._ask(path)
            if passphrase is None:
                return None, "it is encrypted, and there is no terminal to ask for its passphrase: ssh-add it"
            key, why = _parse_key(paramiko, path, passphrase)
            why = why and "the passphrase does not open it"
        return key, why


class Gates:
    """Connections to the hosts that others are reached through: each is made once and shared; may be used by threads.

    A server takes few connections at once that have not logged in yet (10, unless it is told otherwise), but any number of
    further ones through one that has.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[tuple[SshTarget, ...], threading.Lock] = {}
        self._open: dict[tuple[SshTarget, ...], Any] = {}

    def last(self, jump: tuple[SshTarget, ...], make: Callable[[SshTarget, Any], Any]) -> Any:
        """The connection to the last of these hosts, through those before it; None where there are none.

        Args:
            make: connects to a host, through another connection or None.
        """
        if not jump:
            return None
        with self._lock:
            own = self._locks.setdefault(jump, threading.Lock())
        with own:
            found = self._open.get(jump)
            if found is None or not found.is_active():
                found = self._open[jump] = make(jump[-1], self.last(jump[:-1], make))
            return found

    def close(self) -> None:
        """End them all, the last ones first."""
        for jump in sorted(self._open, key=len, reverse=True):
            self._open.pop(jump).close()


def connect(
    target: SshTarget,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    keys: Keys | None = None,
    gates: Gates | None = None,
    keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
) -> SshSession:
    """Connect to a host, through others where the target says so.

    Args:
        timeout_s: for all of it: connecting, checking, authenticating.
        keys: shared by the connections of one command, so that a passphrase is asked for once.
        gates: likewise, and closed by whoever made it; None makes connections that end with this one.
        keep_alive_s: how often a silent host is asked for a sign of life.

    Raises:
        UnreachableError: no connection.
        HostKeyError: the host's key is unknown, or another one than known.
        AuthenticationError: the host does not accept our keys.
        RemoteTimeoutError: it took too long.
        MissingDependencyError: paramiko is not installed.
    """
    paramiko = _paramiko()
    deadline = time.monotonic() + timeout_s
    keys = keys or Keys()
    shared = gates or Gates()

    def make(hop: SshTarget, through: Any) -> Any:
        return _connect_one(hop, through, keys, deadline, timeout_s)

    try:
        transport = make(replace(target, jump=()), shared.last(target.jump, make))
    except BaseException:
        if gates is None:
            shared.close()
        raise
    return SshSession(
        target, transport, () if gates else (shared,), broken=_broken(paramiko), new_message=paramiko.Message,
        keep_alive_s=keep_alive_s,
    )


def _connect_one(target: SshTarget, through: Any, keys: Keys, deadline: float, timeout_s: float) -> Any:
    """An authenticated transport to one host."""
    paramiko = _paramiko()
    wire = _wire(paramiko, target, through, deadline)
    transport = None
    try:
        transport = paramiko.Transport(wire, disabled_algorithms=_TOO_WEAK)
        _check_host(transport, target, deadline)
        _authenticate(paramiko, transport, target, keys, deadline)
    except BaseException as error:
        with contextlib.suppress(Exception):
            (transport or wire).close()
        if isinstance(error, HostKeyError | AuthenticationError | StopRequested | KeyboardInterrupt):
            raise
        if isinstance(error, _broken(paramiko)):
            if time.monotonic() >= deadline or isinstance(error, TimeoutError):
                raise RemoteTimeoutError(
                    f"{target.label} does not answer within {timeout_s:g} s: it may hang, or be very busy"
                ) from error
            raise UnreachableError(f"no SSH connection to {target.label}: {_why(error)}") from error
        raise
    return transport


def _wire(paramiko: Any, target: SshTarget, through: Any, deadline: float) -> Any:
    """A connected socket, or a channel of the host before."""
    left_s = max(0.1, deadline - time.monotonic())
    place = f"{target.host} port {target.port}"
    try:
        if through is not None:
            return through.open_channel("direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=left_s)
        wire = socket.create_connection((target.host, target.port), timeout=left_s)
    except TimeoutError as error:
        raise RemoteTimeoutError(f"{target.label} does not answer ({place})") from error
    except _broken(paramiko) as error:
        raise UnreachableError(f"no connection to {target.label} ({place}): {_why(error)}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A host that is gone acknowledges nothing: the kernel then ends the connection, and does not try on for minutes.
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return wire


# ---------------------------------------------------------------- the host's key


def _check_host(transport: Any, target: SshTarget, deadline: float) -> None:
    """Agree on a session key with the host, which proves that it has a key that it is known by."""
    known = known_hosts.keys_of(target.known_as, _texts(target.known_hosts))
    transport.set_log_channel(_LOG)
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = max(0.1, deadline - time.monotonic())
    options = transport.get_security_options()
    # Ask for the kinds that we know first: a host has several keys, and shows one.
    wanted = [name for kind in known_hosts.kinds_of(known) for name in _SIGNATURES.get(kind, (kind,))]
    offered = [name for name in options.key_types if name not in _TOO_WEAK["keys"]]
    options.key_types = tuple(sorted(offered, key=lambda name: wanted.index(name) if name in wanted else len(wanted)))
    transport.start_client(timeout=max(0.1, deadline - time.monotonic()))
    _demand_known(target, known, transport.get_remote_server_key())


def _demand_known(target: SshTarget, known: tuple[KnownKey, ...], key: Any) -> None:
    kind, name = key.get_name(), target.known_as
    answer = known_hosts.judge(known, kind, key.get_base64())
    shown = f"{kind} {fingerprint(key.asbytes())}"
    files = " or ".join(target.known_hosts[:1] or ("a known_hosts file",))
    if answer.state == known_hosts.KNOWN:
        return
    if answer.state == known_hosts.CHANGED:
        raise HostKeyError(
            f"{target.label} shows another key ({shown}) than the one that is known: it was installed anew, or somebody "
            "stands between",
            where=answer.where,
            hint="ask who runs it for the key's fingerprint; only if it is this one: "
            f"ssh-keygen -R '{name}' and add the new key",
        )
    if answer.state == known_hosts.REVOKED:
        raise HostKeyError(f"the key of {target.label} ({shown}) is revoked", where=answer.where)
    by = f"; it is known by keys of other kinds: {', '.join(kinds)}" if (kinds := known_hosts.kinds_of(known)) else ""
    if not by and any(one.marker == "@cert-authority" for one in known):
        by = "; it is known through a certificate authority alone, which is not supported"
    raise HostKeyError(
        f"the key of {target.label} ({shown}) is not known{by}",
        hint=f"compare the fingerprint with what its owner tells you, then add the key to {files}: "
        f"ssh-keyscan -p {target.port} {target.host} shows it",
    )


def _texts(paths: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for path in paths:
        with contextlib.suppress(OSError):
            yield path, Path(path).read_text(encoding="utf-8", errors="replace")


# ---------------------------------------------------------------- our keys


def _authenticate(paramiko: Any, transport: Any, target: SshTarget, keys: Keys, deadline: float) -> None:
    refused: list[str] = []
    notes: list[str] = []
    who = f"{target.user}@{target.label}"
    with contextlib.closing(_offer(paramiko, target, keys, notes)) as offered:
        for label, key in offered:
            transport.auth_timeout = max(0.1, deadline - time.monotonic())
            try:
                more = transport.auth_publickey(target.user, key)
            except paramiko.BadAuthenticationType as error:
                other = ", ".join(error.allowed_types)
                raise AuthenticationError(f"{who} cannot log in with a key, only by: {other}") from None
            except paramiko.AuthenticationException:
                if time.monotonic() >= deadline:
                    raise
                refused.append(label)
                if not transport.is_active():
                    notes.append("the host ended the connection after that many keys: set IdentitiesOnly for it")
                    break
                continue
            if more:
                raise AuthenticationError(f"{who} wants more than a key: {', '.join(more)}")
            return
    shown = f"the host refused {', '.join(refused)}" if refused else "there is no key to show"
    raise AuthenticationError("; ".join([f"{who} may not log in: {shown}", *notes]))


def _offer(
    paramiko: Any, target: SshTarget, keys: Keys, notes: list[str]
) -> Generator[tuple[str, Any], None, None]:
    """Keys with their names: those of the agent, then those of files; what cannot be offered leaves a note."""
    public = {text.split()[1] for _, text in _texts(tuple(f"{path}.pub" for path in target.identity_files)) if " " in text}
    seen = set()
    if target.use_agent and os.environ.get("SSH_AUTH_SOCK"):
        try:
            agent = paramiko.Agent()
        except (OSError, paramiko.SSHException) as error:
            notes.append(f"the agent does not answer: {_why(error)}")
        else:
            try:
                for key in agent.get_keys():
                    encoded = key.get_base64()
                    seen.add(encoded)
                    if not target.only_identities or encoded in public:
                        yield f"the agent's {key.get_name()} {fingerprint(key.asbytes())}", key
            finally:
                agent.close()
    for path in target.identity_files:
        key, why = keys.load(path)
        if why:
            notes.append(f"{path}: {why}")
        elif key is not None and key.get_base64() not in seen:
            yield path, key


def _parse_key(paramiko: Any, path: str, passphrase: str | None) -> tuple[Any, str]:
    """The key of a file, or None and "encrypted" or what is wrong with it."""
    why = "it is no private key that is supported"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            key = kind.from_private_key_file(path, passphrase)
        except paramiko.PasswordRequiredException:
            return None, "encrypted"
        except (paramiko.SSHException, OSError, ValueError, IndexError):
            continue
        certificate = Path(f"{path}-cert.pub")
        if certificate.is_file():
            with contextlib.suppress(paramiko.SSHException, OSError, ValueError):
                key.load_certificate(str(certificate))
        return key, ""
    return None, why


# ---------------------------------------------------------------- paramiko itself


def _paramiko() -> Any:
    try:
        module = importlib.import_module("paramiko")
    except ImportError as error:
        if error.name not in (None, "paramiko"):
            raise MissingDependencyError(f"the package 'paramiko' is installed, but lacks {error.name!r}") from error
        raise MissingDependencyError(
            "SSH needs the package 'paramiko', which is not installed", hint="pip install 'hpctrain[ssh]'"
        ) from error
    log = logging.getLogger(_LOG)
    # Its threads write tracebacks of every broken connection to standard error, unless somebody listens.
    if not log.handlers:
        log.addHandler(logging.NullHandler())
        log.propagate = False
    return module


def _broken(paramiko: Any) -> tuple[type[BaseException], ...]:
    return (paramiko.SSHException, OSError, EOFError)


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
