"""What goes into the image of the dockerised cluster, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.devcluster.docker_image import checkout, pip_configuration, require_engine, stage_context
from hpctrain.errors import ClusterError, MissingDependencyError


def test_the_context_holds_the_source_and_what_the_site_passes_in(tmp_path: Path) -> None:
    """Source, certificate authority, pip configuration and wheels are there; the repository's history and tests are not."""
    authority = tmp_path / "ca.pem"
    authority.write_text("CERTIFICATE")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/x-1-py3-none-any.whl").write_text("wheel")
    env = {
        "HPCTRAIN_DOCKER_CA_FILE": str(authority), "HPCTRAIN_DOCKER_WHEELS": str(tmp_path / "wheels"),
        "PIP_INDEX_URL": "https://user:secret@index.example/simple",
    }
    context = tmp_path / "context"
    stage_context(checkout(), context, env)
    ours = context / "docker-slurm"
    assert (context / "hpctrain/__init__.py").is_file()
    assert (ours / "ca/site.crt").read_text() == "CERTIFICATE"
    assert (ours / "wheels/x-1-py3-none-any.whl").is_file()
    assert f"index-url = {env['PIP_INDEX_URL']}" in (ours / "pip/pip.conf").read_text()
    assert (ours / "pip/pip.conf").stat().st_mode & 0o077 == 0
    assert not (context / ".git").exists()
    assert not (context / "tests").exists()


def test_nothing_is_written_into_the_checkout(tmp_path: Path) -> None:
    """A certificate authority of the environment ends up in the context, not in the repository."""
    (tmp_path / "ca.pem").write_text("x")
    stage_context(checkout(), tmp_path / "context", {"PIP_CERT": str(tmp_path / "ca.pem")})
    assert not (checkout() / "docker-slurm/ca/site.crt").exists()
    assert not (checkout() / "docker-slurm/pip/pip.conf").exists()


def test_a_missing_certificate_authority_is_said_by_name(tmp_path: Path) -> None:
    """A path in the environment that leads nowhere is one clear error."""
    with pytest.raises(ClusterError, match="certificate authority") as caught:
        stage_context(checkout(), tmp_path / "context", {"SSL_CERT_FILE": "/nonexistent/ca.pem"})
    assert caught.value.where == "/nonexistent/ca.pem"


def test_paths_of_this_machine_do_not_reach_pips_configuration() -> None:
    """An index that is a directory here means nothing in the image; a percent sign survives the file's own syntax."""
    text = pip_configuration({"PIP_EXTRA_INDEX_URL": "file:///opt/simple https://a.example/%40/simple", "PIP_INDEX_URL": ""})
    assert text.splitlines() == ["[global]", "extra-index-url = " + "https://a.example/%%40/simple"]


def test_without_docker_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No client: the hint names the script that installs and starts an engine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("hpctrain.process.find", lambda _: None)
    with pytest.raises(MissingDependencyError) as caught:
        require_engine()
    assert "engine.sh start" in caught.value.advice


def test_a_client_without_the_right_to_use_the_engine_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """'permission denied' on the socket becomes advice about the group."""
    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\necho 'permission denied while trying to connect' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(MissingDependencyError, match="may not use") as caught:
        require_engine()
    assert "docker" in caught.value.advice
