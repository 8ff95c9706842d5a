"""Where an SSH connection goes: ``user@host:port``, and what the SSH configuration adds to it (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.errors import UsageError
from hpctrain.fleet.ssh_config import Options, Statement, lookup

DEFAULT_PORT = 22
DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
DEFAULT_KNOWN_HOSTS = (
    "~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2",
)
_DESTINATION = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:@\[\]]+))(?::(?P<port>\d+))?/?")
_SAFE_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")
_SAFE_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*\$?")
_MOST_JUMPS = 8


@dataclass(frozen=True, slots=True)
class SshTarget:
    """One host and how to get there.

    Attributes:
        host: the name or address that is connected to.
        user: who to be there.
        identity_files: absolute paths of private keys, in the order in which they are offered; those that are missing are
            passed over.
        jump: hosts to go through, the first one first; each is checked like the last.
        known_hosts: absolute paths of the files that say which key a host has; those that are missing are passed over.
        key_name: the name under which its key is known; "" for the host's own.
        only_identities: offer no key of the agent that is not one of ``identity_files``.
        use_agent: ask the agent at all.
        name: what was asked for, which messages use; "" for the host.
    """

    host: str
    user: str
    port: int = DEFAULT_PORT
    identity_files: tuple[str, ...] = ()
    jump: tuple[SshTarget, ...] = ()
    known_hosts: tuple[str, ...] = ()
    key_name: str = ""
    only_identities: bool = False
    use_agent: bool = True
    name: str = ""

    @property
    def known_as(self) -> str:
        """The name that known_hosts files have for it: ``host``, or ``[host]:port`` where the port is not 22."""
        if self.key_name:
            return self.key_name
        return self.host if self.port == DEFAULT_PORT else f"[{self.host}]:{self.port}"

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name or self.host


@dataclass(frozen=True, slots=True)
class Destination:
    """What a person typed: ``user@host:port``, of which only the host must be there."""

    host: str
    user: str = ""
    port: int = 0


def parse_destination(text: str) -> Destination:
    """Take ``host``, ``user@host``, ``user@host:port``, ``user@[::1]:port`` or ``ssh://user@host:port`` apart.

    Raises:
        UsageError: it is none of these.
    """
    match = _DESTINATION.fullmatch(text.strip())
    host, user = (match["v6"] or match["host"], match["user"] or "") if match else ("", "")
    port = int(match["port"] or 0) if match else 0
    if not match or not _SAFE_HOST.fullmatch(host) or (user and not _SAFE_USER.fullmatch(user)) or port > 65535:
        raise UsageError(f"{text!r} is no host to connect to", hint="write user@host or user@host:port")
    return Destination(host, user, port)


def resolve(
    destination: Destination, statements: Sequence[Statement], *, local_user: str, home: str, depth: int = 0
) -> SshTarget:
    """What to connect to, from what was typed and the SSH configuration; what was typed wins.

    Args:
        statements: of the user's configuration, then of the system's.
        home: the user's home directory, for ``~``.

    Raises:
        UsageError: the configuration asks for what is not supported, or jumps through itself.
    """
    options = lookup(statements, destination.host, destination.user, local_user=local_user, home=home)
    if depth > _MOST_JUMPS:
        raise UsageError(f"the SSH configuration goes to {destination.host} through more than {_MOST_JUMPS} other hosts")
    if options.proxy_command:
        raise UsageError(
            f"the SSH configuration reaches {destination.host} by a ProxyCommand, which is not supported",
            hint="use ProxyJump, which goes through a host without a command of its own",
        )
    jump: list[SshTarget] = []
    for hop in [parse_destination(item) for item in options.jump]:
        # Only the first hop may have a way of its own: the others are reached from the one before them.
        target = resolve(hop, statements, local_user=local_user, home=home, depth=depth + 1)
        jump += [*target.jump, _bare(target)] if not jump else [_bare(target)]
    return _target(destination, options, tuple(jump), local_user, home)


def _target(
    destination: Destination, options: Options, jump: tuple[SshTarget, ...], local_user: str, home: str
) -> SshTarget:
    return SshTarget(
        host=options.host,
        user=options.user or local_user,
        port=destination.port or options.port or DEFAULT_PORT,
        identity_files=options.identity_files or tuple(_at_home(path, home) for path in DEFAULT_IDENTITIES),
        jump=jump,
        known_hosts=options.known_hosts or tuple(_at_home(path, home) for path in DEFAULT_KNOWN_HOSTS),
        key_name=options.key_name,
        only_identities=options.only_identities,
        use_agent=options.use_agent,
        name=destination.host,
    )


def _bare(target: SshTarget) -> SshTarget:
    from dataclasses import replace

    return replace(target, jump=())


def _at_home(path: str, home: str) -> str:
    return home + path[1:] if path.startswith("~/") else path
