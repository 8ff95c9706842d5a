"""Copy files to many hosts (service)."""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctrain.errors import NotFoundError, UsageError
from hpctrain.fleet.fleet import Fleet, Host, HostResult


@dataclass(frozen=True, slots=True)
class Copy:
    """One file to copy.

    Attributes:
        path: here.
        remote_path: there.
        owner: ``user:group`` here, which it gets there where we may set it.
    """

    path: Path
    remote_path: str
    mode: int
    owner: str
    size_bytes: int


def plan_copies(paths: Sequence[Path], destination: str) -> list[Copy]:
    """Which file goes where.

    Args:
        destination: a file's name, or a directory's with ``/`` at its end; a directory where there are several files.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is no file, or several files would get one name.
    """
    into = destination.endswith("/")
    if len(paths) > 1 and not into:
        raise UsageError(f"several files cannot all become {destination}", hint=f"write {destination}/ for a directory")
    copies = []
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            raise NotFoundError("there is no such file", where=str(path)) from None
        if not stat.S_ISREG(found.st_mode):
            raise UsageError("is no regular file", where=str(path), hint="pack a directory with tar, and push that")
        remote = f"{destination}{path.name}" if into else destination
        copies.append(Copy(path, remote, stat.S_IMODE(found.st_mode), _owner(found.st_uid, found.st_gid), found.st_size))
    if len({copy.remote_path for copy in copies}) < len(copies):
        raise UsageError("two of the files have the same name")
    return copies


def push(fleet: Fleet, copies: Sequence[Copy], *, timeout_s: float) -> list[HostResult[int]]:
    """Copy the files to every host; how many were copied. As root there, owner and group are kept, too."""

    def work(host: Host) -> int:
        if host.prefix:
            host.run(["true"], timeout_s=timeout_s)  # says it clearly, if sudo refuses
        root = fleet.sudo or host.session.target.user == "root"
        for copy in copies:
            host.session.put(
                copy.path, copy.remote_path, mode=copy.mode, owner=copy.owner if root else "", prefix=host.prefix,
                timeout_s=timeout_s,
            )
        return len(copies)

    return fleet.each(work)


def _owner(uid: int, gid: int) -> str:
    """By name where there is one: numbers may mean somebody else there."""
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return f"{user}:{group}"
