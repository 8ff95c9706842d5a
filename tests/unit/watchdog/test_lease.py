"""One watchdog at a time: on one host by a lock, across hosts by a lease with a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.testing.fake_clock import FakeClock
from hpctrain.watchdog.journal import FencedError
from hpctrain.watchdog.lease import Lease


def test_the_second_on_a_host_waits_and_takes_over_at_once(tmp_path: Path) -> None:
    """The lock goes with the process, so that nobody waits for a lease to run out."""
    clock = FakeClock()
    one, two = Lease(tmp_path, "a", clock), Lease(tmp_path, "a", clock)
    assert one.acquire() and not two.acquire()
    one.check()
    import os

    os.close(one._lock)  # what the kernel does when a process dies
    assert two.acquire() and two.token == one.token + 1
    with pytest.raises(FencedError):
        one.check()


def test_another_host_waits_until_the_lease_has_run_out_by_its_own_clock(tmp_path: Path) -> None:
    """The holder's clock does not matter: only that its file did not change for the whole time."""
    there, here = FakeClock(5_000_000.0), FakeClock(0.0)
    one, two = Lease(tmp_path, "a", there), Lease(tmp_path, "b", here)
    assert one.acquire() and not two.acquire()
    for _ in range(20):
        there.advance(12)
        here.advance(12)
        one.renew()
        assert not two.acquire()
    for _ in range(5):
        here.advance(12)
        assert two.acquire() == (two.token > 0)
    here.advance(12)
    assert two.acquire()
    there.advance(1)
    with pytest.raises(FencedError):
        one.check()
    with pytest.raises(FencedError):
        one.renew()


def test_a_lease_that_was_given_back_is_free_at_once(tmp_path: Path) -> None:
    """A clean end costs the next one no wait."""
    clock = FakeClock()
    one, two = Lease(tmp_path, "a", clock), Lease(tmp_path, "b", clock)
    assert one.acquire()
    one.release()
    assert two.acquire() and two.token == 2
    with pytest.raises(FencedError):
        one.check()


def test_of_two_contenders_one_wins(tmp_path: Path) -> None:
    """The next number can be made once."""
    clock = FakeClock()
    dead = Lease(tmp_path, "a", clock)
    assert dead.acquire()
    two, three = Lease(tmp_path, "b", clock), Lease(tmp_path, "c", clock)
    assert not two.acquire() and not three.acquire()
    clock.advance(61)
    assert [two.acquire(), three.acquire()] == [True, False]


def test_a_holder_that_slept_renews_before_it_acts(tmp_path: Path) -> None:
    """After two thirds of the time it shows life first; if nobody has taken over, it goes on."""
    clock = FakeClock()
    one, two = Lease(tmp_path, "a", clock), Lease(tmp_path, "b", clock)
    assert one.acquire() and not two.acquire()
    clock.advance(50)
    one.check()
    clock.advance(15)
    assert not two.acquire(), "its file has changed meanwhile"
