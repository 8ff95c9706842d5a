"""A real S3 server for the tests that want one, started once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.s3_server import FaultyProxy, faulty_proxy, s3_server


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a running server; skipped where there is none to run."""
    for package in ("moto", "flask", "flask_cors", "s3fs"):
        pytest.importorskip(package)
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as port:
        yield port


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch, s3_port: int) -> str:
    """The environment by which the usual tools find the server; the name of an empty bucket there."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}", "AWS_ACCESS_KEY_ID": "test",
                        "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    import s3fs

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return bucket


@pytest.fixture
def proxy(s3_port: int) -> Iterator[FaultyProxy]:
    """In front of the server."""
    with faulty_proxy(s3_port) as proxy:
        yield proxy
