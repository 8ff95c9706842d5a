"""Log lines: selection, order, reading from both ends, growing files."""

from __future__ import annotations

import json

import pytest

from hpctrain.jobs.logs import EchoFilter, LineFormat, LogLine, Selection, clean, split_stamp
from hpctrain.jobs.tail import FileTail, Source, find_sources, read_all, read_last
from hpctrain.jobs.text import iso
from hpctrain.testing.run_builder import RunBuilder


@pytest.fixture
def builder(tmp_path):
    run = RunBuilder(tmp_path, "tiny-1")
    run.log(0, "n1", [(10.0, "a"), (12.0, "c")]).log(1, "n1", [(11.0, "b")]).log(2, "n2", [(11.5, "x")])
    return run.log(0, "n3", [(20.0, "d")], incarnation=1).job_log(f"{iso(9.0)} hpctrain: hello", "no stamp")


def texts(lines):
    return [line.text for line in lines]


@pytest.mark.parametrize(("selection", "expected"), [
    (Selection(), ["hpctrain: hello", "no stamp", "a", "c", "d"]),
    (Selection(all=True), ["hpctrain: hello", "no stamp", "a", "b", "x", "c", "d"]),
    (Selection(rank=0), ["a", "c", "d"]), (Selection(node="n2"), ["x"]), (Selection(rank=2, node="n1"), []),
])
def test_selection(builder, selection, expected):
    """Rank, node, all, and by default rank 0 with the batch step, in order of time over all incarnations."""
    assert texts(read_all(find_sources(builder.dir, selection))) == expected


@pytest.mark.parametrize("count", range(9))
def test_last_lines_are_the_end_of_all_lines(builder, count):
    """--tail N shows the same last N lines that the whole log ends with."""
    sources = find_sources(builder.dir, Selection(all=True))
    everything = texts(read_all(sources))
    assert texts(read_last(sources, count)[0]) == everything[max(0, len(everything) - count):]


def test_last_lines_of_a_large_file(builder):
    """The newest lines of a file of many blocks are found without reading it from the start."""
    builder.log(5, "n9", [(100.0 + i, f"line {i} " + "x" * 200) for i in range(5000)])
    lines, tails = read_last(find_sources(builder.dir, Selection(rank=5)), 3)
    assert [line.text.split()[1] for line in lines] == ["4997", "4998", "4999"]
    assert tails[0].read() == []


def test_echoed_lines_are_shown_once(tmp_path):
    """The agents repeat rank 0's lines in the batch step's output; they appear once, repeated prints as often as printed."""
    run = RunBuilder(tmp_path, "tiny-1").log(0, "n1", [(1.0, "same"), (1.0, "same"), (2.0, "other")])
    run.job_log(f"{iso(1.0)} same", f"{iso(1.0)} same", f"{iso(2.0)} other", f"{iso(3.0)} hpctrain: mine")
    lines = list(read_all(find_sources(run.dir, Selection())))
    assert [(line.prefix, line.text) for line in lines] == [
        ("[rank 0 n1]", "same"), ("[rank 0 n1]", "same"), ("[rank 0 n1]", "other"), ("[job]", "hpctrain: mine"),
    ]


def test_echo_filter_forgets_old_lines():
    """The memory for repeated lines is bounded."""
    echo = EchoFilter(remember=2)
    for number in range(5):
        assert echo.passes(LogLine(float(number), 0, 0, "n1", "x"))
    assert not echo.passes(LogLine(4.0, 0, -1, "", "x")) and echo.passes(LogLine(0.0, 0, -1, "", "x"))


def test_growing_file_gives_whole_lines_only(tmp_path):
    """A line is shown once its newline is there; at the end a torn one is shown as it is."""
    path = tmp_path / "log"
    tail = FileTail(Source(path, 0, 0, "n1"))
    assert tail.read() == []
    path.write_text("one\ntw")
    assert texts(tail.read()) == ["one"]
    with path.open("a") as file:
        file.write("o\nthr")
    assert texts(tail.read()) == ["two"]
    assert texts(tail.read(to_end=True)) == ["thr"] and tail.read(to_end=True) == []


def test_truncated_and_replaced_files_are_read_again(tmp_path):
    """A file that was cut short or replaced is read from its start."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    tail = FileTail(Source(path, 0, 0, "n1"))
    tail.read()
    path.write_text("new\n")
    assert texts(tail.read()) == ["new"]
    other = tmp_path / "other"
    other.write_text("replaced and longer\n")
    other.replace(path)
    assert texts(tail.read()) == ["replaced and longer"]


def test_utf8_split_over_reads_survives(tmp_path):
    """A character whose bytes arrive in two writes is shown whole; rubbish bytes are replaced."""
    path, data = tmp_path / "log", "grün\n".encode()
    tail = FileTail(Source(path, 0, 0, "n1"))
    path.write_bytes(data[:3])
    assert tail.read() == []
    path.write_bytes(data + b"\xff\n")
    assert texts(tail.read()) == ["grün", "\ufffd"]


def test_file_without_newlines_is_read_to_its_end(tmp_path):
    """A file that is one huge line is cut into pieces rather than kept in memory or lost."""
    path = tmp_path / "log"
    path.write_text("x" * 3_000_000)
    lines = list(read_all([Source(path, 0, 0, "n1")]))
    assert sum(len(line.text) for line in lines) == 3_000_000 and len(lines) >= 2


def test_stamp_is_split_off():
    """The ISO time becomes seconds; a line without one keeps its text."""
    assert split_stamp("1970-01-01T00:01:00.250Z hi") == (60.25, "hi")
    assert split_stamp("1970-01-01T00:01:00Z") == (60.0, "")
    assert split_stamp("2026-99-01T00:00:00Z x") == (None, "2026-99-01T00:00:00Z x")
    assert split_stamp("epoch 3") == (None, "epoch 3")


@pytest.mark.parametrize(("text", "plain", "coloured"), [
    ("\r 10%\r 50%\r", " 50%", " 50%"), ("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m\x1b[0m"),
    ("\x1b[2J\x1b[1;1Hgone", "gone", "gone"), ("\x1b]0;title\x07text", "text", "text"), ("bell\x07", "bell", "bell"),
    ("tab\tkept", "tab\tkept", "tab\tkept"), ("c1\x9b31mx", "c131mx", "c131mx"),
])
def test_lines_cannot_disturb_the_terminal(text, plain, coloured):
    """Cursor movements, titles and bells are removed, redrawn progress bars reduced to their last state, colours kept."""
    assert clean(text, colour=False) == plain and clean(text, colour=True) == coloured


def test_formats():
    """A prefix names rank and node, coloured the same every time; json has one object per line."""
    line = LogLine(60.25, 1, 3, "n1", "hi")
    assert LineFormat().show(line) == "[rank 3 n1] hi"
    assert LineFormat(colour=True).show(line) == "\x1b[35m[rank 3 n1]\x1b[0m hi"
    assert LineFormat(timestamps=True).show(line) == "1970-01-01T00:01:00.250Z [rank 3 n1] hi"
    assert json.loads(LineFormat(json=True).show(line)) == {
        "time": 60.25, "time_iso": "1970-01-01T00:01:00.250Z", "rank": 3, "node": "n1", "incarnation": 1, "text": "hi",
    }
    assert json.loads(LineFormat(json=True).show(LogLine(float("-inf"), 0, -1, "", "x")))["time"] is None
