"""Frames, profiles and the link of ``--remote``: what goes over the wire, and what does not."""

from __future__ import annotations

import sys

import click
import pytest

from hpctrain.errors import RecipeError
from hpctrain.fleet.remote_frames import MAGIC, GarbledError, Reader, hello, merge, pack
from hpctrain.fleet.remote_link import Link
from hpctrain.fleet.remote_profile import Remote, find_remote


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("noise", [b"", b"Welcome to the cluster!\nLast login: today\n", bytes(range(30)) * 50])
def test_frames_survive_any_cutting(size, noise):
    """Whatever the login shell prints before, and however the stream is cut, every frame arrives whole."""
    frames = [{"items": [[1, "läuft\n"], [2, "\x1b[31m"]]}, {"at": {"a": 1}}, {"exit": 3}]
    stream = noise + hello("1.2") + b"".join(pack(frame) for frame in frames)
    reader, found = Reader(), []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start:start + size])

    assert frames == found
    assert {"protocol": 1, "version": "1.2"} == reader.greeting
    assert noise == reader.noise.removesuffix(b"\n")


@pytest.mark.parametrize("stream", [
    b"x" * 70_000, MAGIC + b"not json\n", MAGIC + b"[]\n", hello("1") + b"\xff\xff\xff\xff", hello("1") + b"\0\0\0\1x",
    hello("1") + b"\0\0\0\2[]",
])
def test_what_is_no_frame_is_refused(stream):
    """Something else than the protocol is an error, and is not waited for or kept without end."""
    with pytest.raises(GarbledError):
        Reader().feed(stream)


def test_positions_merge():
    """Mappings merge, events add up, anything else is replaced."""
    position = {"logs": {"files": {"a": [1, 2, 3]}, "incarnation": 0}, "events": ["x"]}
    merge(position, {"logs": {"files": {"a": [1, 9, 3], "b": [4, 0, None]}}, "events": ["y"], "job": 7})

    files = {"a": [1, 9, 3], "b": [4, 0, None]}
    assert position == {"logs": {"files": files, "incarnation": 0}, "events": ["x", "y"], "job": 7}


TABLE = {"default": "lab", "lab": {"host": "alice@login:2222", "command": "~/venv/bin/hpctrain", "send_limit": "2GiB",
                                   "give_up_s": 30, "cluster": "dev"}, "bare": {}}


@pytest.mark.parametrize(("typed", "expected"), [
    ("", Remote("lab", "alice@login:2222", ("./venv/bin/hpctrain",), "dev", 2 * 2**30, 30.0)),
    ("lab", Remote("lab", "alice@login:2222", ("./venv/bin/hpctrain",), "dev", 2 * 2**30, 30.0)),
    ("bare", Remote("bare", "bare")), ("bob@elsewhere", Remote("bob@elsewhere", "bob@elsewhere")), ("here", None),
])
def test_profiles(typed, expected):
    """A profile's name, a host, nothing at all, and 'here' mean what the table says."""
    assert expected == find_remote(typed, TABLE)


def test_without_a_table_nothing_goes_anywhere():
    """No setting and no option: commands stay here."""
    assert find_remote("", {}) is None


@pytest.mark.parametrize(("table", "words"), [
    ({"lab": "alice@login"}, r"remote.lab must be a table"), ({"lab": {"hots": "x"}}, "unknown setting 'remote.lab.hots'"),
    ({"lab": {"command": []}}, "remote.lab.command"), ({"lab": {"command": [1]}}, "remote.lab.command"),
    ({"lab": {"send_limit": "much"}}, "remote.lab.send_limit"), ({"lab": {"give_up_s": -1}}, "remote.lab.give_up_s"),
    ({"lab": {"host": 3}}, "remote.lab.host"), ({"default": 3}, "remote.default"),
])
def test_wrong_profiles_are_told(table, words):
    """A mistake in the table is one error that names the key."""
    with pytest.raises(RecipeError, match=words):
        find_remote("lab", table)


def test_default_must_exist():
    """A default that is no profile and no host is a mistake."""
    with pytest.raises(RecipeError, match="names 'lap'"):
        find_remote("", {"default": "lap"})


class Wire:
    """Collects frames; may break."""

    def __init__(self) -> None:
        self.reader, self.frames, self.broken = Reader(), [], False
        self.reader.feed(hello("1"))

    def write(self, data: bytes) -> None:
        if self.broken:
            raise BrokenPipeError
        self.frames += self.reader.feed(data)


def test_output_waits_for_its_position():
    """Of a command that follows, standard output is sent with the position after it; messages alone go at once."""
    wire = Wire()
    link = Link(wire.write, now=5.0)
    link.following = True
    with link.in_place_of_the_terminal({"out": True, "encoding": "ascii"}):
        assert sys.stdout.isatty() and not sys.stderr.isatty() and sys.stdout.encoding == "ascii"
        click.echo("wait", err=True)
        click.secho("line 1", fg="red")
        click.echo("about it", err=True)
        assert wire.frames == [{"items": [[2, "wait\n"]]}]
        link.mark({"logs": {"x": 1}})
        click.echo("not marked")
    link.end(0)

    assert wire.frames[1] == {
        "items": [[1, "\x1b[31mline 1\x1b[0m\n"], [2, "about it\n"]], "at": {"now": 5.0, "logs": {"x": 1}},
    }
    assert wire.frames[2] == {"items": [[1, "not marked\n"]], "exit": 0}
    assert link.at == {"now": 5.0, "logs": {"x": 1}}


def test_output_of_other_commands_goes_at_once():
    """A command that follows nothing sends what it flushes."""
    wire = Wire()
    link = Link(wire.write)
    with link.in_place_of_the_terminal({}):
        print("one", flush=True)
        print("two")
    link.end(4)

    assert wire.frames[0] == {"items": [[1, "one\n"]]} and wire.frames[1]["items"] == [[1, "two\n"]]
    assert wire.frames[-1]["exit"] == 4


def test_nobody_listens_any_more():
    """A broken connection is no error for the command, which may have work to finish."""
    wire = Wire()
    link = Link(wire.write, at={"now": 1.0})
    wire.broken = True
    link.put(1, "x")
    link.flush()
    link.end(0)

    assert link.lost and link.now == 1.0


def test_mark_is_told_before_it_is_sent():
    """What must be remembered of a submission is remembered though the connection breaks in that moment."""
    wire, told = Wire(), []
    link = Link(wire.write, on_mark=lambda at, items: told.append((dict(at), list(items))))
    link.following, wire.broken = True, True
    link.put(1, "run-1\n")
    link.mark({"run": "run-1"})

    assert told == [({"now": 0.0, "run": "run-1"}, [(1, "run-1\n")])]
