"""The health package on a node: it runs with nothing but Python, and an interruption leaves one whole version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.errors import UsageError
from hpctrain.fleet.health_package import Package, build_package, node_script, site_config
from hpctrain.fleet.status import NodeStatus, drift, parse_status

STEPS = ("mv", "ln", "mkdir", "mktemp", "tar", "cp", "chmod", "sync", "rm", "sha256sum", "cmp", "flock")
"""Programs of package.sh that change something, or stand between two that do."""
PROGRAMS = ("prolog.sh", "epilog.sh", "health_program.sh")


@dataclass(frozen=True)
class Node:
    """A node's files below a directory of the test."""

    place: Path

    @property
    def root(self) -> Path:
        """Where versions are."""
        return self.place / "root"

    @property
    def directory(self) -> Path:
        """Where slurm.conf's programs are."""
        return self.place / "etc"

    def package(self, config: str | None = None) -> Package:
        """A package for this node."""
        return build_package(config, str(self.root))

    def tiny(self, name: str) -> Package:
        """A package whose programs print its name, for a node whose Python is :meth:`stub_python`."""
        content = {program: f"#!/bin/sh\necho {name}\n".encode() for program in PROGRAMS}
        manifest = "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in content.items()).encode()
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for path, data in {**content, "MANIFEST": manifest}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, BytesIO(data))
        return Package(name, packed.getvalue(), hashlib.sha256(manifest).hexdigest(), "", "")

    def stub_python(self) -> str:
        """What answers as a Python does, at once."""
        path = self.place / "python"
        path.write_text('#!/bin/sh\ncase "$*" in *_base_executable*) echo "$0" ;; *version_info*) echo 3.11 ;; esac\n')
        path.chmod(0o755)
        return str(path)

    def run(
        self, action: str, package: Package | None = None, stamp: str = "s", *, path: str | None = None,
        python: str = sys.executable,
    ) -> process.Result:
        """Run package.sh as the fleet does."""
        archive = self.place / "archive"
        archive.write_bytes(package.archive if package else b"")
        argv = ["/bin/sh", str(self.place / "package.sh"), action, str(self.root), str(self.directory), python,
                package.id if package else "", stamp]
        (self.place / "package.sh").write_text(node_script("package.sh"))
        with archive.open("rb") as stdin:
            started = process.start(argv, stdin=stdin, stdout=process.PIPE, stderr=process.PIPE,
                                    env={**os.environ, **({"PATH": path} if path else {})})
            out, err = started.communicate(timeout=120)
        return process.Result(tuple(argv), started.returncode, out.decode(), err.decode())

    def status(self) -> NodeStatus:
        """What the node says of itself."""
        return parse_status(self.run("status").stdout)

    def prolog(self, **env: str) -> process.Result:
        """Run the prolog as Slurm does: no PATH, no HOME."""
        state = {"HPCTRAIN_HEALTH_BUDGET_S": "60", "HPCTRAIN_HEALTH_SYSLOG": str(self.place / "no-syslog")}
        return process.run([str(self.directory / "prolog.sh")], timeout_s=120, env={**state, "SLURM_JOB_ID": "1", **env})


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node without anything."""
    return Node(tmp_path)


def config_for(node: Node, **more: object) -> str:
    """A configuration whose state is kept in the test's directory."""
    return json.dumps({"version": 1, "state_dir": str(node.place / "state"), **more}) + "\n"


def whole(node: Node, *packages: Package) -> Package:
    """The version in use, which is one of these, whole and linked; fails otherwise."""
    status = node.status()
    found = [package for package in packages if package.id == status.current]
    assert found, status
    assert () == drift(status, found[0].id, found[0].manifest, found[0].config)
    return found[0]


def test_it_runs_with_nothing_but_python(node: Node) -> None:
    """Installed on an empty node, the prolog runs from the package: with its configuration, and none of our libraries."""
    package = node.package(config_for(node))
    done = node.run("install", package)
    assert done.ok, done.stderr
    whole(node, package)

    ran = node.prolog()
    settings = (node.directory / "health.env").read_text().splitlines()
    python = next(line for line in settings if "PYTHON" in line).split("=")[1]
    code = "import hpctrain.health.run, sys; print(hpctrain.__file__, sorted(sys.modules))"
    modules = process.run([python, "-I", "-c", code], timeout_s=60).stdout

    assert (0, "") == (ran.returncode, ran.stderr)
    assert list((node.place / "state").glob("*.events.jsonl"))
    assert f"{node.root}/versions/{package.id}/" in modules
    assert not [name for name in ("click", "pydantic", "torch", "paramiko") if f"'{name}'" in modules]


