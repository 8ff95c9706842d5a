"""May this checkpoint be opened? (pure)

DCP's ``.metadata`` is a pickle, and unpickling runs whatever its author wrote. So a checkpoint is opened only if nobody
but its owner, who must be this user or root, could have written it. This does not protect from someone who already has
this user's rights, nor from access control lists that widen what the mode bits say.
"""

from __future__ import annotations

import stat


def objection(path: str, *, owner: int, mode: int, user: int) -> str:
    """Why a file or directory must not be trusted; "" when it may be.

    Args:
        owner: its user id.
        mode: ``st_mode``.
        user: effective user id of this process.
    """
    if stat.S_ISLNK(mode):
        return f"{path} is a symbolic link"
    if owner not in (user, 0):
        return f"{path} belongs to user id {owner}, not to you"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by others (mode {stat.S_IMODE(mode):04o})"
    return ""
