"""The time server and draining through scontrol, against stand-ins that answer for real."""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from hpctrain.health.drain import drain
from hpctrain.health.probe_host import ask_time


def serve_time(ahead_s: float, answer: bytes | None = None) -> tuple[socket.socket, threading.Thread]:
    """An NTP server on the loopback whose clock is ahead of ours."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(20)

    def run() -> None:
        request, address = server.recvfrom(512)
        now = time.time() + ahead_s + 2_208_988_800
        stamp = struct.pack("!II", int(now), int(now % 1 * 2**32))
        reply = bytes([0x24, 2, 0, 0]) + bytes(20) + request[40:48] + stamp + stamp
        server.sendto(reply if answer is None else answer, address)

    thread = threading.Thread(target=run)
    thread.start()
    return server, thread


@pytest.mark.parametrize("ahead_s", [0.0, 100.0, -100.0])
def test_the_clock_is_compared_with_a_time_server(ahead_s: float) -> None:
    """The offset is ours minus the server's, to within the time the answer takes."""
    server, thread = serve_time(ahead_s)
    offset = ask_time(f"127.0.0.1:{server.getsockname()[1]}", timeout_s=20)
    thread.join()
    server.close()

    assert offset is not None
    assert 10 > abs(offset + ahead_s)


@pytest.mark.parametrize("answer", [b"", b"x" * 48, bytes(48), b"\x24\x02" + bytes(46)])
def test_an_answer_that_is_none_is_not_believed(answer: bytes) -> None:
    """Too short, no server's answer, or not to our question: the offset is unknown, never wrong."""
    server, thread = serve_time(0.0, answer)
    offset = ask_time(f"127.0.0.1:{server.getsockname()[1]}", timeout_s=20)
    thread.join()
    server.close()

    assert offset is None


def test_a_time_server_that_is_silent_is_unknown() -> None:
    """No answer within the timeout, or no such host, is no offset."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        assert ask_time(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1) is None
    assert ask_time("127.0.0.1:port") is None


def scontrol(directory: Path, shown: str, *, fails: bool = False) -> tuple[str, Path]:
    """A program that answers like scontrol and writes down what it was told."""
    told, program = directory / "told", directory / "scontrol"
    program.write_text(f"#!/bin/sh\n[ $1 = show ] && {{ echo '{shown}'; exit {int(fails)}; }}\necho \"$*\" >> {told}\n")
    program.chmod(0o755)
    return str(program), told


@pytest.mark.parametrize(
    ("shown", "refusal"),
    [
        ("NodeName=n1 State=IDLE CPUs=4", ""),
        ("NodeName=n1 State=IDLE Reason=none", ""),
        ("NodeName=n1 State=DOWN Reason=hpctrain: old [root@2026-01-01T00:00:00]", ""),
        ("NodeName=n1 State=IDLE+DRAIN Reason=operator: memory test [ada@2026-01-01T00:00:00]", "operator: memory test"),
        ("NodeName=n1 State=DOWN Reason=Not responding [slurm@2026-01-01T00:00:00] Comment=x", "Not responding"),
    ],
)
def test_a_reason_of_somebody_else_is_left_alone(shown: str, refusal: str, tmp_path: Path) -> None:
    """A node without a reason, or with one of ours, is drained; a person's or Slurm's own reason is not touched."""
    program, told = scontrol(tmp_path, shown)

    answer = drain("n1", "hpctrain: new", scontrol=program, slurm_conf="")

    assert refusal in answer
    assert bool(refusal) is not told.exists()
    assert refusal or "update NodeName=n1 State=DRAIN Reason=hpctrain: new" == told.read_text().strip()


def test_a_node_that_we_drained_keeps_its_first_reason(tmp_path: Path) -> None:
    """Setting the reason again would reset since when the node is out of service."""
    program, told = scontrol(tmp_path, "NodeName=n1 State=IDLE+DRAIN Reason=hpctrain: old [root@2026-01-01T00:00:00]")

    assert "" == drain("n1", "hpctrain: new", scontrol=program, slurm_conf="")
    assert not told.exists()


def test_a_controller_that_does_not_answer_is_said(tmp_path: Path) -> None:
    """Nothing is changed without having seen the node."""
    program, told = scontrol(tmp_path, "", fails=True)

    assert "does not answer" in drain("n1", "hpctrain: new", scontrol=program, slurm_conf="")
    assert not told.exists()
