"""Read what ``scontrol show config`` and ``sdiag`` print (pure)."""

from __future__ import annotations

import re

from hpctrain.slurm.parse import parse_time


def read_config(text: str) -> dict[str, str]:
    """``Key = value`` lines of ``scontrol show config``; "(null)" is ""."""
    pairs = re.findall(r"^(\w[\w.]*)\s*= (.*)$", text, re.M)
    return {key: "" if value.strip() == "(null)" else value.strip() for key, value in pairs}


def controller_time(text: str) -> float | None:
    """Seconds since the epoch on the controller's clock, from the first line of ``scontrol show config``."""
    found = re.search(r"^Configuration data as of (\S+)", text, re.M)
    return parse_time(found[1]) if found else None


def user_requests(text: str, uid: int) -> tuple[int, float] | None:
    """(number, seconds each) of a user's requests, from ``sdiag``'s table by user; None where it has no such line."""
    found = re.search(rf"^\s+\S+\s+\(\s*{uid}\)\s+count:(\d+)\s+ave_time:(\d+)", text, re.M)
    return (int(found[1]), int(found[2]) / 1e6) if found else None


def counting_since(text: str) -> float | None:
    """Since when ``sdiag`` counts, in seconds since the epoch."""
    found = re.search(r"^Data since\s+.*\((\d+)\)", text, re.M)
    return float(found[1]) if found else None
