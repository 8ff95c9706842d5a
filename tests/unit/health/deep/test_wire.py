"""The line between conductor and nodes: who does not know the secret is not heard, and who leaves is noticed."""

from __future__ import annotations

import socket
from multiprocessing import AuthenticationError

import pytest

from hpctrain.health.deep.wire import Hall, Line, Message

SECRET = b"a secret of this run"


def next_from(hall: Hall) -> tuple[str, Message | None]:
    """The next message; a busy machine has time."""
    heard = hall.hear(30.0)
    assert heard is not None
    return heard


def test_messages_go_both_ways_and_a_lost_node_is_noticed() -> None:
    """Closing the line is the last message."""
    hall = Hall(SECRET)
    line = Line("127.0.0.1", hall.port, SECRET)
    line.say({"node": "n1"})
    assert ("n1", {"node": "n1"}) == next_from(hall)
    assert "127.0.0.1" == hall.hellos["n1"]["address"]

    assert hall.say("n1", {"round": 1})
    assert {"round": 1} == line.hear()

    line._line.close()
    assert ("n1", None) == next_from(hall)
    assert not hall.say("n2", {})


def test_a_stranger_is_not_heard_and_holds_nobody_up() -> None:
    """A silent one, one with garbage and one with another secret; a node after them is served."""
    hall = Hall(SECRET)
    silent = socket.create_connection(("127.0.0.1", hall.port))
    garbage = socket.create_connection(("127.0.0.1", hall.port))
    garbage.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
    with pytest.raises((AuthenticationError, EOFError, OSError)):
        Line("127.0.0.1", hall.port, b"guessed").say({"node": "n9"})

    Line("127.0.0.1", hall.port, SECRET).say({"node": "n1"})

    assert "n1" == next_from(hall)[0]
    assert ["n1"] == list(hall.hellos)
    for one in (silent, garbage):
        one.close()