def test_the_same_package_has_the_same_name(node: Node) -> None:
    """Two archives of one content are the same bytes; another configuration or place is another version."""
    one = node.package("{}")

    assert one == node.package("{}")
    assert 4 == len({one.id, node.package(None).id, node.package('{"version": 1}').id, build_package("{}", "/elsewhere").id})
    with tarfile.open(fileobj=BytesIO(one.archive)) as tar:
        names = tar.getnames()
        manifest = tar.extractfile("MANIFEST")
        assert manifest is not None
        assert one.manifest == hashlib.sha256(manifest.read()).hexdigest()
    assert not [name for name in names if "deep" in name or "/cli/" in name or ".." in name]
    with pytest.raises(UsageError):
        build_package(None, "/x; rm -rf /")


def test_upgrade_rollback_and_back_again(node: Node) -> None:
    """An upgrade is one step forward, a rollback one step back; a second rollback goes forward again."""
    old, new = node.package(config_for(node)), node.package(config_for(node, settle_s=7))
    for package in (old, new):
        assert node.run("install", package).ok
    assert whole(node, old, new) == new
    assert node.run("rollback").ok
    assert whole(node, old, new) == old
    assert 0 == node.prolog().returncode
    assert node.run("rollback").ok
    assert whole(node, old, new) == new


def test_there_may_be_nothing_to_go_back_to(node: Node) -> None:
    """A rollback says so, on an empty node and after the first installation."""
    assert 44 == node.run("rollback").returncode
    assert node.run("install", node.package()).ok
    assert 44 == node.run("rollback").returncode


def test_files_that_were_there_become_a_version(node: Node) -> None:
    """What 'health install' or a person put there is used until the switch, and a rollback brings it back."""
    node.directory.mkdir()
    for name in PROGRAMS:
        (node.directory / name).write_text("#!/bin/sh\necho old\n")
        (node.directory / name).chmod(0o755)
    package = node.package(config_for(node))

    assert node.run("install", package, stamp="now").ok
    whole(node, package)
    assert node.run("rollback").ok

    assert "old\n" == node.prolog().stdout
    assert "before-now" == node.status().current


def test_a_damaged_version_is_mended(node: Node) -> None:
    """Files that were changed or removed are told, and installing again brings them back under the same name."""
    package = node.package(config_for(node))
    assert node.run("install", package).ok
    home = node.root / "versions" / package.id
    (home / "prolog.sh").write_text("#!/bin/sh\nexit 1\n")
    (home / "site/hpctrain/errors.py").unlink()
    (node.directory / "epilog.sh").unlink()
    (node.directory / "health.env").unlink()
    (node.directory / "health.env").write_text("x")

    told = drift(node.status(), package.id, package.manifest, package.config)
    assert ("changed: prolog.sh, site/hpctrain/errors.py", "not ours: health.env", "not linked: epilog.sh") == told
    assert node.run("install", package).ok
    whole(node, package)
    assert 0 == node.prolog().returncode


