"""Object stores that fail, and writers that die: on a real S3 server, behind a proxy that misbehaves."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from itertools import count

import pytest

pytest.importorskip("xxhash")
pytest.importorskip("fsspec")

from hpctrain import process
from hpctrain.checkpoint import object_files
from hpctrain.checkpoint.commit import claim
from hpctrain.checkpoint.names import tensor_file
from hpctrain.checkpoint.object_files import ObjectFiles
from hpctrain.checkpoint.object_patience import Limits, Patience
from hpctrain.checkpoint.object_url import clean_url, masked
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.tier_object import ObjectTier
from hpctrain.errors import StorageError, UsageError
from tests.s3_server import PART_BYTES, FaultyProxy, Request
from tests.unit.checkpoint.test_store_contract import ONE, TWO, check, save, write

HASTY = Limits(call_s=5.0, patience_s=0.0, first_wait_s=0.01)
"""Gives up at the first failure."""
STUBBORN = Limits(call_s=5.0, patience_s=60.0, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture
def url(s3_environment: str) -> str:
    """Of an empty place."""
    return f"s3://{s3_environment}/some/run"


@pytest.fixture
def through(
    url: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, s3_port: int,
) -> Callable[[Limits], ObjectTier]:
    """Makes tiers that speak to the server through the proxy."""
    def make(limits: Limits) -> ObjectTier:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        tier = ObjectTier(url, limits=limits, part_bytes=PART_BYTES)
        for _ in range(50):  # it connects now, with this endpoint; on a busy machine not within short limits at once
            with contextlib.suppress(OSError):
                tier.entries()
                break
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
        return tier

    return make


@pytest.fixture
def direct(url: str) -> ObjectTier:
    """Speaks to the server itself; incarnation 0 has claimed the place."""
    tier = ObjectTier(url, limits=STUBBORN, part_bytes=PART_BYTES)
    tier.claim(0)
    return tier


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "cut", "slow"])
def test_a_save_and_a_restore_get_through(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy, fault: str,
) -> None:
    """Where every request fails when it is made first, in whatever way, saving and restoring still succeed, bit for bit."""
    tier, known = through(STUBBORN), set()

    def first_time(request: Request) -> str:
        what = (request.method, request.path)
        if what in known:
            return ""
        known.add(what)
        return fault

    proxy.begin(first_time)
    save(tier, ONE)
    check(tier, ONE)
    tier.discard(ONE)
    save(tier, TWO)

    assert fault in proxy.hit
    check(direct, TWO)
    assert [TWO] == direct.checkpoints(committed=True)
    assert [] == ObjectFiles(direct.where).unfinished()


@pytest.mark.parametrize("fault", ["500", "reset", "cut"])
def test_a_store_that_stays_broken_is_an_error(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy, fault: str,
) -> None:
    """When no try succeeds, reading and writing end with an error that names the place, and no secret."""
    save(direct, ONE)
    manifest = direct.open(ONE)[1]
    stored = manifest.shards[0]
    tier = through(Limits(call_s=5.0, patience_s=0.2, first_wait_s=0.05))
    proxy.begin(lambda _request: fault)
    with pytest.raises(DamagedError, match="cannot be read"):
        tier.reader(ONE).read_into(stored, memoryview(bytearray(stored.size_bytes)))
    with pytest.raises((StorageError, OSError)) as caught:
        save(tier, TWO)

    assert direct.where in str(caught.value)
    assert "hush" not in str(caught.value)
    assert [ONE] == direct.checkpoints(committed=True)


def test_a_server_that_hangs_is_given_up(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy,
) -> None:
    """A request that is never answered ends in an error after a bounded time, in a save as in a restore."""
    save(direct, ONE)
    stored = direct.open(ONE)[1].shards[0]
    tier = through(Limits(call_s=1.0, patience_s=0.2, first_wait_s=0.05, slowest_bytes_per_s=10**9))
    proxy.begin(lambda _request: "hang")
    started = time.monotonic()
    with pytest.raises((OSError, StorageError), match="in time"):
        save(tier, TWO)
    with pytest.raises(DamagedError, match="in time"):
        tier.reader(ONE).read_into(stored, memoryview(bytearray(stored.size_bytes)))

    assert time.monotonic() - started < 120  # a hang would be forever
    assert "hang" in proxy.hit


def test_a_failed_upload_leaves_nothing(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy,
) -> None:
    """When a part cannot be sent, the upload is aborted: no half object, and no parts that somebody pays for."""
    tier = through(HASTY)
    direct.prepare(ONE)
    proxy.begin(lambda request: "500" if "partNumber=2" in request.path else "")
    with pytest.raises(OSError, match="told to"):
        write(tier, ONE)

    assert {} == direct.files(ONE)
    assert [] == ObjectFiles(direct.where).unfinished()
    assert "500" in proxy.hit


def test_bytes_that_cannot_be_produced_leave_nothing(direct: ObjectTier) -> None:
    """When the source of the bytes fails in the middle, nothing stays in the store either."""
    sink = direct.sink(ONE, tensor_file(0))
    sink.send(bytes(3 * PART_BYTES))
    before = ObjectFiles(direct.where).unfinished()
    sink.close()

    assert 1 == len(before)
    assert ([], {}) == (ObjectFiles(direct.where).unfinished(), direct.files(ONE))


# ---------------------------------------------------------------- crashes


class Died(BaseException):
    """The writer was killed."""


def outcomes(direct: ObjectTier, tier: ObjectTier, proxy: FaultyProxy, work: Callable[[], object], how: str) -> set[str]:
    """Do something again and again, each time ended after one request more; what a restore finds afterwards."""
    found = set()
    for last in count():
        direct.discard(TWO)
        proxy.begin(lambda request, last=last: "" if request.number < last else how if request.number == last else "reset")
        died = True
        try:
            work()
            died = False
        except (OSError, StorageError):
            pass
        names = direct.checkpoints(committed=True)
        for name in names:
            check(direct, name)
        found.add(" ".join(str(name.step) for name in names))
        # The next start tidies up, and what was cut off can be saved again.
        claim(direct, 0)
        assert names == direct.checkpoints(committed=True)
        assert [] == direct.checkpoints(committed=False)
        if not died:
            return found
    raise AssertionError


@pytest.mark.parametrize("how", ["reset", "lost"])
def test_a_save_ends_at_every_request(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy, how: str,
) -> None:
    """Whichever request of a save is its last, done or not: the previous checkpoint is whole, the new one too or absent."""
    save(direct, ONE)
    tier = through(HASTY)

    assert {"1", "1 2"} == outcomes(direct, tier, proxy, lambda: save(tier, TWO), how)
    assert [] == ObjectFiles(direct.where).unfinished()


@pytest.mark.parametrize("how", ["reset", "lost"])
def test_a_removal_ends_at_every_request(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy, how: str,
) -> None:
    """Whichever request of a removal is its last: the checkpoint is whole, or it does not exist."""
    save(direct, ONE)
    tier = through(HASTY)

    def work() -> None:
        save(direct, TWO)
        tier.discard(TWO)

    # The first request is the one that counts.
    assert {"reset": {"1", "1 2"}, "lost": {"1"}}[how] == outcomes(direct, tier, proxy, work, how)


def test_a_killed_writers_parts_are_removed(direct: ObjectTier, url: str) -> None:
    """The next incarnation aborts the uploads of the one before, also where no object of that checkpoint was there yet."""
    sink = direct.sink(ONE, tensor_file(0))
    sink.send(bytes(3 * PART_BYTES))  # and then it is killed
    before = ObjectFiles(url).unfinished()
    ObjectTier(url).claim(1)

    assert [f"{ONE}/{tensor_file(0)}"] == [path for path, _ in before]
    assert [] == ObjectFiles(url).unfinished()


# ---------------------------------------------------------------- two writers


def test_of_two_commits_one_is_made(direct: ObjectTier, url: str) -> None:
    """Writers that commit one name at the same moment with different contents: one succeeds, the others get an error."""
    save(direct, ONE)
    manifest = direct.open(ONE)[1]
    direct.abandon(ONE)
    gate, results = threading.Barrier(4), []

    def commit(number: int) -> None:
        tier = ObjectTier(url, limits=STUBBORN)
        tier.entries()
        gate.wait(60)
        try:
            tier.commit(ONE, manifest, time=1.5, reason=f"writer {number}", world={})
            results.append(number)
        except StorageError:
            results.append(-1)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    winners = [number for number in results if number >= 0]
    assert (1, 4) == (len(winners), len(results))
    assert f"writer {winners[0]}" == direct.open(ONE)[0].reason


def test_conditional_writes_keep_what_is_there(direct: ObjectTier) -> None:
    """The store itself refuses to replace; writing the same bytes again is what a try does whose answer was lost."""
    files = ObjectFiles(direct.where)
    first, again, other = files.create("x", b"1"), files.create("x", b"1"), files.create("x", b"2")

    assert (True, True, False, b"1") == (first, again, other, files.read("x"))


def test_a_late_upload_replaces_nothing(direct: ObjectTier) -> None:
    """A writer that hung, and finishes its upload when another one has committed, changes nothing."""
    late = direct.sink(ONE, tensor_file(0))
    late.send(bytes(2 * PART_BYTES + 1))
    save(direct, ONE)
    with pytest.raises(StorageError, match="there already"):
        late.finish()
    late.close()

    check(direct, ONE)


# ---------------------------------------------------------------- memory, processes, words


def test_an_upload_holds_a_few_parts_only(
    direct: ObjectTier, through: Callable[[Limits], ObjectTier], proxy: FaultyProxy,
) -> None:
    """Whoever sends faster than the store takes waits: what is on its way is bounded by a few parts."""
    tier, sent = through(Limits(call_s=30.0)), []
    proxy.begin(lambda request: "hang" if "partNumber" in request.path else "")
    sink = tier.sink(ONE, tensor_file(0))

    def send() -> None:
        for _ in range(50):
            sink.send(bytes(PART_BYTES))
            sent.append(1)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    wait_for(lambda: 4 == proxy.hit.count("hang"))
    thread.join(0.3)

    assert thread.is_alive()
    assert len(sent) <= 6
    proxy.begin(lambda _request: "")
    proxy.released.set()
    thread.join(60)
    assert 50 == len(sent)
    sink.finish()
    sink.close()
    assert 50 * PART_BYTES == direct.files(ONE)[tensor_file(0)].size_bytes


def test_large_shards_are_read_in_ranges(direct: ObjectTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of many ranges is put together in the right order."""
    from hpctrain.checkpoint import object_reader

    monkeypatch.setattr(object_reader, "RANGE_BYTES", 10_007)
    save(direct, ONE)

    check(direct, ONE)


