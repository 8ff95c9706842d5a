"""The journal: private, atomic, fenced, and in the mode that its file system allows."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hpctrain.errors import StorageError
from hpctrain.watchdog.journal import KEEP_S, Journal, on_shared_file_system
from hpctrain.watchdog.model import Command, Deed

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 22 0:41 / /scratch\\040fast rw - lustre mgs:/s rw
"""


def command(key: str, deed: Deed = Deed.NOTIFY) -> Command:
    """Some command."""
    return Command(deed, key, 1, 0, "run-1", "/runs/run-1", reason="because", nodes=("n1",), data={"kind": "x"})


def test_intents_are_kept_once_and_read_back(tmp_path: Path) -> None:
    """A key that is known is not intended again, also not when it is done; the file is private."""
    journal = Journal(tmp_path / "w" / "journal.sqlite", 1)
    entries = journal.intend([command("a"), command("b")], 10.0)
    assert [entry.command for entry in entries] == [command("a"), command("b")]
    journal.finish(entries[0], "done", "well", 11.0)
    assert journal.intend([command("a"), command("b")], 12.0) == []
    assert [entry.command.key for entry in journal.open_deeds()] == ["b"]
    assert [entry.result for entry in journal.newest()] == ["well", ""]
    assert stat.S_IMODE((tmp_path / "w" / "journal.sqlite").stat().st_mode) == 0o600


def test_old_deeds_are_forgotten_with_their_jobs(tmp_path: Path) -> None:
    """Only when both job and deed are long over."""
    journal = Journal(tmp_path / "journal.sqlite", 1)
    journal.finish(journal.intend([command("a")], 0.0)[0], "done", "", 0.0)
    journal.see([(1, "run-1", "/runs/run-1", 0, False)], 0.0)
    journal.forget(KEEP_S + 1)
    assert len(journal.newest()) == 1
    journal.see([], KEEP_S, gone=[1])
    journal.forget(KEEP_S + 1)
    assert journal.newest() == [] and journal.memory() == {}


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    """No traceback of sqlite's."""
    (tmp_path / "journal.sqlite").write_bytes(b"this is no database, and long enough to be read as one" * 40)
    with pytest.raises(StorageError, match="journal"):
        Journal(tmp_path / "journal.sqlite", 1)


@pytest.mark.parametrize(("path", "shared"), [
    ("/var/lib/w", False), ("/home/ada/w", True), ("/scratch fast/w", True), ("/homework", False),
])
def test_file_systems_are_told_apart(path: str, shared: bool) -> None:
    """A write-ahead log needs memory that hosts do not share."""
    assert on_shared_file_system(Path(path), MOUNTS) is shared
