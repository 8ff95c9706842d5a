"""Messages between coordinator and agents over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hpctrain.agent.channel import LIMIT_BYTES, Hub, Line, dial
from hpctrain.checkpoint.keeper_wire import WireError

SECRET, OTHER = b"s" * 32, b"o" * 32


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(SECRET, "127.0.0.1")
    yield made
    made.close()


def until(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def meet(hub: Hub) -> tuple[Line, Line]:
    """The agent's end and the coordinator's."""
    mine = dial(hub.addr, hub.port, SECRET, 10)
    arrived: list[Line] = []
    until(lambda: arrived.extend(hub.arrived()) or arrived)
    return mine, arrived[0]


def received(line: Line, count: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    until(lambda: found.extend(line.receive()) or len(found) >= count)
    return found


def test_messages_arrive_whole_and_in_order(hub: Hub) -> None:
    """Both ways, also one that is larger than any buffer between them."""
    agent, coordinator = meet(hub)
    agent.send({"t": "hello", "text": "a\nb ü"})
    agent.send({"t": "beat"})
    big = "x" * 4_000_000
    threading.Thread(target=lambda: [coordinator.send({"big": big}), *iter(lambda: _push(coordinator), False)]).start()

    assert [{"t": "hello", "text": "a\nb ü"}, {"t": "beat"}] == received(coordinator, 2)
    assert big == received(agent, 1)[0]["big"]


def _push(line: Line) -> bool:
    time.sleep(0.002)
    line.push()
    return line.is_waiting


def test_the_listening_end_is_bound_to_one_address_only(hub: Hub) -> None:
    """No other interface of the host is listened on."""
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", hub.port), timeout=5):
        pass


def test_a_stranger_without_the_secret_gets_no_line(hub: Hub) -> None:
    """The one who calls is told so; nobody arrives."""
    with pytest.raises(WireError, match="secret"):
        dial(hub.addr, hub.port, OTHER, 10)
    assert [] == hub.arrived()


def test_a_hub_without_the_secret_is_not_believed() -> None:
    """An agent does not obey whoever listens on the coordinator's port."""
    false = Hub(OTHER, "127.0.0.1")
    try:
        with pytest.raises(WireError):
            dial(false.addr, false.port, SECRET, 10)
    finally:
        false.close()


def test_silent_strangers_hold_up_nobody(hub: Hub) -> None:
    """Connections that say nothing wait for their end in threads of their own."""
    silent = [socket.create_connection((hub.addr, hub.port)) for _ in range(8)]
    agent, coordinator = meet(hub)
    agent.send({"t": "hello"})

    assert [{"t": "hello"}] == received(coordinator, 1)
    for one in silent:
        one.close()


def test_what_was_sent_before_the_end_is_received(hub: Hub) -> None:
    """An agent that dies has often said why."""
    agent, coordinator = meet(hub)
    agent.send({"t": "ended"})
    agent.close()
    found: list[dict[str, object]] = []
    until(lambda: found.extend(coordinator.receive()) or coordinator.closed)

    assert [{"t": "ended"}] == found
    coordinator.send({"t": "kill"})  # nothing happens


def test_text_that_is_no_message_ends_the_line(hub: Hub) -> None:
    """Whoever does not speak JSON is not one of ours."""
    agent, coordinator = meet(hub)
    agent._sock.send(b"GET / HTTP/1.1\r\n")
    until(lambda: coordinator.receive() or coordinator.closed)

    assert coordinator.closed


def test_a_line_that_nobody_reads_is_given_up(hub: Hub) -> None:
    """An agent that is stopped must not make the coordinator hold more and more for it."""
    agent, coordinator = meet(hub)
    chunk = "x" * (LIMIT_BYTES // 4)
    for _ in range(6):
        coordinator.send({"text": chunk})

    assert coordinator.closed
    agent.close()


def test_nobody_listens_after_close(hub: Hub) -> None:
    """Calling then fails at once."""
    hub.close()
    with pytest.raises(WireError):
        dial(hub.addr, hub.port, SECRET, 5)
