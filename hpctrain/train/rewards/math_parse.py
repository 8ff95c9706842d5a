r"""Reads a mathematical expression, written plainly or in LaTeX, into a tree (pure).

A tree is a tuple: ``("number", Fraction)``, ``("name", "x")``, an operation and its arguments such as
``("+", left, right)`` or ``("sqrt", inner)``, or ``("list", brackets, items)`` for tuples, intervals
(``()``, ``[)``, ...) and sets (``{}``).
Nothing is evaluated by the interpreter, and what is too long or nested too deeply is refused, so that no text can hurt.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]
LONGEST = 400
"""Characters of an expression."""
_DEEPEST = 40
FUNCTIONS = {"sqrt", "sin", "cos", "tan", "ln", "log", "exp", "abs", "arcsin", "arccos", "arctan"}

_CLEAN: tuple[tuple[str, str], ...] = (
    (r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{[^{}]*\}", " "),
    (r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;!:]", " "), (r"\\\s|~", " "), (r"\\[()\[\]]|\\?\$", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"), (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°", " "), (r"\\%", "%"),
    (r"\\(?:cdot|times)(?![A-Za-z])|×|·|∗", "*"), (r"\\div(?![A-Za-z])|÷", "/"), ("[−–]", "-"),  # noqa: RUF001
    (r"\*\*", "^"), (r"\\pi(?![A-Za-z])|π", " pi "), (r"√", r"\\sqrt"), (r"\.\s*\Z", ""),
)
_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3}(?![\d.]))?|\.\d+)|(?P<command>\\[A-Za-z]+|\\[{}])|(?P<word>[A-Za-z]+)"
    r"|(?P<sign>[-+*/^(){}\[\],|!%=])|(?P<blank>\s+)|(?P<other>.)", re.DOTALL)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_OPEN = {"(": ")]", "[": "])", "\\{": ("\\}",)}


class NotMathError(ValueError):
    """The text is no expression that is understood here."""


def parse(text: str) -> Tree:
    """The tree of an expression; of an equation with one name on the left (``x = 3``), that of its right side.

    Raises:
        NotMathError: it is none, or too long, or nested too deeply.
    """
    if len(text) > LONGEST:
        raise NotMathError("too long")
    for pattern, by in _CLEAN:
        text = re.sub(pattern, by, text)
    if not re.search(r"[(\[{]", text):
        text = _GROUPED.sub(lambda match: match.group().replace(",", ""), text)
    tokens = _right_side(_tokens(text))
    reader = _Reader(tokens)
    tree = reader.whole()
    if reader.left:
        raise NotMathError(f"unexpected {reader.peek()!r}")
    return tree


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        kind, piece = match.lastgroup, match.group()
        if kind == "blank":
            continue
        if kind == "other":
            raise NotMathError(f"unexpected {piece!r}")
        if kind == "word" and piece not in FUNCTIONS and piece != "pi":
            if len(piece) > 2:
                raise NotMathError(f"{piece!r} is a word")
            found.extend(piece)  # ab is a times b
        else:
            found.append(piece)
    return found


def _right_side(tokens: list[str]) -> list[str]:
    if tokens.count("=") == 1 and len(tokens) > 2 and tokens[1] == "=" and tokens[0].isalpha():
        return tokens[2:]
    return tokens


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0

    @property
    def left(self) -> int:
        return len(self._tokens) - self._at

    def peek(self) -> str:
        return self._tokens[self._at] if self.left else ""

    def take(self, wanted: str = "") -> str:
        piece = self.peek()
        if not piece or (wanted and piece != wanted):
            raise NotMathError(f"expected {wanted or 'more'}, got {piece!r}")
        self._at += 1
        return piece

    def whole(self) -> Tree:
        """A value, or several between commas."""
        items = self._items()
        return items[0] if len(items) == 1 else ("list", "", items)

    def _items(self) -> tuple[Tree, ...]:
        items = [self.sum()]
        while self.peek() == ",":
            self.take()
            items.append(self.sum())
        return tuple(items)

    def sum(self) -> Tree:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotMathError("nested too deeply")
        tree = self._product()
        while self.peek() in ("+", "-"):
            tree = (self.take(), tree, self._product())
        self._depth -= 1
        return tree

    def _product(self) -> Tree:
        tree = self._signed()
        while True:
            piece = self.peek()
            if piece in ("*", "/"):
                tree = (self.take(), tree, self._signed())
            elif piece == "\\frac" and _is_whole(tree):
                tree = ("+", tree, self._power())  # 1\frac{1}{2} is one and a half
            elif piece and (piece[0].isalnum() or piece in ("(", "\\frac", "\\sqrt", "\\{") or piece[1:] in FUNCTIONS):
                if piece[0].isdigit():
                    raise NotMathError("two numbers side by side")
                tree = ("*", tree, self._power())
            else:
                return tree

    def _signed(self) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        tree = self._power()
        return ("negative", tree) if negative else tree

    def _power(self) -> Tree:
        tree = self._atom()
        while self.peek() in ("!", "%"):
            tree = (self.take(), tree)
        if self.peek() != "^":
            return tree
        self.take()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotMathError("nested too deeply")
        exponent = self._signed()
        self._depth -= 1
        return ("^", tree, exponent)

    def _atom(self) -> Tree:
        piece = self.take()
        if piece[0].isdigit() or piece[0] == ".":
            return ("number", Fraction(piece if piece[-1] != "." else piece[:-1]))
        if piece == "\\frac":
            return ("/", self._argument(), self._argument())
        name = piece.removeprefix("\\")
        if name in FUNCTIONS:
            return self._function(name)
        if piece.isalpha():
            return ("name", piece)
        if piece == "|":
            tree = self.sum()
            self.take("|")
            return ("abs", tree)
        if piece == "{":
            tree = self.sum()
            self.take("}")
            return tree
        if piece in _OPEN:
            return self._bracket(piece)
        raise NotMathError(f"unexpected {piece!r}")

    def _bracket(self, opening: str) -> Tree:
        if opening == "\\{" and self.peek() == "\\}":
            self.take()
            return ("list", "{}", ())
        items = self._items()
        closing = self.take()
        if closing not in _OPEN[opening]:
            raise NotMathError(f"{opening} is closed by {closing!r}")
        if len(items) == 1 and opening == "(" and closing == ")":
            return items[0]
        return ("list", "{}" if opening == "\\{" else opening + closing, items)

    def _function(self, name: str) -> Tree:
        if name == "sqrt" and self.peek() == "[":
            self.take()
            root = self.sum()
            self.take("]")
            return ("^", self._argument(), ("/", ("number", Fraction(1)), root))
        return (name, self._argument() if self.peek() in ("{", "(") or name == "sqrt" else self._power())

    def _argument(self) -> Tree:
        """What follows a command: a group in braces, or a single digit, letter or command."""
        piece = self.peek()
        if piece.isdigit() and len(piece) > 1:  # \frac12 is one half
            self._tokens[self._at:self._at + 1] = [piece[0], piece[1:]]
        return self._atom()


def _is_whole(tree: Tree) -> bool:
    return bool(tree[0] == "number" and tree[1].denominator == 1)
