"""The same bug gives the same text, another bug another one."""

from __future__ import annotations

import pytest

from hpctrain.watchdog.fingerprint import LONGEST, fingerprint

TRACEBACK = """Traceback (most recent call last):
  File "/home/ada/run/train.py", line {line}, in main
    step(batch)
  File "/home/ada/run/data.py", line 88, in next_batch
    raise ValueError("bad token")
ValueError: bad token {number} on cuda:{rank} at 0x{address:x}
"""


def text(line: int, number: int, rank: int, address: int) -> str:
    """The fingerprint of one occurrence."""
    traceback = TRACEBACK.format(line=line, number=number, rank=rank, address=address)
    return fingerprint(traceback.strip().splitlines()[-1], traceback, 1)


def test_numbers_ranks_addresses_and_lines_do_not_matter() -> None:
    """Two ranks that met one bug at other data give one text, which people can read."""
    assert text(10, 17, 0, 0x7F00) == text(12, 99, 3, 0xABC1) == (
        "ValueError: bad token # on cuda:# at ADDRESS | data.py:next_batch < train.py:main"
    )


@pytest.mark.parametrize(("one", "other"), [
    ("timeout at 2026-01-02 03:04:05.678 on rank 3", "timeout at 2027-11-12T13:14:15Z on rank 11"),
    ("connect to 10.0.0.1:2950 failed", "connect to 192.168.7.33:40001 failed"),
    ("no such file /tmp/tmpab12cdxy/part-3.bin", "no such file /scratch/tmpzz98qq_1/part-17.bin"),
    ("request 8f14e45f-ceea-467f-9f7a-1b2c3d4e5f60 lost", "request 00000000-1111-2222-3333-444444444444 lost"),
    ("shape [3, 5] and [4, 9]", "shape [12, 7] and [1, 2]"),
    ("loss is 1.5e-3", "loss is -27"),
    ("commit deadbeef12 differs", "commit 0123abcd99ef differs"),
    ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3", "CUDA out of memory. Tried to allocate 12 GiB. GPU 0"),
])
def test_what_changes_is_left_out(one: str, other: str) -> None:
    """Times, hosts, temporary names, identifiers and amounts."""
    assert fingerprint(one, "", 1) == fingerprint(other, "", 1) != ""


@pytest.mark.parametrize(("one", "other"), [
    ("KeyError: 'loss'", "KeyError: 'lr'"), ("ValueError: boom", "TypeError: boom"),
])
def test_other_bugs_differ(one: str, other: str) -> None:
    """Words and kinds are kept."""
    assert fingerprint(one, "", 1) != fingerprint(other, "", 1)


def test_the_last_of_several_tracebacks_counts() -> None:
    """A chained exception is known by what finally ended the program, a message of several lines by its error's first."""
    chained = TRACEBACK.format(line=1, number=1, rank=1, address=1) + (
        "\nDuring handling of the above exception, another exception occurred:\n\n"
        'Traceback (most recent call last):\n  File "/x/close.py", line 3, in close\n    die()\n'
        "    ^^^^^\nRuntimeError: cannot close 5\nmore words 7\n"
    )
    assert fingerprint("more words 7", chained, 1) == "RuntimeError: cannot close # | close.py:close"


@pytest.mark.parametrize(("exit_code", "expected"), [
    (137, ""), (-9, ""), (143, ""), (1, "exit code 1"), (139, "exit code 139"),
])
def test_without_words_the_exit_code_is_all_there_is(exit_code: int, expected: str) -> None:
    """A program that was killed from outside is no bug of its own."""
    assert fingerprint("", "  \n", exit_code) == expected


def test_long_messages_are_cut_and_still_differ() -> None:
    """The end of a long message still tells two bugs apart."""
    one, other = fingerprint("word " * 200 + "left", "", 1), fingerprint("word " * 200 + "right", "", 1)
    assert len(one) == len(other) == LONGEST and one != other
