"""Starting programs: results, timeouts, missing programs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.errors import MissingDependencyError


def test_result_carries_both_streams_and_the_code() -> None:
    """A finished program leaves its exit code, standard output and standard error."""
    result = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)

    assert (3, "out\n", "err\n", False) == (result.returncode, result.stdout, result.stderr, result.ok)


def test_timeout_kills_the_whole_group() -> None:
    """A program that runs past its timeout is killed together with its children."""
    began = time.monotonic()
    result = process.run(["sh", "-c", "sleep 60 & echo $!; wait"], timeout_s=0.5)

    assert result.timed_out
    assert time.monotonic() - began < 10
    child = int(result.stdout)
    for _ in range(100):
        if not _alive(child):
            break
        time.sleep(0.05)
    assert not _alive(child)


def test_missing_program_is_a_clear_error() -> None:
    """A program that does not exist raises our own error with its name."""
    with pytest.raises(MissingDependencyError, match="no-such-program"):
        process.run(["no-such-program"], timeout_s=1)


def test_arguments_never_meet_a_shell() -> None:
    """Shell characters in arguments arrive as they are."""
    hostile = "$(touch /x) `id` ; | \n '\""

    assert hostile == process.run(["printf", "%s", hostile], timeout_s=5).stdout


def test_undecodable_output_is_kept_readable() -> None:
    """Bytes that are not UTF-8 are replaced, not raised."""
    assert "�" in process.run(["printf", "\\377"], timeout_s=5).stdout


def test_stdin_is_empty_unless_given() -> None:
    """Without text for it a program reads an empty standard input, and with text it reads that text."""
    assert process.run(["cat"], timeout_s=5).stdout == ""
    assert process.run(["cat"], timeout_s=5, stdin="hé").stdout == "hé"


def test_sbin_is_searched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons live in sbin directories that a user's PATH lacks, and are found all the same."""
    monkeypatch.setenv("PATH", "/nonexistent")

    assert process.find("no-such-program") is None
    assert Path("/usr/sbin/chroot").exists() == (process.find("chroot") is not None)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