def test_the_writer_needs_no_torch(url: str) -> None:
    """A process that writes and reads object stores never imports torch."""
    program = (
        "import sys; from hpctrain.checkpoint.tier_object import ObjectTier; "
        "from hpctrain.checkpoint.names import CheckpointName; from hpctrain.checkpoint.shards import Shard; "
        "name = CheckpointName(0, 1); tier = ObjectTier(sys.argv[1]); tier.claim(0); "
        "tier.write_share(name, 0, [(Shard.whole('a', 'uint8', (3,)), b'abc')], '{}'); assert tier.files(name); "
        "assert 'torch' not in sys.modules"
    )
    result = process.run([sys.executable, "-c", program, url], timeout_s=60, env=dict(os.environ))

    assert result.ok, result.stderr


def test_a_forked_child_connects_anew(direct: ObjectTier) -> None:
    """A tier that was used before a fork works in the child."""
    save(direct, ONE)
    child = os.fork()
    if child == 0:
        try:
            check(direct, ONE)
            os._exit(0)
        finally:
            os._exit(1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("bad", [
    "s3://key:hush@bucket/x", "s3://bucket/x?secret=hush", "s3://bucket/x?AWSAccessKeyId=hush&Signature=hush",
])
def test_urls_with_credentials_are_refused(bad: str) -> None:
    """Credentials in a URL are refused, and the message does not repeat them."""
    with pytest.raises(UsageError, match="credentials") as caught:
        ObjectTier(bad)

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("bad", ["s3://", "bucket/x", "s3://b/../c", "s3://b/x y", "simplecache::s3://b/x", "s3://b/x?version=3"])
def test_urls_that_make_no_sense_are_refused(bad: str) -> None:
    """What is no plain place in a store is refused at once."""
    with pytest.raises(UsageError):
        ObjectTier(bad)


def test_messages_are_masked() -> None:
    """Whatever a library says about a URL, names stay and secrets go."""
    text = "cannot reach http://me:hush@host:9000/b?X-Amz-Signature=hush&X-Amz-Date=7"

    assert "cannot reach http://***@host:9000/b?X-Amz-Signature=***&X-Amz-Date=7" == masked(text)
    assert "s3://bucket/a/b" == clean_url("S3://bucket/a/b/")


@pytest.mark.parametrize("package", ["s3fs", "fsspec"])
def test_a_missing_package_is_named(package: str) -> None:
    """Without the libraries for a URL there is one error that says what to install."""
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from hpctrain.checkpoint.tier_object import ObjectTier; from hpctrain.errors import MissingDependencyError\n"
        "try: ObjectTier('s3://bucket/x')\n"
        "except MissingDependencyError as error: print(error, error.advice)"
    )
    result = process.run([sys.executable, "-c", program], timeout_s=60, env=dict(os.environ))

    assert "pip install 'hpctrain[object]'" in result.stdout, result.stderr