def test_a_package_that_arrives_torn_changes_nothing(node: Node) -> None:
    """Half an archive, or one with another content than its list says, is refused before anything is switched."""
    old, new = node.package(config_for(node)), node.package(config_for(node, settle_s=7))
    assert node.run("install", old).ok
    half = Package(new.id, new.archive[: len(new.archive) // 2], new.manifest, new.config, new.config_text)

    done = node.run("install", half)

    assert 74 == done.returncode
    assert "did not arrive whole" in done.stderr
    assert whole(node, old, new) == old
    assert [old.id] == [path.name for path in (node.root / "versions").iterdir()]


def test_a_python_that_is_too_old_is_refused(node: Node, tmp_path: Path) -> None:
    """A node whose Python cannot run the checks keeps what it has, and says what is wrong."""
    (tmp_path / "python").write_text("#!/bin/sh\necho 3.6\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    script = tmp_path / "package.sh"
    script.write_text(node_script("package.sh"))
    (tmp_path / "archive").write_bytes(node.package().archive)
    with (tmp_path / "archive").open("rb") as stdin:
        started = process.start(
            ["/bin/sh", str(script), "install", str(node.root), str(node.directory), str(tmp_path / "python"), "x", "s"],
            stdin=stdin, stdout=process.PIPE, stderr=process.PIPE,
        )
        _, err = started.communicate(timeout=60)

    assert (76, True) == (started.returncode, b"3.6; 3.10 or newer is needed" in err)
    assert not (node.root / "current").exists()


def test_two_installations_do_not_meet(node: Node) -> None:
    """While one holds the lock, another gives up and says so."""
    assert node.run("install", node.package()).ok
    holder = process.start(["flock", str(node.root / ".lock"), "sleep", "60"])
    try:
        while process.run(["flock", "-n", str(node.root / ".lock"), "true"], timeout_s=60).ok:
            pass
        done = node.run("install", node.package("{}"))
    finally:
        process.kill_group(holder)
        holder.wait()

    assert (75, True) == (done.returncode, "another installation runs" in done.stderr)


def test_few_old_versions_are_kept(node: Node) -> None:
    """The one in use, the one before and three more stay."""
    packages = [node.tiny(f"v{number}") for number in range(7)]
    for package in packages:
        assert node.run("install", package, python=node.stub_python()).ok

    kept = {path.name for path in (node.root / "versions").iterdir()}
    assert 5 == len(kept)
    assert {packages[-1].id, packages[-2].id} <= kept


def _killer(directory: Path, at: int) -> str:
    """A PATH whose programs count their calls and kill the shell that makes call number ``at``, before doing anything."""
    shims = directory / "shims"
    shutil.rmtree(shims, ignore_errors=True)
    shims.mkdir()
    (directory / "count").write_text("0")
    for name in STEPS:
        real = process.find(name)
        assert real is not None
        (shims / name).write_text(
            "#!/bin/sh\n"
            f"read -r n <'{directory}/count'\nn=$((n + 1))\necho $n >'{directory}/count'\n"
            f"if [ $n -eq {at} ]; then kill -9 $PPID; exit 137; fi\n"
            f"exec {real} \"$@\"\n"
        )
        (shims / name).chmod(0o755)
    return f"{shims}:{os.environ['PATH']}"


@pytest.mark.parametrize("adopt", [True, False], ids=["adoption", "upgrade"])
def test_killed_at_any_step_it_leaves_a_whole_version(tmp_path: Path, *, adopt: bool) -> None:
    """Killed before each program that package.sh calls, the paths of slurm.conf lead to one whole version ever after.

    In an upgrade, and where files of other hands are taken over: each time, and the next attempt completes.
    """
    node = Node(tmp_path / "node")
    node.place.mkdir()
    python = node.stub_python()
    new = node.tiny("new")
    if adopt:
        node.directory.mkdir()
        for name in PROGRAMS:
            (node.directory / name).write_text("#!/bin/sh\necho old\n")
            (node.directory / name).chmod(0o755)
    else:
        assert node.run("install", node.tiny("old"), python=python).ok
    shutil.copytree(node.place, tmp_path / "saved", symlinks=True)
    seen = []
    for at in range(1, 200):
        shutil.rmtree(node.place)
        shutil.copytree(tmp_path / "saved", node.place, symlinks=True)
        done = node.run("install", new, path=_killer(tmp_path, at), python=python)
        said = {process.run([str(node.directory / name)], timeout_s=60).stdout.strip() for name in PROGRAMS}
        assert said in ({"old"}, {"new"}), f"killed before call {at}: {said}"
        seen.append(said.pop())
        if done.ok:
            break
        if seen[-1] == "new":
            assert node.status().manifest == new.manifest
        assert node.run("install", new, python=python).ok, at
        whole(node, new)

    assert "new" == seen[-1]
    assert sorted(seen, reverse=True) == seen  # one switch, and no way back
    assert len(seen) > (20 if adopt else 15)


def test_site_configurations(tmp_path: Path) -> None:
    """TOML is compiled, JSON is checked, and mistakes are refused before anything is sent."""
    (tmp_path / "a.toml").write_text("settle_s = 9\n")
    (tmp_path / "a.json").write_text('{"version": 1, "settle_s": 9}')
    (tmp_path / "bad.json").write_text('{"setle_s": 9}')
    (tmp_path / "torn.json").write_text("{")

    assert 9 == json.loads(site_config(tmp_path / "a.toml") or "")["settle_s"]
    assert 9 == json.loads(site_config(tmp_path / "a.json") or "")["settle_s"]
    for name in ("bad.json", "torn.json"):
        with pytest.raises(UsageError):
            site_config(tmp_path / name)
