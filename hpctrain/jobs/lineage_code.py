"""Which code it was: a git checkout, or an installed package (adapter over ``git`` and the file system)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hpctrain
from hpctrain import process
from hpctrain.errors import HpctrainError
from hpctrain.hashing import hash_text

_TIMEOUT_S = 5.0
_PACKAGE = Path(hpctrain.__file__).resolve().parent


def code_version(package: Path = _PACKAGE, version: str = hpctrain.__version__) -> dict[str, Any]:
    """What hpctrain itself was.

    Returns:
        ``version``; ``how``: ``checkout`` or ``installed``; for a checkout what :func:`checkout` says; for an installed
        package ``files_sha256``, of its list of files and their hashes, "" where pip has left none.
    """
    root = package.parent
    if (root / "setup.cfg").is_file():
        found = checkout(root)
        if found is not None and found.get("root") == str(root):
            return {"version": version, "how": "checkout", **found}
    return {"version": version, "how": "installed", "files_sha256": _installed_files(root, version)}


def checkout(folder: Path, env: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """The state of the git checkout that a directory lies in; None where it lies in none, or git cannot say.

    Returns:
        ``root``; ``commit``, "" before the first one; ``dirty``: tracked files differ from the commit; ``changes_sha256``:
        of that difference, "" for none. Where it came from is left out: remote URLs may hold credentials.
    """
    git = process.find("git")
    if git is None or not folder.is_dir():
        return None
    # No lock that a user's own git would trip over, no question on a terminal, messages in English.
    settings = {**(os.environ if env is None else env), "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}

    def ask(*arguments: str) -> str | None:
        try:
            command = [git, "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
            answer = process.run(command, timeout_s=_TIMEOUT_S, env=settings)
        except HpctrainError:
            return None
        return answer.stdout if answer.ok else None

    root = ask("rev-parse", "--show-toplevel")
    if root is None:
        return None
    commit = (ask("rev-parse", "--verify", "HEAD") or "").strip()
    changes = ask("diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD") if commit else ""
    return {
        "root": root.rstrip("\n"), "commit": commit, "dirty": None if changes is None else bool(changes) or not commit,
        "changes_sha256": hash_text(changes) if changes else "",
    }


def _installed_files(site_packages: Path, version: str) -> str:
    """Pip's RECORD names every installed file with its hash: one hash stands for all."""
    record = site_packages / f"hpctrain-{version}.dist-info" / "RECORD"
    try:
        return hash_text(record.read_bytes())
    except OSError:
        return ""
