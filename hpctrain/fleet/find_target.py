"""Read the user's and the system's SSH configuration (adapter over the file system)."""

from __future__ import annotations

import getpass
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from hpctrain.errors import StorageError
from hpctrain.fleet.ssh_config import Statement, parse
from hpctrain.fleet.target import SshTarget, parse_destination, resolve

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")


def find_target(text: str, *, user: str = "", statements: Sequence[Statement] | None = None) -> SshTarget:
    """Where ``user@host:port``, or a ``Host`` of the SSH configuration, leads.

    Args:
        user: who to be where the text does not say; "" leaves it to the configuration, and at last to our own name.
        statements: :func:`read_statements`, for a caller that asks for many hosts.

    Raises:
        UsageError: the text or the configuration cannot be used.
        StorageError: the configuration cannot be read.
    """
    destination = parse_destination(f"{user}@{text}" if user and "@" not in text else text)
    found = read_statements() if statements is None else statements
    return resolve(destination, found, local_user=getpass.getuser(), home=str(Path.home()))


def read_statements(config: Path | None = None) -> list[Statement]:
    """The statements of the SSH configuration: the user's, then the system's.

    Args:
        config: read this file instead of both.

    Raises:
        UsageError: a line cannot be understood.
        StorageError: a file that is there cannot be read, or ``config`` is not there.
    """
    if config is not None:
        text = _read(config)
        if text is None:
            raise StorageError("there is no such SSH configuration", where=str(config))
        return parse(text, str(config), lambda pattern: _included(pattern, config.parent))
    statements: list[Statement] = []
    for path in (Path.home() / ".ssh/config", SYSTEM_CONFIG):
        text = _read(path)
        if text is not None:
            base = path.parent
            statements += parse(text, str(path), lambda pattern, base=base: _included(pattern, base))  # type: ignore[misc]
    return statements


def _included(pattern: str, base: Path) -> list[tuple[str, str]]:
    pattern = str(base / os.path.expanduser(pattern))  # noqa: PTH111 - a pattern, not yet a path
    texts = [(_read(Path(name)), name) for name in sorted(glob.glob(pattern))]
    return [(text, name) for text, name in texts if text is not None]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(path)) from error
