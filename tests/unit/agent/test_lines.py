"""Program output is cut into lines whatever a program prints."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpctrain.agent.lines import MAX_LINE_BYTES, LineCutter, stamp


def cut(*parts: bytes, apart_s: float = 0.0) -> list[bytes]:
    cutter = LineCutter()
    lines: list[bytes] = []
    for number, part in enumerate(parts):
        lines += cutter.feed(part, number * apart_s)
    return lines + cutter.close()


def test_lines_arrive_whole_however_they_are_read() -> None:
    """A line that comes in several reads, and one without an end, are each one line."""
    assert cut(b"on", b"e\ntw", b"o\n\nlast") == [b"one", b"two", b"", b"last"]


def test_windows_line_ends_are_one_end() -> None:
    r"""``\r\n`` ends a line also when a read falls between its two characters."""
    assert cut(b"a\r\nb\r", b"\nc") == [b"a", b"b", b"c"]


def test_progress_bar_leaves_its_last_state_and_not_a_flood() -> None:
    """Of a thousand redrawings within a second only the first and the final one become lines."""
    redrawings = [b"\r%d%%" % (number // 10) for number in range(1000)]
    assert cut(*redrawings, b"\rdone\n") == [b"0%", b"done"]


def test_slow_progress_bar_is_shown_as_it_goes() -> None:
    """A bar that is redrawn every two seconds leaves each of its states."""
    assert cut(b"\r10%", b"\r20%", b"\r30%", b"\r40%\n", apart_s=2.0) == [b"10%", b"20%", b"40%"]


def test_endless_line_is_cut() -> None:
    """A program that never ends its line fills neither memory nor one line of the log."""
    lines = cut(*[b"x" * 50_000] * 10)
    assert b"".join(lines) == b"x" * 500_000
    assert max(map(len, lines)) <= MAX_LINE_BYTES


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_byte_is_lost_without_carriage_returns(parts: list[bytes]) -> None:
    """Any bytes, also no text at all, come out as they went in, cut at the line feeds."""
    parts = [part.replace(b"\r", b"?") for part in parts]
    expected = b"".join(parts).split(b"\n")
    assert cut(*parts) == (expected if expected[-1] else expected[:-1])


def test_stamp_is_utc_with_milliseconds() -> None:
    """The prefix never shows 60 seconds or 1000 milliseconds, also right below a full second."""
    assert stamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert stamp(1795228681.999999) == "2026-11-21T02:38:01.999Z"
