"""Collect what calls on one GPU answer, each with an error state of its own (service: takes the calls as arguments)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpctrain.health.gpu_fields import IMPLAUSIBLE, plausible
from hpctrain.health.probe_child import Report

OF_THE_GPU = frozenset(
    {
        "gpu_is_lost",
        "reset_required",
        "irq_issue",
        "insufficient_power",
        "gpu_not_found",
        "lib_rm_version_mismatch",
        "driver_not_loaded",
        "uninitialized",
    }
)
"""Errors that say something about the GPU as a whole, whichever call returned them."""


class Lost(Exception):  # noqa: N818 - control flow within this file
    """Nothing more can be asked of this GPU."""


class GpuReader:
    """Values and errors of one GPU, as calls are made.

    Args:
        name_of: from what a call raised to the name of the error.
    """

    def __init__(self, report: Report, index: int, name_of: Callable[[BaseException], str]) -> None:
        self.report, self.index, self._name_of = report, index, name_of
        self.values: dict[str, float | int | str] = {}
        self.errors: dict[str, str] = {}

    def ask(self, names: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Make one call; on an error note it for all the names it would have answered, and return None."""
        self.report.step(f"{getattr(call, '__name__', names)} of GPU {self.index}")
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001 - NVMLError, or bytes that are no text: both are an answer
            name = self._name_of(error)
            for field in names.split():
                self.errors[field] = name
            if name in OF_THE_GPU:
                self.errors.setdefault("handle", name)
            if name == "gpu_is_lost":
                raise Lost from None
            return None

    def put(self, field: str, value: Any) -> None:
        """Keep a value, if it can be true."""
        kept = plausible(field, value)
        if kept is None:
            self.errors[field] = IMPLAUSIBLE
        else:
            self.values[field] = kept

    def one(self, field: str, call: Callable[..., Any], *arguments: Any, scale: float = 1) -> None:
        """A call with one answer."""
        value = self.ask(field, call, *arguments)
        if value is not None:
            self.put(field, value / scale if scale != 1 else text_of(value))

    def several(self, fields: str, call: Callable[..., Any], *arguments: Any) -> None:
        """A call with an answer for each of these names."""
        values = self.ask(fields, call, *arguments)
        if values is not None:
            for field, value in zip(fields.split(), values, strict=False):
                self.put(field, value)


def plain(value: Any) -> str:
    """A short text of printable characters; "" for anything else."""
    return value if isinstance(value, str) and value.isprintable() and len(value) < 100 else ""


def bus_address(raw: Any) -> str:
    """``00000000:3B:00.0`` as the kernel writes it: ``0000:3b:00.0``."""
    text = (raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)).lower()
    domain, _, rest = text.partition(":")
    return f"{domain[-4:].zfill(4)}:{rest}" if rest else ""


def text_of(value: Any) -> Any:
    """Most texts come as str, some as bytes or as the buffer itself."""
    raw = getattr(value, "value", value)
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def scaled(field: str, value: float) -> float:
    """A field value in our unit and sign."""
    if field == "power_average_w":
        return value / 1000
    # Offsets below zero come in fields that some drivers declare unsigned.
    if field == "margin_slowdown_c" and value >= 2**31:
        return value - (2**64 if value >= 2**63 else 2**32)
    return value
