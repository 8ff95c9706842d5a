"""OpenSSH's client configuration, as far as it says where a connection goes and with which keys (pure).

Understood: ``Host`` with patterns and negation, ``Match`` with all, host, originalhost, user and localuser, ``Include``,
and the keywords of :class:`Options`. As in OpenSSH the first value found counts, and IdentityFile adds up. Other keywords
are passed over; a ``Match`` with other criteria (``exec``) never matches: no command of the configuration is run.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hpctrain.errors import UsageError

Condition = tuple[str, tuple[str, ...]]
"""A criterion (``originalhost``, ``host``, ``user``, ``localuser``, ``all``, ``never``) and its patterns."""

_MOST_INCLUDES = 16
_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One keyword with its words, and the conditions under which it counts, all of them."""

    conditions: tuple[Condition, ...]
    key: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration says of one host; what it does not say is empty, 0 or the default.

    Attributes:
        host: HostName, or what was asked for.
        jump: the hops of ProxyJump.
        known_hosts: UserKnownHostsFile and GlobalKnownHostsFile; empty unless one of them is set.
        key_name: HostKeyAlias.
        only_identities: IdentitiesOnly.
        use_agent: false for ``IdentityAgent none``.
    """

    host: str
    user: str = ""
    port: int = 0
    identity_files: tuple[str, ...] = ()
    jump: tuple[str, ...] = ()
    known_hosts: tuple[str, ...] = ()
    key_name: str = ""
    only_identities: bool = False
    use_agent: bool = True
    proxy_command: str = ""


def parse(
    text: str, where: str, include: Callable[[str], Sequence[tuple[str, str]]], within: tuple[Condition, ...] = (),
    depth: int = 0,
) -> list[Statement]:
    """The statements of a configuration.

    Args:
        where: the file's name, for messages.
        include: the (text, name) of every file that an ``Include`` pattern means.
        within: conditions around an included file.

    Raises:
        UsageError: a line cannot be understood, or files include each other.
    """
    if depth > _MOST_INCLUDES:
        raise UsageError(f"files are included more than {_MOST_INCLUDES} deep", where=where)
    found: list[Statement] = []
    conditions = within
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        try:
            words = tuple(shlex.split(match[2], comments=True)) if match else ()
        except ValueError as error:
            raise UsageError(f"cannot be read: {error}", where=f"{where}:{number}") from None
        if not match or not words:
            raise UsageError(f"is no SSH configuration: {line.strip()!r}", where=f"{where}:{number}")
        key = match[1].lower()
        if key == "host":
            conditions = (*within, ("originalhost", words))
        elif key == "match":
            conditions = (*within, *_criteria(words))
        elif key == "include":
            for pattern in words:
                for inner, name in include(pattern):
                    found += parse(inner, name, include, conditions, depth + 1)
        else:
            found.append(Statement(conditions, key, words))
    return found


def lookup(statements: Sequence[Statement], host: str, user: str, *, local_user: str, home: str) -> Options:
    """What the configuration says of ``host``.

    Args:
        host: as it was asked for.
        user: as it was asked for; "" takes the configuration's.
        home: the user's home directory, for ``~`` and ``%d``.

    Raises:
        UsageError: a value cannot be used.
    """
    first: dict[str, tuple[str, ...]] = {"user": (user,)} if user else {}
    identities: list[str] = []
    for statement in statements:
        seen = {"originalhost": host, "host": _expand(_one(first, "hostname"), {"h": host}, "") or host,
                "user": _one(first, "user") or local_user, "localuser": local_user}
        if not all(_holds(condition, seen) for condition in statement.conditions):
            continue
        if statement.key == "identityfile":
            identities += [word for word in statement.words if word not in identities]
        else:
            first.setdefault(statement.key, statement.words)
    name = _expand(_one(first, "hostname"), {"h": host}, "") or host
    port = _one(first, "port") or "0"
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"the SSH configuration has no usable port for {host}: {port!r}")
    tokens = {"h": name, "n": host, "p": port if port != "0" else "22", "r": _one(first, "user") or local_user,
              "u": local_user, "d": home}
    known = [path for key in ("userknownhostsfile", "globalknownhostsfile") for path in _known_hosts(first, key)]
    jump = " ".join(first.get("proxyjump", ()))
    command = " ".join(first.get("proxycommand", ()))
    agent = _one(first, "identityagent").lower()
    return Options(
        host=name,
        user=_one(first, "user"),
        port=int(port),
        identity_files=tuple(_expand(path, tokens, home) for path in identities if path.lower() != "none"),
        jump=tuple(hop.strip() for hop in jump.split(",") if hop.strip() and jump.lower() != "none"),
        known_hosts=tuple(_expand(path, tokens, home) for path in known if path.lower() != "none"),
        key_name=_one(first, "hostkeyalias"),
        only_identities=_one(first, "identitiesonly").lower() in ("yes", "true"),
        use_agent=agent != "none",
        proxy_command="" if command.lower() == "none" or jump else command,
    )


def _known_hosts(first: dict[str, tuple[str, ...]], key: str) -> tuple[str, ...]:
    """One kind of file where it is set; its default where only the other kind is; nothing where neither is."""
    default = {
        "userknownhostsfile": ("~/.ssh/known_hosts", "~/.ssh/known_hosts2"),
        "globalknownhostsfile": ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"),
    }
    return first.get(key) or (default[key] if any(one in first for one in default) else ())


def _one(first: dict[str, tuple[str, ...]], key: str) -> str:
    return first[key][0] if first.get(key) else ""


def _criteria(words: tuple[str, ...]) -> Iterator[Condition]:
    names = iter(words)
    for name in names:
        low = name.lower()
        if low == "all":
            yield "all", ()
        elif low in ("host", "originalhost", "user", "localuser"):
            yield low, tuple(next(names, "").split(","))
        else:
            yield "never", ()
            next(names, "")


def _holds(condition: Condition, seen: dict[str, str]) -> bool:
    kind, patterns = condition
    if kind in ("all", "never"):
        return kind == "all"
    value, found = seen[kind].lower(), False
    for pattern in patterns:
        if pattern.startswith("!"):
            if fnmatch.fnmatchcase(value, _glob(pattern[1:])):
                return False
        else:
            found = found or fnmatch.fnmatchcase(value, _glob(pattern))
    return found


def _glob(pattern: str) -> str:
    """OpenSSH's patterns have ``*`` and ``?`` alone; a bracket means itself."""
    return pattern.lower().replace("[", "[[]")


def _expand(text: str, tokens: dict[str, str], home: str) -> str:
    if home and (text == "~" or text.startswith("~/")):
        text = home + text[1:]
    return re.sub(r"%(.)", lambda match: {**tokens, "%": "%"}.get(match[1], match[0]), text)
