"""Making and removing the files of a private cluster (adapter over the file system)."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from hpctrain.devcluster import daemons
from hpctrain.devcluster.daemons import NODE_VARIABLE
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.slurm_conf import Host, render_cgroup_conf, render_gres_conf, render_slurm_conf
from hpctrain.errors import ClusterError
from hpctrain.files import make_private_dir, storage_errors, write_atomic
from hpctrain.resources import SLURM_SCRIPTS, shipped_file

SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket that Linux takes, without the closing NUL."""

_EXECUTABLE = 0o700
_RUNTIME_PREFIX = "hpctrain-"
_LONGEST_STEP = "67108863.4294967295"


def choose_runtime_dir(state_dir: Path, nodes: int) -> Path:
    """The state directory, or a new short one in /tmp if sockets below the state directory had too long a path.

    Not in ``XDG_RUNTIME_DIR`` where it can be helped: that is emptied when the user logs out, and the cluster stays.
    """
    longest = state_dir / "spool" / f"n{nodes}" / f"n{nodes}_{_LONGEST_STEP}"
    if len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT:
        return state_dir
    places = ["/tmp", os.environ.get("XDG_RUNTIME_DIR", "")]  # noqa: S108 - mkdtemp makes a private directory there
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=place))
    hint = "set HPCTRAIN_STATE_DIR to a directory with a short path"
    raise ClusterError("the path is too long for sockets, and /tmp cannot be written", where=str(state_dir), hint=hint)


def is_usable_runtime_dir(layout: Layout) -> bool:
    """The runtime directory is still there and still private: /tmp is emptied by a reboot, and anybody may write there."""
    if layout.runtime_dir == layout.state_dir:
        return True
    try:
        status = layout.runtime_dir.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def write_files(spec: Spec, layout: Layout) -> None:
    """Make the directories and (again) the configuration; keep key, queue and logs that are there.

    Raises:
        StorageError: no space, no permission.
    """
    for directory in layout.directories:
        make_private_dir(directory)
    host = Host(_user_name(), daemons.slurm_version())
    conf = layout.slurm_conf.parent
    write_atomic(layout.slurm_conf, render_slurm_conf(spec, layout, host), durable=False)
    write_atomic(layout.reboot_program, _reboot_wrapper(layout), mode=_EXECUTABLE, durable=False)
    write_atomic(conf / "gres.conf", render_gres_conf(spec, layout), durable=False)
    write_atomic(conf / "cgroup.conf", render_cgroup_conf(host), durable=False)
    if not layout.health_conf.exists():
        write_atomic(layout.health_conf, "# 'hpctrain cluster up --health' fills this file.\n", durable=False)
    if not layout.munge_key.exists():
        write_atomic(layout.munge_key, secrets.token_bytes(128), durable=False)
    with storage_errors(layout.gpus):
        for number in range(spec.gpus_per_node):
            # Slurm complains about stand-ins that are no devices, and an ordinary user cannot make a device.
            with contextlib.suppress(FileExistsError):
                (layout.gpus / f"gpu{number}").symlink_to("/dev/null")


def remove_files(layout: Layout) -> None:
    """Remove everything of a cluster, once its processes are gone.

    Raises:
        StorageError: something cannot be removed.
    """
    own_runtime = layout.runtime_dir != layout.state_dir and layout.runtime_dir.name.startswith(_RUNTIME_PREFIX)
    if own_runtime and is_usable_runtime_dir(layout):
        _remove_tree(layout.runtime_dir)
    _remove_tree(layout.state_dir)


def remove_root_if_empty(root: Path) -> None:
    """Leave no empty directory of ours behind."""
    for directory in (root, root.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _reboot_wrapper(layout: Layout) -> str:
    """RebootProgram takes neither arguments nor environment; slurmd was given its node's name when it was started."""
    command = [sys.executable, "-I", "-m", "hpctrain.devcluster.remedies", "reboot", str(layout.state_dir)]
    script = shipped_file(SLURM_SCRIPTS, "reboot_program.sh")
    return f'#!/bin/sh\nexec /bin/sh {shlex.quote(str(script))} {shlex.join(command)} "${NODE_VARIABLE}"\n'


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        message = f"user id {os.geteuid()} has no entry in the user database, and Slurm runs no jobs without one"
        raise ClusterError(message, hint="add a line for it to /etc/passwd, or run as another user") from None


def _remove_tree(path: Path) -> None:
    with storage_errors(path):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
