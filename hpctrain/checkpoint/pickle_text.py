"""Writes the two pickles that PyTorch's own tools expect, without importing what they name (pure).

``torch.save`` entries and DCP's ``.metadata`` are pickles of PyTorch's classes. Writing them by opcode needs neither torch
nor its process groups, so the process that writes durable checkpoints can do without both. We never *read* a pickle.
Protocol 2, as torch writes it: everything else is refused by ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Global:
    """Something that a module defines, such as ``Global("torch", "float32")``."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """The result of calling a global."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """An object made without calling its ``__init__``, and given its state."""

    kind: Global
    state: Any


@dataclass(frozen=True, slots=True)
class Persistent:
    """An object that the reader finds by this id, such as a tensor's storage."""

    identity: tuple[Any, ...]


def dumps(value: Any) -> bytes:
    """The pickle of nested values: None, bool, int, str, tuple, list, dict and the classes above.

    Raises:
        TypeError: anything else.
    """
    text = _Text()
    text.put(value)
    return b"".join([pickle.PROTO, b"\x02", *text.parts, pickle.STOP])


class _Text:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._memo: dict[Any, int] = {}

    def put(self, value: Any) -> None:
        kind = type(value)
        if kind is int:
            self.parts.append(_integer(value))
        elif kind is str or kind is Global:
            self._remember(value)
        elif kind is tuple or kind is dict or kind is list:
            self._container(value)
        elif value is None or kind is bool:
            self.parts.append({None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value])
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, Call):
            self._all(value.function, value.arguments, code=pickle.REDUCE)
        elif isinstance(value, Instance):
            self._all(value.kind, (), code=pickle.NEWOBJ)
            self._all(value.state, code=pickle.BUILD)
        elif isinstance(value, Persistent):
            self._all(value.identity, code=pickle.BINPERSID)
        else:
            raise TypeError(f"a {type(value).__name__} is not written as a pickle")

    def _all(self, *values: Any, code: bytes) -> None:
        for value in values:
            self.put(value)
        self.parts.append(code)

    def _container(self, value: Any) -> None:
        if value == ():
            self.parts.append(pickle.EMPTY_TUPLE)
            return
        if not isinstance(value, tuple):
            self.parts.append(pickle.EMPTY_DICT if isinstance(value, dict) else pickle.EMPTY_LIST)
        self.parts.append(pickle.MARK)
        items = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        close = {"tuple": pickle.TUPLE, "list": pickle.APPENDS, "dict": pickle.SETITEMS}
        self._all(*items, code=close[type(value).__name__])

    def _remember(self, value: str | Global) -> None:
        """Names occur thousands of times: write each once, and refer to it."""
        if value in self._memo:
            self.parts.append(pickle.LONG_BINGET + struct.pack("<I", self._memo[value]))
            return
        if isinstance(value, Global):
            self.parts.append(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        else:
            text = value.encode()
            self.parts.append(pickle.BINUNICODE + struct.pack("<I", len(text)) + text)
        self._memo[value] = len(self._memo)
        self.parts.append(pickle.LONG_BINPUT + struct.pack("<I", self._memo[value]))


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return pickle.BININT1 + bytes([value])
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    text = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(text)]) + text
