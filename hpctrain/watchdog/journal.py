"""What the watchdog intends and has done, so that nothing is done twice and nothing is forgotten (adapter over sqlite).

An intent is on disk before its effect, and the effect is marked after it. All commands of one decision are intended in one
transaction: a crash leaves either none of them, and the decision is made again, or all, and they are carried out. Every
writing carries the writer's token (:mod:`hpctrain.watchdog.lease`): once a later token has written, an earlier one cannot.

On local file systems sqlite's write-ahead log is used. It needs shared memory and so does not work over NFS and its like;
there the classic rollback journal is used. Both force each commit to disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hpctrain.errors import HpctrainError, StorageError
from hpctrain.files import PRIVATE_FILE, make_private_dir
from hpctrain.watchdog.budget import Attempt
from hpctrain.watchdog.model import Command, Deed
from hpctrain.watchdog.track import Memory

SHARED_FILE_SYSTEMS = (
    "nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "fuse", "9p", "afs", "pvfs", "orangefs", "wekafs",
)
KEEP_S = 30 * 86_400.0
"""Deeds and jobs that are over are forgotten after so long."""
_BUSY_S = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deeds(
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, job_id INTEGER NOT NULL, run_name TEXT NOT NULL, deed TEXT NOT NULL,
  command TEXT NOT NULL, state TEXT NOT NULL, time REAL NOT NULL, done REAL, tries INTEGER NOT NULL DEFAULT 0,
  result TEXT NOT NULL DEFAULT '', token INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS deeds_by_job ON deeds(job_id, run_name);
CREATE INDEX IF NOT EXISTS deeds_open ON deeds(state) WHERE state = 'intended';
CREATE TABLE IF NOT EXISTS jobs(
  job_id INTEGER PRIMARY KEY, run_name TEXT NOT NULL, run_dir TEXT NOT NULL, restarts INTEGER NOT NULL,
  over INTEGER NOT NULL, seen REAL NOT NULL);
"""


class FencedError(HpctrainError):
    """Another watchdog has taken over; this one must do nothing more."""

    hint = "another watchdog holds the lease: 'hpctrain watchdog status' says which"


@dataclass(frozen=True, slots=True)
class Entry:
    """A journaled command.

    Attributes:
        state: ``intended``, ``done``, ``void`` (no longer needed) or ``failed``.
        time: when it was intended, seconds since the epoch.
        tries: how often it was begun.
        result: what came of it, for people.
    """

    number: int
    command: Command
    state: str
    time: float
    tries: int = 0
    result: str = ""


