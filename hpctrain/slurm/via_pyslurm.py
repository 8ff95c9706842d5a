"""The helper process of the pyslurm adapter, and the only file that imports pyslurm (adapter).

``python -m hpctrain.slurm.via_pyslurm [VERSION OF SLURM]``, started by :mod:`hpctrain.slurm.pyslurm_helper`, answers
requests on standard input (:mod:`hpctrain.slurm.pyslurm_wire`) until that is closed. It is a process of its own because
pyslurm cannot be trusted with anybody else's:

- libslurm calls ``exit`` where it finds no configuration, and pyslurm follows a NULL pointer in ``hold(mode=...)``;
- importing it changes how the process binds the symbols of every library that is loaded later;
- the published pyslurm keeps Python's lock while slurmctld does not answer, up to 20 s;
- libslurm writes to standard error, and on some paths to standard output.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any, BinaryIO

from hpctrain.slurm.pyslurm_wire import (
    JOB_VALUES,
    NODE_VALUES,
    PARTITION_VALUES,
    RESERVATION_VALUES,
    UNREADABLE,
    Frames,
    encode,
)

INVALID_JOB_ID = 2017
"""Slurm's number for a job that it does not know."""
_ORPHAN_CHECK_S = 5.0


class Unusable(Exception):  # noqa: N818 - a state, told to the other side
    """pyslurm is not installed, or does not fit the Slurm that is."""


def main() -> int:
    """Serve until the other side goes away."""
    parent = os.getppid()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # What a library prints must not get between the frames.
    os.dup2(2, 1)
    try:
        pyslurm, hello = load(os.environ.get("SLURM_CONF", ""), *sys.argv[1:2])
    except Unusable as error:
        answers.write(encode({"unusable": str(error)}))
        return 1
    answers.write(encode({"hello": hello}))
    with contextlib.suppress(BrokenPipeError):
        serve(Calls(pyslurm), answers, parent)
    return 0


