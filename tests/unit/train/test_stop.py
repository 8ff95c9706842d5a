"""Stop requests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hpctrain.train.stop import SIGNALS, StopRequest


def test_stop_file_is_noticed_when_it_appears(tmp_path: Path) -> None:
    """There is no request until the file is there, and then there is."""
    stop = StopRequest(str(tmp_path / "stop"))
    before = stop.reason
    (tmp_path / "stop").write_text("{}")

    assert "" == before
    assert "the stop file appeared" == stop.reason


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_noted_and_not_acted_on(number: signal.Signals) -> None:
    """SIGTERM and SIGUSR1 are remembered; the process goes on until its loop asks."""
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        stop = StopRequest("")
        stop.install()
        os.kill(os.getpid(), number)

        assert f"{number.name} was received" == stop.reason
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
