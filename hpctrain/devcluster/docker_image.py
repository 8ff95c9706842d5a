"""Build the image of the dockerised cluster (adapter over the ``docker`` command).

``python -m hpctrain.devcluster.docker_image [SUITE]`` does so without starting a cluster.

The build context is a copy of the parts of the checkout that go into the image, with what the site passes in: a proxy's
certificate authority, a pip configuration, wheels. None of it is written into the checkout.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from hpctrain import process
from hpctrain.errors import ClusterError, HpctrainError, MissingDependencyError

SUITES = {"bookworm": "22.05", "trixie": "24.11", "forky": "26.05"}
"""Debian's suites that the image is built from, and the Slurm in each."""
DEFAULT_SUITE = "trixie"
REPOSITORY = "hpctrain-slurm"
BUILD_TIMEOUT_S = 3600
_PARTS = ("constraints.txt", "docker-slurm", "healthchecks", "hpctrain", "pyproject.toml", "README.md", "LICENSE",
          "MANIFEST.in", "recipes", "setup.cfg", "slurm_scripts")  # fmt: skip
_SKIP = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".env")
CA_VARIABLES = ("HPCTRAIN_DOCKER_CA_FILE", "PIP_CERT", "SSL_CERT_FILE")
"""Where a certificate authority is taken from: the first that is set."""
WHEELS_VARIABLE = "HPCTRAIN_DOCKER_WHEELS"
APT_VARIABLE = "HPCTRAIN_DOCKER_APT_CONF"
_INDEX_VARIABLES = {
    "PIP_INDEX_URL": "index-url", "PIP_EXTRA_INDEX_URL": "extra-index-url", "PIP_TRUSTED_HOST": "trusted-host",
}


_ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where hpctrain runs from one."""


def image_tag(suite: str) -> str:
    """``hpctrain-slurm:trixie``."""
    return f"{REPOSITORY}:{suite}"


def checkout() -> Path:
    """The directory with ``docker-slurm/``.

    Raises:
        MissingDependencyError: hpctrain was installed without it.
    """
    if not (_ROOT / "docker-slurm" / "Dockerfile").is_file():
        raise MissingDependencyError(
            "the dockerised cluster is built from hpctrain's source, which is not here",
            hint="clone the repository and run its 'hpctrain', or use the private cluster: 'hpctrain cluster up'",
        )
    return _ROOT


def require_engine() -> None:
    """See that a Docker engine answers.

    Raises:
        MissingDependencyError: there is no client, no engine, or no right to use it; with what to do.
    """
    if process.find("docker") is None:
        raise MissingDependencyError("Docker is not installed", hint=_engine_hint())
    answer = process.run(["docker", "info", "--format", "{{.ServerVersion}}"], timeout_s=30)
    if answer.ok and answer.stdout.strip():
        return
    said = (answer.stderr or answer.stdout).strip().splitlines()
    if "permission denied" in answer.stderr.lower():
        raise MissingDependencyError(
            "you may not use the Docker engine", hint="ask to be put into its group 'docker', or run this through sudo"
        )
    raise MissingDependencyError(f"no Docker engine answers{f': {said[-1]}' if said else ''}", hint=_engine_hint())


def _engine_hint() -> str:
    script = _ROOT / "docker-slurm" / "engine.sh"
    start = f"on Debian and Ubuntu 'sudo {script} start' installs and starts one" if script.is_file() else ""
    return "; ".join(filter(None, (start, "elsewhere install Docker Engine with Compose and start it")))


def build_image(
    suite: str = DEFAULT_SUITE, *, env: Mapping[str, str] | None = None, say: Callable[[str], None] = lambda _: None,
) -> str:
    """Build the image, as far as Docker has not done so before; return its tag.

    Args:
        env: where to look for :data:`CA_VARIABLES`, pip's index, :data:`WHEELS_VARIABLE` and :data:`APT_VARIABLE`.

    Raises:
        ClusterError: it does not build, with the end of the output.
        MissingDependencyError: no engine, no source.
    """
    env = os.environ if env is None else env
    root = checkout()
    require_engine()
    made = process.run(["/bin/bash", str(root / "docker-slurm" / "base-image.sh"), suite], timeout_s=BUILD_TIMEOUT_S)
    if not made.ok:
        raise ClusterError(f"there is no base image for {suite}:\n{made.stderr.strip()}")
    tag = image_tag(suite)
    with tempfile.TemporaryDirectory(prefix="hpctrain-image-") as place:
        context = Path(place, "context")
        stage_context(root, context, env)
        say(f"building {tag} (the first time this takes some minutes)")
        command = ["docker", "build", "--tag", tag, "--file", str(context / "docker-slurm" / "Dockerfile"),
                   "--build-arg", f"SUITE={suite}", "--build-arg", f"APT_CONF={env.get(APT_VARIABLE, '')}"]  # fmt: skip
        if extras := env.get("HPCTRAIN_DOCKER_EXTRAS"):
            command += ["--build-arg", f"EXTRAS={extras}"]
        result = process.run([*command, str(context)], timeout_s=BUILD_TIMEOUT_S)
    if not result.ok:
        end = "\n".join((result.stdout + result.stderr).strip().splitlines()[-25:])
        raise ClusterError(f"the image {tag} does not build:\n{end}", hint="the README of docker-slurm/ says what it needs")
    return tag


def stage_context(root: Path, context: Path, env: Mapping[str, str]) -> None:
    """Copy what the image is built from, and what the site passes in, into a new directory."""
    context.mkdir(parents=True)
    for name in _PARTS:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=_SKIP)
        elif source.exists():
            shutil.copy2(source, context / name)
    ours = context / "docker-slurm"
    if authority := next((env[name] for name in CA_VARIABLES if env.get(name)), ""):
        if not Path(authority).is_file():
            raise ClusterError("the certificate authority for the image is not there", where=authority)
        shutil.copyfile(authority, ours / "ca" / "site.crt")
    (ours / "pip" / "pip.conf").write_text(pip_configuration(env))
    (ours / "pip" / "pip.conf").chmod(0o600)
    if wheels := env.get(WHEELS_VARIABLE):
        for wheel in sorted(Path(wheels).glob("*.whl")):
            shutil.copyfile(wheel, ours / "wheels" / wheel.name)


def pip_configuration(env: Mapping[str, str]) -> str:
    """A pip.conf with the package index of the environment; a path of this machine means nothing in the image."""
    lines = ["[global]"]
    for name, key in _INDEX_VARIABLES.items():
        value = " ".join(word for word in env.get(name, "").split() if not word.startswith(("file:", "/")))
        if value:
            lines.append(f"{key} = {value.replace('%', '%%')}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Build the image of a suite; the exit code."""

    def say(text: str) -> None:
        sys.stderr.write(f"    {text}\n")

    try:
        build_image(*(arguments[:1] or [DEFAULT_SUITE]), say=say)
    except HpctrainError as error:
        sys.stderr.write(f"error: {error}\n{f'hint:  {error.advice}' if error.advice else ''}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
