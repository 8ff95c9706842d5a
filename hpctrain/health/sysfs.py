"""Small reads below /proc and /sys, where any file may be missing, empty or nonsense (adapter over the file system)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

MOST = 2**53
_READ_BYTES = 1 << 20


def text(path: str) -> str:
    """A small file, stripped; "" if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_READ_BYTES).decode(errors="replace").strip()
    except (OSError, ValueError):  # ValueError: a NUL in a path that was made from garbage
        return ""


def whole(path: str) -> int | None:
    """A whole number that is not negative; None if the file holds anything else."""
    return to_whole(text(path))


def to_whole(word: str) -> int | None:
    """A whole number that is not negative, decimal or with 0x; None for anything else."""
    try:
        value = int(word, 0) if word[:2] in ("0x", "0X") else int(word)
    except ValueError:
        return None
    return value if 0 <= value <= MOST else None


def real(word: str) -> float | None:
    """A finite number that is not negative; None for anything else."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if 0 <= value <= MOST else None


def names(path: str) -> list[str]:
    """The entries of a directory, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(path))
    except (OSError, ValueError):
        return []


def link_name(path: str) -> str:
    """The last part of where a symbolic link points; "" if it is none."""
    try:
        return os.path.basename(os.readlink(path))  # noqa: PTH115, PTH119 - hundreds of these; Path costs ten times as much
    except (OSError, ValueError):
        return ""


def keyed_numbers(lines: Iterable[str], keys: Iterable[str]) -> dict[str, int]:
    """``Key:   123 kB`` lines as numbers, for some keys."""
    wanted, found = set(keys), {}
    for line in lines:
        key, _, rest = line.partition(":")
        words = rest.split()
        if key in wanted and words and (value := to_whole(words[0])) is not None:
            found[key] = value
    return found