def load(slurm_conf: str, slurm_version: str = "") -> tuple[Any, dict[str, Any]]:
    """Import pyslurm and initialise libslurm: the module, and what to say of it.

    Args:
        slurm_conf: the configuration file; "" lets libslurm find it.
        slurm_version: what Slurm's commands say that they are; "" is any.

    Raises:
        Unusable: there is no configuration, the import fails, or pyslurm was built for another series of Slurm than this.
    """
    if slurm_conf and not os.access(slurm_conf, os.R_OK):
        # libslurm would look for it again and again for a minute, and then end the process.
        raise Unusable(f"there is no slurm.conf to read at {slurm_conf}")
    os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"  # else the import itself may end the process
    flags = sys.getdlopenflags()
    try:
        import pyslurm

        built_for = [int(part) for part in pyslurm.slurm_api_version()]  # a constant of the compilation
    except ImportError as error:
        raise Unusable(f"import pyslurm: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever a foreign module does; the other side is told
        raise Unusable(f"this is no pyslurm that hpctrain knows: {type(error).__name__}: {error}") from None
    finally:
        sys.setdlopenflags(flags)
    if why := misfit(built_for, slurm_version):
        raise Unusable(why)
    pyslurm.slurm_init(slurm_conf or None)
    return pyslurm, {"pyslurm": metadata.version("pyslurm"), "built_for": ".".join(map(str, built_for))}


def misfit(built_for: Sequence[int], slurm_version: str) -> str:
    """Why pyslurm must not be used; "" if it may. Nothing else would notice: libslurm has one file name in all series.

    Args:
        slurm_version: what Slurm's commands say; "" is any.
    """
    series = [int(part) for part in slurm_version.split(".")[:2]] if slurm_version else list(built_for[:2])
    if list(built_for[:2]) == series:
        return ""
    return f"it was built for Slurm {'.'.join(map(str, built_for))}, but this is {slurm_version}: build it again"


def serve(calls: Calls, answers: BinaryIO, parent: int) -> None:
    """Answer one request after the other; ends when standard input does, or when the parent is another."""
    frames = Frames()
    while True:
        ready, _, _ = select.select([0], [], [], _ORPHAN_CHECK_S)
        if not ready:
            # A fork of the parent may hold the pipe open for longer than the parent lives.
            if os.getppid() != parent:
                return
            continue
        data = os.read(0, 65536)
        if not data:
            return
        for request in frames.feed(data):
            _write(answers, encode(calls.answer(request)))


def _write(answers: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[answers.write(view) :]


class Calls:
    """What may be asked; each public method is one call.

    Args:
        pyslurm: the module, or a stand-in for it.
    """

    def __init__(self, pyslurm: Any) -> None:
        self._pyslurm = pyslurm
        self._tracked: bool | None = None
        self._calls: dict[str, Callable[..., Any]] = {
            "cluster_name": self.cluster_name, "jobs": self.jobs, "nodes": self.nodes, "partitions": self.partitions,
            "reservations": self.reservations, "update_job": self.update_job, "requeue": self.requeue,
            "release": self.release, "cancel": self.cancel, "set_nodes": self.set_nodes,
            "delete_reservation": self.delete_reservation,
        }  # fmt: skip

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One answer to one request, whatever happens short of the end of the process."""
        arguments = {key: value for key, value in request.items() if key != "call"}
        try:
            return {"answer": self._calls[request["call"]](**arguments)}
        except self._pyslurm.RPCError as error:
            return {"refused": {"number": error.errno, "text": str(error)}}
        except Exception as error:  # noqa: BLE001 - whatever pyslurm does; the other side is told
            return {"broken": f"{type(error).__name__}: {error}"}

    def cluster_name(self) -> str:
        """``ClusterName``."""
        return str(self._pyslurm.slurmctld.Config.load().cluster_name or "")

    def jobs(self, ids: Sequence[int] | None, uid: int | None) -> list[list[Any]]:
        """Values of the jobs with these ids, or of this user, or (both None) of all."""
        found = self._one_job(ids[0]) if ids and len(ids) == 1 else self._pyslurm.Jobs.load().values()
        wanted = None if ids is None else frozenset(ids)
        chosen = (job for job in found if wanted is None or job.id in wanted)
        return [_values(job, JOB_VALUES) for job in chosen if uid is None or job.user_id == uid]

    def nodes(self) -> dict[str, Any]:
        """Values of all nodes, and whether the site tracks GPUs (asked once: slurmctld must restart to change it)."""
        if self._tracked is None:
            self._tracked = "gres/gpu" in self._pyslurm.slurmctld.Config.load().accounting_storage_tres
        return {"rows": _rows(self._pyslurm.Nodes.load().values(), NODE_VALUES), "tracked": self._tracked}

    def partitions(self) -> list[list[Any]]:
        """Values of all partitions."""
        return _rows(self._pyslurm.Partitions.load().values(), PARTITION_VALUES)

    def reservations(self) -> list[list[Any]]:
        """Values of all reservations."""
        return _rows(self._pyslurm.Reservations.load().values(), RESERVATION_VALUES)

    def update_job(self, job_id: int, changes: dict[str, Any]) -> None:
        """Change a job; the keys are those of ``pyslurm.JobSubmitDescription``."""
        self._pyslurm.Job(job_id).modify(self._pyslurm.JobSubmitDescription(**changes))

    def requeue(self, job_id: int, hold: bool) -> None:
        """Requeue a job."""
        self._pyslurm.Job(job_id).requeue(hold=hold)

    def release(self, job_id: int) -> None:
        """Undo a hold."""
        self._pyslurm.Job(job_id).release()

    def cancel(self, job_id: int) -> None:
        """End a job. Says nothing of one that does not exist."""
        self._pyslurm.Job(job_id).cancel()

    def set_nodes(self, names: str, changes: dict[str, Any]) -> None:
        """Change the nodes of a folded list in one request."""
        self._pyslurm.Node(names).modify(self._pyslurm.Node(**changes))

    def delete_reservation(self, name: str) -> None:
        """Delete a reservation."""
        self._pyslurm.Reservation(name).delete()

    def _one_job(self, job_id: int) -> list[Any]:
        try:
            return [self._pyslurm.Job.load(job_id)]
        except self._pyslurm.RPCError as error:
            if error.errno == INVALID_JOB_ID:
                return []
            raise


def _rows(things: Iterable[Any], names: Sequence[str]) -> list[list[Any]]:
    return [_values(thing, names) for thing in things]


def _values(thing: Any, names: Sequence[str]) -> list[Any]:
    try:
        return [getattr(thing, name) for name in names]
    except (UnicodeDecodeError, KeyError):
        # One text that is not UTF-8, or one user without a name, must not hide everything else.
        return [_value(thing, name) for name in names]


def _value(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name)
    except UnicodeDecodeError:
        return UNREADABLE
    except KeyError:
        return None


if __name__ == "__main__":
    sys.exit(main())
