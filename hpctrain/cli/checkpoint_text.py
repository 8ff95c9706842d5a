"""Checkpoints as text for people (entry point)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from hpctrain.checkpoint.catalogue import Listed
from hpctrain.checkpoint.contents import Contents
from hpctrain.jobs.text import ago, cells, count, plural, stamp
from hpctrain.recipe.units import format_bytes

GAP = "  "
COLOURS = {"complete": "green", "incomplete": "yellow", "damaged": "red"}
RIGHT = (0, 1, 3)
"""Columns of numbers."""
FILES_SHOWN = 12


def table(listed: Sequence[Listed], now: float, *, colour: bool, tiers: Sequence[str] | None = None) -> str:
    """The table of ``list``; what is wrong or pinned stands at the end of the line.

    Args:
        tiers: where each one is; None when that is the same for all and need not be said.
    """
    head: tuple[str, ...] = ("STEP", "INC", "SAVED", "SIZE", "STATE", "RANKS", "WHY")
    rows = [head, *(_row(item, now) for item in listed)]
    if tiers is not None:
        rows = [(*row[:5], tier, *row[5:]) for row, tier in zip(rows, ("TIER", *tiers), strict=True)]
    widths = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        padded = [_pad(cell, widths[column], right=column in RIGHT) for column, cell in enumerate(row)]
        if colour and index:
            padded[4] = click.style(padded[4], fg=COLOURS[listed[index - 1].state])
        lines.append(GAP.join(padded).rstrip())
    return "\n".join(lines)


def details(item: Listed, found: Contents, now: float) -> str:
    """The text of ``show``."""
    rows = [
        ("checkpoint", str(item.name)),
        ("state", f"{item.state} by its records; 'verify' reads every byte"),
        ("saved", f"{stamp(item.time)} ({ago(item.time, now)}), because {item.reason}"),
        ("pinned", "no" if item.pin is None else item.pin.reason or "yes"),
        ("world", world(item.world) or "-"),
        ("parameters", f"{count(found.parameters)} ({found.parameters:,})"),
        ("tensors", f"{found.tensors:,}; elements: {_counts(found.dtypes)}"),
        ("parts", ", ".join(f"{part} {format_bytes(size)}" for part, size in found.parts.items()) or "-"),
        ("data", ", ".join(f"{key} {value}" for key, value in found.data.items()) or "-"),
        ("size", f"{format_bytes(item.size_bytes)} in {plural(item.files, 'file')}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name.ljust(width)}{GAP}{text}" for name, text in rows]
    files = sorted(found.files.items(), key=lambda entry: -entry[1])
    lines += [f"{'':{width}}{GAP}{name}  {format_bytes(size)}" for name, size in files[:FILES_SHOWN]]
    if len(files) > FILES_SHOWN:
        lines.append(f"{'':{width}}{GAP}and {len(files) - FILES_SHOWN} smaller ones")
    return "\n".join(lines)


def world(layout: Mapping[str, Any]) -> str:
    """``4 fsdp2``: how many ranks, and how they shared the work."""
    size, kind = layout.get("world_size"), layout.get("parallelism")
    return " ".join(str(part) for part in (size, kind) if part is not None)


def _row(item: Listed, now: float) -> tuple[str, ...]:
    why = item.problem or item.reason
    if item.pin is not None:
        why = f"{why} [pinned{': ' + item.pin.reason if item.pin.reason else ''}]"
    return (str(item.name.step), str(item.name.incarnation), ago(item.time, now), format_bytes(item.size_bytes), item.state,
            world(item.world) or "-", why)


def _pad(text: str, width: int, *, right: bool) -> str:
    blank = " " * (width - cells(text))
    return blank + text if right else text + blank


def _counts(dtypes: Mapping[str, int]) -> str:
    return ", ".join(f"{count(number)} {dtype}" for dtype, number in dtypes.items()) or "-"