class Journal:
    """One watchdog's journal.

    Args:
        path: of the database; None keeps it in memory, for a dry run.
        token: of the lease under which it is written.

    Raises:
        StorageError: it cannot be opened.
        FencedError: a later token has written already.
    """

    def __init__(self, path: Path | None, token: int = 0) -> None:
        self.path, self.token = path, token
        try:
            if path is not None:
                make_private_dir(path.parent)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))
            self._db = sqlite3.connect(path or ":memory:", timeout=_BUSY_S, isolation_level=None)
            mode = "wal" if path is not None and not on_shared_file_system(path) else "delete"
            self._db.execute(f"PRAGMA journal_mode={mode}")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            with self._writing() as db:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('token', ?)", (token,))
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the watchdog's journal cannot be opened: {error}", where=str(path)) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # -- deeds ------------------------------------------------------------------------------------------------------

    def intend(self, commands: Iterable[Command], now: float) -> list[Entry]:
        """Write commands down, all or none; those whose key is known already are left out of the answer.

        Raises:
            FencedError: another watchdog has taken over.
        """
        new = []
        with self._writing() as db:
            for command in commands:
                text = json.dumps(command.to_json(), separators=(",", ":"))
                row = (command.key, command.job_id, command.run_name, command.deed.value, text, "intended", now, self.token)
                cursor = db.execute(
                    "INSERT OR IGNORE INTO deeds(key, job_id, run_name, deed, command, state, time, token)"
                    " VALUES (?,?,?,?,?,?,?,?)", row,
                )
                if cursor.rowcount == 1:
                    new.append(Entry(int(cursor.lastrowid or 0), command, "intended", now))
        return new

    def begin(self, entry: Entry) -> None:
        """Count a try; also the last check that no other watchdog has taken over. Raises FencedError."""
        with self._writing() as db:
            db.execute("UPDATE deeds SET tries = tries + 1 WHERE number = ?", (entry.number,))

    def finish(self, entry: Entry, state: str, result: str, now: float) -> None:
        """Mark what became of a command. Raises FencedError."""
        with self._writing() as db:
            db.execute(
                "UPDATE deeds SET state = ?, result = ?, done = ? WHERE number = ?", (state, result, now, entry.number),
            )

    def note(self, entry: Entry, result: str) -> None:
        """Say why a command is not done yet. Raises FencedError."""
        with self._writing() as db:
            db.execute("UPDATE deeds SET result = ? WHERE number = ?", (result, entry.number))

    def open_deeds(self) -> list[Entry]:
        """Commands that were intended and not finished, in their order."""
        return list(self._entries("WHERE state = 'intended' ORDER BY number"))

    def state_of(self, key: str) -> str:
        """The state of a command, "" for one that was never intended."""
        row = self._db.execute("SELECT state FROM deeds WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def newest(self, limit: int = 20) -> list[Entry]:
        """The newest commands, oldest first."""
        return list(reversed(list(self._entries("ORDER BY number DESC LIMIT ?", (limit,)))))

    def attempts(self, run_name: str) -> list[Attempt]:
        """Failures of a run that this watchdog has counted, oldest first; one end of one start of a job counts once."""
        return _once(self._entries("WHERE run_name = ? AND deed = 'attempt' ORDER BY number", (run_name,)))

    def attempts_since(self, time_s: float) -> list[Attempt]:
        """Failures of all runs since a moment, oldest first, each once."""
        return _once(self._entries("WHERE deed = 'attempt' AND time >= ? ORDER BY number", (time_s,)))

    # -- jobs -------------------------------------------------------------------------------------------------------

    def see(self, jobs: Iterable[tuple[int, str, str, int, bool]], now: float, *, gone: Iterable[int] = ()) -> None:
        """Remember jobs as (id, run name, run directory, restart count, over). Raises FencedError.

        Args:
            gone: jobs that Slurm has forgotten.
        """
        rows, left = [(*job, now) for job in jobs], [(job_id,) for job_id in gone]
        if rows or left:
            with self._writing() as db:
                db.executemany("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?)", rows)
                db.executemany("UPDATE jobs SET over = 1 WHERE job_id = ?", left)

    def memory(self) -> dict[int, Memory]:
        """What a new machine has to know."""
        found: dict[int, Memory] = {}
        for job_id, run_name, run_dir, restarts, over in self._db.execute(
            "SELECT job_id, run_name, run_dir, restarts, over FROM jobs"
        ).fetchall():
            history = list(self._entries("WHERE job_id = ? AND run_name = ? ORDER BY number", (job_id, run_name)))
            found[job_id] = _memory(Memory(run_name, run_dir, restarts, bool(over)), history)
        return found

    def forget(self, now: float) -> None:
        """Drop what is long over; failures are kept as long as their job. Raises FencedError."""
        before = now - KEEP_S
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE over = 1 AND seen < ?", (before,))
            db.execute(
                "DELETE FROM deeds WHERE state != 'intended' AND time < ? AND run_name NOT IN (SELECT run_name FROM jobs)",
                (before,),
            )

    # -- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, in which the token is still ours."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                row = self._db.execute("SELECT value FROM meta WHERE name = 'token'").fetchone()
                if row is not None and row[0] > self.token:
                    raise FencedError(f"another watchdog (token {row[0]}) has taken over from this one ({self.token})")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StorageError(f"the watchdog's journal cannot be written: {error}", where=str(self.path)) from error

    def _entries(self, where: str, values: tuple[object, ...] = ()) -> Iterator[Entry]:
        columns = "number, command, state, time, tries, result"
        rows = self._db.execute(f"SELECT {columns} FROM deeds {where}", values)  # noqa: S608 - both are constants of ours
        for number, command, state, time, tries, result in rows.fetchall():
            yield Entry(number, Command.from_json(json.loads(command)), state, time, tries, result)


def _once(entries: Iterable[Entry]) -> list[Attempt]:
    found: list[Attempt] = []
    ends: set[tuple[int, int]] = set()
    for entry in entries:
        attempt = Attempt.from_json(entry.command.data["attempt"])
        if attempt.end is None or attempt.end not in ends:
            found.append(attempt)
        if attempt.end is not None:
            ends.add(attempt.end)
    return found


def _memory(known: Memory, history: Iterable[Entry]) -> Memory:
    """Judgements, an open hold and exclusions, read off the deeds of one job in their order."""
    judged: set[str] = set()
    moving: tuple[str, ...] | None = None
    excluded: dict[str, float] = {}
    reopened = 0
    for entry in history:
        command = entry.command
        if command.deed is Deed.ATTEMPT:
            judged.add(f"{command.restarts}:{command.data.get('way', 'restart')}")
        elif command.deed in (Deed.REQUEUE, Deed.REQUEUE_HOLD) and entry.state == "void":
            judged.discard(f"{command.restarts}:restart")
            reopened += 1
        elif command.deed is Deed.REQUEUE_HOLD and entry.state in ("intended", "done"):
            moving = command.nodes
        elif command.deed is Deed.CONTINUE and entry.state != "void":
            judged.add(f"{command.restarts}:continue")
        elif command.deed is Deed.RELEASE and entry.state == "done":
            moving = None
        elif command.deed is Deed.EXCLUDE:
            excluded |= dict.fromkeys(command.nodes, entry.time + float(command.data.get("for_s", 86_400.0)))
        elif command.deed is Deed.INCLUDE and entry.state != "void":
            excluded = {node: until for node, until in excluded.items() if node not in command.nodes}
    return replace(known, judged=frozenset(judged), moving=moving, excluded=excluded, reopened=reopened)


def on_shared_file_system(path: Path, mounts: str | None = None) -> bool:
    """Whether a path lies on a network file system, as far as /proc/self/mountinfo tells."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8") if mounts is None else mounts
    except OSError:
        return True  # the careful answer
    best, kind = "", ""
    where = os.path.realpath(path)
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        point = fields[4].replace("\\040", " ") if len(fields) > 4 else ""
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0] if right else ""
    return kind.startswith(SHARED_FILE_SYSTEMS)