def test_an_unknown_store_is_named() -> None:
    """A protocol that fsspec does not know is a mistake in the URL."""
    with pytest.raises(UsageError, match="knows no nonsense"):
        ObjectTier("nonsense://bucket/x")


def test_errors_of_people_are_not_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that is not there, and credentials that are missing, are errors at once, in words."""
    started = time.monotonic()
    with pytest.raises(StorageError, match="bucket does not exist"):
        ObjectTier("s3://no-such-bucket-here/x").claim(0)
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        ObjectTier("s3://no-such-bucket-here/x").entries()
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="no credentials"):
        ObjectTier(url).entries()

    assert time.monotonic() - started < object_files.Limits().patience_s / 2


def test_patience_ends() -> None:
    """Tries are spaced further and further and end with the patience; a final error ends them at once."""
    now, waits, tries = [0.0], [], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    def fail() -> None:
        tries.append(now[0])
        raise OSError("no")

    patient = Patience(Limits(patience_s=60, first_wait_s=1, longest_wait_s=8), lambda error: isinstance(error, KeyError),
                       clock=lambda: now[0], sleep=sleep)
    with pytest.raises(OSError, match="no"):
        patient(fail)
    assert 40 < now[0] <= 60
    assert max(waits) <= 8
    assert len(tries) == len(waits) + 1
    with pytest.raises(KeyError):
        patient(lambda: {}["x"])
    assert len(tries) == len(waits) + 1


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Until it holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
