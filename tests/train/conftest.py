"""The process that forks ranks, shared by all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.train.ranks import WarmRanks


@pytest.fixture(scope="session")
def trainers() -> Iterator[WarmRanks]:
    """Starts ranks quickly."""
    server = WarmRanks()
    yield server
    server.close()
