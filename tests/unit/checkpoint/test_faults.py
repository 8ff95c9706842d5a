"""Storage that fails while training goes on: each call of a save once, a full disk, a directory one may not write."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.checkpoint.catalogue import verify
from hpctrain.checkpoint.tier_shared import SharedTier
from tests.source_tree import ROOT

torch = pytest.importorskip("torch")

from tests.unit.checkpoint.test_manager import Session  # noqa: E402 - after the check that torch is there

CALLS = (
    "open", "fsync", "write", "writev", "pwrite", "pwritev", "replace", "rename", "link", "mkdir", "rmdir", "unlink",
    "chmod", "fchmod", "listdir", "scandir", "stat", "lstat", "ftruncate", "posix_fallocate", "copy_file_range",
)
"""All that the code asks of the file system through ``os``, pathlib and shutil included."""


class Faults:
    """Lets the n-th call on a file system fail, and counts calls."""

    def __init__(self, code: int, at: int) -> None:
        self.code, self.at, self.count = code, at, 0
        self.hit = ""

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, which fails when its turn has come."""

        def maybe(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count - 1 == self.at:
                self.hit = name
                raise OSError(self.code, os.strerror(self.code), str(args[0]) if args else "")
            return call(*args, **options)

        return maybe

    @contextmanager
    def active(self) -> Iterator[None]:
        """Between the training and its storage."""
        originals = {name: getattr(os, name) for name in CALLS if hasattr(os, name)}
        for name, call in originals.items():
            setattr(os, name, self.wrap(name, call))
        try:
            yield
        finally:
            for name, call in originals.items():
                setattr(os, name, call)


def whole(root: Path) -> list[int]:
    """Steps of all checkpoints that are said to exist; each must be whole."""
    tier = SharedTier(root)
    names = tier.checkpoints(committed=True)
    assert [()] * len(names) == [verify(tier, name).problems for name in names]
    return [name.step for name in names]


@pytest.mark.parametrize(
    "code", [pytest.param(errno.EIO, marks=pytest.mark.slow), errno.ENOSPC, errno.EROFS, errno.ESTALE],
    ids=errno.errorcode.get,
)
def test_every_call_may_fail_once(tmp_path: Path, code: int) -> None:
    """Whichever call of a save or prune fails, the training goes on, an event says so unless the save was safe by then,
    no checkpoint is lost, and the next save works.
    """
    told: list[str] = []
    for at in range(0, 1000, 1 if code == errno.EIO else 5):
        root = tmp_path / str(at)
        session = Session(root)
        session.train(1, 3)
        faults = Faults(code, at)
        with faults.active():
            session.train(4, 4)
        told.append(session.kinds()[-1])
        assert told[-1] in ("checkpoint.saved", "checkpoint.failed"), (at, faults.hit)
        # A record that could not be flushed nor removed is whole all the same; it is not promised, but may be there.
        assert max(whole(root)) in ((4,) if told[-1] == "checkpoint.saved" else (3, 4)), (at, faults.hit)
        session.train(5, 5)
        assert 5 == max(whole(root)), (at, faults.hit)
        assert 5 == Session(root).checkpointer.restore()
        shutil.rmtree(root)
        if not faults.hit:
            break

    assert not faults.hit
    assert "checkpoint.saved" == told[-1]
    assert "checkpoint.failed" == told[0]
    assert told.count("checkpoint.failed") * (1 if code == errno.EIO else 5) > 20


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_unreadable_checkpoint_is_passed_over(tmp_path: Path, code: int) -> None:
    """A read error in the newest checkpoint costs that checkpoint: the one before it is restored, and an event says why."""
    Session(tmp_path).train(1, 2)
    session = Session(tmp_path)
    original, broken = os.preadv, "step-00000002"

    def failing(handle: int, *rest: Any) -> int:
        if broken in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(code, os.strerror(code))
        return original(handle, *rest)

    os.preadv = failing  # type: ignore[assignment]
    try:
        step = session.checkpointer.restore()
    finally:
        os.preadv = original

    assert 1 == step
    assert ["checkpoint.skipped", "checkpoint.restored"] == session.kinds()
    assert os.strerror(code) in session.events[0][1]


PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from tests.unit.checkpoint.test_manager import Session
from tests.unit.checkpoint.test_faults import whole
what, root = sys.argv[2], Path(sys.argv[3])
if what == "full":
    session = Session(root / "c")
    session.train(1, 2)
    blob = root / "blob"
    with blob.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    session.train(3, 4)
    assert max(whole(root / "c")) == 2, whole(root / "c")
    blob.unlink()
    session.train(5, 7)
if what == "readonly":
    session = Session(root / "c")
    session.train(1, 2)
    (root / "c").chmod(0o500)
    session.train(3, 4)
    assert max(whole(root / "c")) == 2, whole(root / "c")
    (root / "c").chmod(0o700)
    session.train(5, 7)
print("\\n".join(f"{kind}: {reason}" for kind, reason in session.events))
"""


@pytest.mark.slow
def test_full_disk(tmp_path: Path) -> None:
    """On a disk that is really full saves fail with an event each and nothing is lost; with room again they succeed."""
    script = ('mount -t tmpfs -o size=2m,mode=0700 none "$1" && exec "$2" -c "$3" "$4" full "$1"')
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if not process.run([*unshare, "mount", "-t", "tmpfs", "none", str(tmp_path)], timeout_s=20).ok:
        pytest.skip("mounting a small file system of one's own is not allowed here")
    argv = [*unshare, "sh", "-c", script, "sh", str(tmp_path), sys.executable, PROGRAM, str(ROOT)]
    result = process.run(argv, timeout_s=120, cwd=str(ROOT))

    assert result.ok, result.stderr
    kinds = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert ["checkpoint.saved"] * 2 == kinds[:2]
    assert "checkpoint.failed" in kinds[2:4]
    assert "No space left on device" in result.stdout
    assert ["checkpoint.saved"] * 3 == kinds[-3:]


@pytest.mark.slow
def test_directory_that_becomes_read_only(tmp_path: Path) -> None:
    """An ordinary user whose directory may no longer be written trains on, with an event for every failed save."""
    tmp_path.chmod(0o700)
    argv = [sys.executable, "-c", PROGRAM, str(ROOT), "readonly", str(tmp_path)]
    env = {**os.environ, "HOME": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    if os.geteuid() == 0:
        argv = _as_nobody(argv, tmp_path)
    result = process.run(argv, timeout_s=120, env=env, cwd="/")

    assert result.ok, result.stderr
    kinds = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert ["checkpoint.saved"] * 2 + ["checkpoint.failed"] * 2 + ["checkpoint.saved"] * 3 == kinds
    assert "Permission denied" in result.stdout


def _as_nobody(argv: list[str], place: Path) -> list[str]:
    """Root may write everywhere, so the program runs as nobody, if nobody can come here and read our Python."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux)")
    for path in (place, *place.parents[:2]):
        if path.stat().st_uid == 0 and path.name.startswith(("pytest", "test_")):
            path.chmod(path.stat().st_mode | 0o011)
    os.chown(place, 65534, 65534)
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv]
    if not process.run([*become[:4], sys.executable, "-c", f"import os; os.listdir({str(ROOT)!r})"], timeout_s=20).ok:
        pytest.skip("another user cannot read this Python or the checkout")
    return become
