"""Put the health checks into a Slurm installation: programs, settings and slurm.conf (adapter over the file system).

Everything is worked out first, as a list of files with their text before and after; nothing is written until all of them
may be written, and what is replaced is kept beside it.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import re
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError, StorageError, UsageError
from hpctrain.files import storage_errors, write_atomic
from hpctrain.health.config import DEFAULT_CONFIG, DEFAULT_STATE_DIR, parse_config
from hpctrain.health.remedy_settings import parse_remedies
from hpctrain.health.slurm_settings import PROGRAMS, Change, find_changes, parse_settings, rewrite
from hpctrain.resources import SLURM_SCRIPTS, shipped_file

DEFAULT_DIR = str(Path(DEFAULT_CONFIG).parent)
_PROGRAM_MODE, _TEXT_MODE = 0o755, 0o644
_SAFE_PATH = re.compile(r"/[\w./+-]*")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that is not yet as it should be.

    Attributes:
        before: None if it is not there.
    """

    path: Path
    before: str | None
    after: str
    mode: int

    def diff(self) -> str:
        """What changes, as a unified diff."""
        lines = difflib.unified_diff(
            (self.before or "").splitlines(), self.after.splitlines(), str(self.path), str(self.path), n=1, lineterm=""
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """What an installation would do: files to write, settings that change, and what a person has to look at."""

    files: tuple[FileChange, ...]
    settings: tuple[Change, ...]
    notes: tuple[str, ...]


def make_plan(
    directory: Path,
    slurm_conf: Path,
    site: Path | None,
    known_checks: Collection[str],
    *,
    replace: bool = False,
    site_checks: Sequence[str] = (),
) -> InstallPlan:
    """Compare what is there with what should be; changes nothing.

    Args:
        directory: where programs and compiled settings go.
        site: the site's TOML; None if it has none, and a compiled one that is there stays.
        site_checks: ``module:NAME`` of the checks that installed packages offer, for a site that names none itself.

    Raises:
        NotFoundError: there is no slurm.conf.
        UsageError: a mistake in the site's TOML, or a path that slurm.conf cannot hold.
        StorageError: a file cannot be read.
    """
    if not _SAFE_PATH.fullmatch(str(directory)):
        raise UsageError("this path is not absolute, or has characters that slurm.conf cannot hold", where=str(directory))
    conf = _read(slurm_conf)
    if conf is None:
        hint = "name it with --slurm-conf; on a cluster without local files, that is the one on the controller"
        raise NotFoundError("there is no slurm.conf", where=str(slurm_conf), hint=hint)
    settings, notes = find_changes(parse_settings(conf), str(directory), replace=replace)
    if re.search(r"^\s*include\s", conf, re.IGNORECASE | re.MULTILINE):
        notes.append(f"{slurm_conf} includes other files, which were not looked at")
    wanted = [(directory / name, program_text(name, directory), _PROGRAM_MODE) for name in PROGRAMS.values()]
    there = _read(directory / "health.json")
    compiled = compile_site(site, known_checks, site_checks) if site is not None else there
    if compiled is None and site_checks:
        compiled = json.dumps({"version": 1, "site_checks": list(site_checks)}, indent=2) + "\n"
    elif site is None and any(check not in (there or "") for check in site_checks):
        notes.append(f"{directory}/health.json stays, and does not name all checks of the site: {', '.join(site_checks)}")
    wanted.append((directory / "health.env", environment_text(directory, compiled), _TEXT_MODE))
    if compiled is not None:
        wanted.append((directory / "health.json", compiled, _TEXT_MODE))
    wanted.append((slurm_conf.resolve(), rewrite(conf, settings) if settings else conf, _TEXT_MODE))
    files = [FileChange(path, _read(path), text, mode) for path, text, mode in wanted]
    return InstallPlan(tuple(file for file in files if file.before != file.after), tuple(settings), tuple(notes))


def compile_site(path: Path, known_checks: Collection[str], site_checks: Sequence[str] = ()) -> str:
    """The JSON that the prolog reads, from the site's TOML and the checks that installed packages offer.

    Raises:
        UsageError: what is wrong with it, all of it.
        NotFoundError, StorageError: there is none, or it cannot be read.
    """
    text = _read(path)
    if text is None:
        raise NotFoundError("there is no such file", where=str(path))
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = {"version": 1, **toml.loads(text)}
        if site_checks:
            document.setdefault("site_checks", list(site_checks))
        compiled = json.dumps(document, indent=2) + "\n"
    except (ValueError, TypeError) as error:
        raise UsageError(f"is not valid TOML for this purpose: {error}", where=str(path)) from None
    config, problems = parse_config(document)
    problems += parse_remedies(config.remedies, settle_s=config.settle_s)[1]
    named = {*config.rules.modes, *config.rules.limits}
    if not config.site_checks or set(config.site_checks) <= set(site_checks):
        problems += [f"there is no check '{name}'" for name in sorted(named - set(known_checks))]
    if problems:
        raise UsageError("; ".join(problems), where=str(path), hint="docs/sysadmins.md shows the keys; nothing was changed")
    return compiled


def apply_plan(plan: InstallPlan, stamp: str) -> list[Path]:
    """Write all files, slurm.conf last; the copies of what was replaced, named ``FILE.STAMP``.

    Raises:
        StorageError: some file may not be written; nothing was changed then.
    """
    for file in plan.files:
        _demand_rights(file.path)
    kept = []
    for file in plan.files:
        with storage_errors(file.path):
            file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        old = file.path.stat() if file.before is not None else None
        mode = old.st_mode & 0o777 if old and file.mode == _TEXT_MODE else file.mode
        if file.before is not None:
            copy = file.path.with_name(f"{file.path.name}.{stamp}")
            write_atomic(copy, file.before, mode=mode)
            kept.append(copy)
        write_atomic(file.path, file.after, mode=mode)
        if old and os.geteuid() == 0:
            os.chown(file.path, old.st_uid, old.st_gid)
    return kept


def _demand_rights(path: Path) -> None:
    directory = next(parent for parent in path.parents if parent.exists())
    if not os.access(directory, os.W_OK | os.X_OK):
        hint = "run it as root, or use --print and hand the lines to whoever may; nothing was changed"
        raise StorageError("you may not write there", where=str(path), hint=hint)


def program_text(name: str, directory: Path) -> str:
    """A program for Slurm that reads ``health.env`` in this directory.

    Raises:
        HpctrainError: this installation lacks it.
    """
    text = shipped_file(SLURM_SCRIPTS, name).read_text(encoding="utf-8")
    return text.replace(f"{DEFAULT_DIR}/health.env", f"{directory}/health.env")


def environment_text(directory: Path, compiled: str | None, python: str = sys.executable) -> str:
    """What the programs need to know before the configuration is read: where it is, and where failures are told."""
    lines = [f"HPCTRAIN_PYTHON={shlex.quote(python)}"]
    try:
        state_dir = parse_config(json.loads(compiled or "{}"))[0].state_dir
    except ValueError:
        state_dir = DEFAULT_STATE_DIR
    if state_dir != DEFAULT_STATE_DIR and "{node}" not in state_dir:
        lines.append(f"export HPCTRAIN_HEALTH_STATE={shlex.quote(state_dir)}")
    if str(directory) != DEFAULT_DIR:
        lines.append(f"export HPCTRAIN_HEALTH_CONFIG={shlex.quote(str(directory / 'health.json'))}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot be read: {error}", where=str(path)) from error
