"""The health checks as one archive that runs on a node with nothing but Python there (adapter over this installation).

It holds what a prolog imports: the small root modules, ``hpctrain.health`` without its deep checks, the checks themselves,
NVML's Python module where we have it, the programs that Slurm starts, and the site's compiled configuration. Its name is a
version and a hash of all that, so two archives of one name are the same.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpctrain import __version__
from hpctrain.errors import NotFoundError, UsageError
from hpctrain.health.config import DEFAULT_CONFIG, parse_config
from hpctrain.health.install import DEFAULT_DIR, compile_site, environment_text, program_text
from hpctrain.health.registry import load_checks
from hpctrain.health.remedy_settings import parse_remedies
from hpctrain.health.slurm_settings import PROGRAMS
from hpctrain.resources import HEALTHCHECKS, SLURM_SCRIPTS, shipped, shipped_file

DEFAULT_ROOT = "/opt/hpctrain-health"
DEFAULT_PYTHON = "/usr/bin/python3"
REBOOT_PROGRAM = "reboot_program.sh"
_STAMP = 1_577_836_800  # 2020-01-01: the same on every machine, and old enough for every clock
_SAFE_PATH = re.compile(r"/[\w./+-]+")
_HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Package:
    """An archive for nodes.

    Attributes:
        id: its name there: version and hash.
        archive: a tar.gz.
        manifest: SHA-256 of the list of its files' hashes.
        config: SHA-256 of its configuration; "" where it has none.
        config_text: that configuration.
    """

    id: str
    archive: bytes
    manifest: str
    config: str
    config_text: str


def build_package(config: str | None, root: str = DEFAULT_ROOT) -> Package:
    """Make the archive.

    Args:
        config: the compiled configuration; None for a site that has none.
        root: where it will be on the nodes.

    Raises:
        UsageError: the path has characters that a shell script cannot hold.
        HpctrainError: this installation lacks a part of it.
    """
    if not _SAFE_PATH.fullmatch(root):
        raise UsageError("this path is not absolute, or has characters that a shell script cannot hold", where=root)
    content = _library()
    if config is not None:
        content["health.json"] = config.encode()
    for name in (*PROGRAMS.values(), REBOOT_PROGRAM):
        content[name] = shipped_file(SLURM_SCRIPTS, name).read_bytes()
    digest = hashlib.sha256(root.encode())
    for name, data in sorted(content.items()):
        digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
    name = f"{__version__}-{digest.hexdigest()[:12]}"
    # Every version speaks of itself alone, not of the link to the one in use: a prolog that has begun goes on with what it
    # began with, whatever is installed meanwhile.
    home = Path(root) / "versions" / name
    for program in PROGRAMS.values():
        content[program] = program_text(program, home).encode()
    # Without a configuration of its own, the node's counts, if it has one.
    settings = home if config is not None else Path(DEFAULT_DIR)
    content["health.env"] = environment_text(settings, config, str(home / "bin/python")).encode()
    manifest = "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(content.items())).encode()
    content["MANIFEST"] = manifest
    return Package(
        name, _archive(content), hashlib.sha256(manifest).hexdigest(),
        hashlib.sha256(config.encode()).hexdigest() if config is not None else "", config or "",
    )


def site_config(path: Path | None) -> str | None:
    """The configuration to send: that of a TOML or JSON file, or what is on this machine; None where there is none.

    Args:
        path: the file; None looks for health.toml and health.json where ``hpctrain health install`` puts them.

    Raises:
        NotFoundError: there is no such file.
        UsageError: what is wrong with it, all of it.
        StorageError: it cannot be read.
    """
    if path is None:
        path = next((one for one in (Path(DEFAULT_DIR) / "health.toml", Path(DEFAULT_CONFIG)) if one.is_file()), None)
        if path is None:
            return None
    if path.suffix == ".toml":
        return compile_site(path, [check.name for check in load_checks()])
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except FileNotFoundError:
        raise NotFoundError("there is no such file", where=str(path)) from None
    except ValueError as error:
        raise UsageError(f"is no JSON: {error}", where=str(path)) from None
    config, problems = parse_config(document)
    problems += parse_remedies(config.remedies, settle_s=config.settle_s)[1]
    if problems:
        raise UsageError("; ".join(problems), where=str(path), hint="docs/sysadmins.md shows the keys; nothing was changed")
    return text


def node_script(name: str) -> str:
    """The text of a script that is sent to nodes: ``package.sh`` or ``look.sh``."""
    return (_HERE / "fleet/node" / name).read_text(encoding="utf-8")


def _library() -> dict[str, bytes]:
    """Python files by their path in the archive."""
    wanted = [*_HERE.glob("*.py"), *(_HERE / "health").glob("*.py"), *(_HERE / "fleet" / name for name in _FLEET)]
    found = {f"site/hpctrain/{path.relative_to(_HERE).as_posix()}": path.read_bytes() for path in wanted}
    checks = shipped(HEALTHCHECKS)
    for path in checks.rglob("*"):
        if path.suffix in (".py", ".json"):
            found[f"site/hpctrain/_shipped/healthchecks/{path.relative_to(checks).as_posix()}"] = path.read_bytes()
    nvml = importlib.util.find_spec("pynvml")
    if nvml is not None and nvml.origin and PurePosixPath(nvml.origin).name == "pynvml.py":
        found["site/pynvml.py"] = Path(nvml.origin).read_bytes()
    return found


_FLEET = ("__init__.py", "on_node.py")


def _archive(content: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w") as tar:
        for name, data in sorted(content.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), _STAMP, 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
