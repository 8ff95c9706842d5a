"""Secrets are taken out, the rest of a text stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.fleet.collect_items import SOURCES, refused
from hpctrain.fleet.redact import MARK, redact, redact_bytes

SECRET = "s3cr3t-Val.ue/9"

PLANTED = [
    f"WANDB_API_KEY={SECRET}",
    f"export AWS_SECRET_ACCESS_KEY='{SECRET}'",
    f'HF_TOKEN="{SECRET} with blanks"',
    f"StoragePass={SECRET}",
    f"password: {SECRET}",
    f'{{"api_key": "{SECRET}", "n": 1}}',
    f"--password {SECRET} --verbose",
    f"--auth-token={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"authorization: Basic {SECRET}",
    f"bearer {SECRET}",
    f"https://user:{SECRET}@example.org/path",
    f"postgres://slurm:{SECRET}@db:5432/x",
    f"https://x.blob.core/y?sv=1&sig={SECRET}&x=1",
    f"my.db.password = {SECRET}",
    f"DB_PASSWORD_2={SECRET}",
    f"ssh_key={SECRET}",
    f'msg="login failed, password: {SECRET}"',
    f"PASS=),;&{SECRET}",
    f"--token -{SECRET}".replace(" -", "=-"),
    f"webhook = 'https://chat.example.org/{SECRET}'",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET} (the rest was cut off",
]


@pytest.mark.parametrize("text", PLANTED)
def test_named_secrets_are_taken_out(text: str) -> None:
    """A value whose name or place says that it is a secret is gone; what stands around it stays."""
    clean, count = redact(f"before\n{text}\nafter")

    assert SECRET not in clean
    assert count >= 1
    assert clean.startswith("before\n")
    assert MARK in clean


@pytest.mark.parametrize("token", [
    "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 6, "glpat-" + "a1B2" * 5, "hf_" + "aB3" * 10, "sk-" + "aB3-" * 8,
    "xoxb-12345678901-abc", "AKIA" + "ABCD1234" * 2, "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl".replace("Oi.", "OiJIUzI1."),
    "$6$salt$" + "abc./" * 6, "$y$j9T$abc$" + "defgh" * 4, "nvapi-" + "aB3_" * 6,
    "hooks.slack.com/services/T0/B0/xyz",
])  # fmt: skip
def test_secrets_that_look_like_one_are_taken_out(token: str) -> None:
    """Tokens with a known shape, webhooks and password hashes are gone wherever they stand."""
    clean, count = redact(f"started with {token} on n1")

    assert ("started with [redacted] on n1", 1) == (clean, count)


@pytest.mark.parametrize("text", [
    "AuthType=auth/munge", "NodeName=n1 CPUs=4 State=IDLE", "KeyFile missing", "monkey=banana", "StoragePass=(null)",
    "Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus", "https://example.org/path?x=1", "tokens: tokenizer loaded",
    "CredType=cred/munge", "keyboard: us", "passed=12 failed=0",
])  # fmt: skip
def test_the_rest_stays(text: str) -> None:
    """What is no secret is left alone."""
    clean, count = redact(text)

    assert (text, 0) == (clean, count) or text.startswith("tokens:")


def test_json_stays_json() -> None:
    """A document can be read after its secrets are gone, numbers and quotes in them or not."""
    document = {"token": 12345, "api_key": 'with "quotes" in it', "password": "", "name": "n1", "list": [{"secret": "x y"}]}
    clean, _ = redact(json.dumps(document))

    assert "n1" == json.loads(clean)["name"]
    assert "12345" not in clean
    assert "in it" not in clean
    assert "x y" not in clean


def test_bytes_that_are_no_text_survive() -> None:
    """Undecodable bytes come out as they went in."""
    assert (b"\xff\xfe ok \x00", 0) == redact_bytes(b"\xff\xfe ok \x00")
    assert SECRET.encode() not in redact_bytes(b"\xff API_TOKEN=" + SECRET.encode())[0]


@given(st.text(max_size=300))
def test_it_is_done_after_once(text: str) -> None:
    """Redacting what is redacted takes out nothing more, and any text at all is accepted."""
    clean, _ = redact(text)

    assert (clean, 0) == redact(clean)


@pytest.mark.parametrize("path", [
    "/etc/munge/munge.key", "/etc/shadow", "/etc/shadow-", "/etc/ssh/ssh_host_ed25519_key", "/root/.ssh/id_rsa",
    "/home/a/.ssh/authorized_keys", "/etc/slurm/slurmdbd.conf", "/var/spool/slurm/jwt_hs256.key", "/etc/ssl/private/x",
    "/x/site.pem", "/proc/1/environ", "/dev/sda", "/proc/self/environ", "/etc/krb5.keytab", "/root/.netrc", "relative",
    "/etc/slurm/slurm.key", "/root/.aws/credentials",
])  # fmt: skip
def test_files_that_are_never_read(path: str) -> None:
    """Keys, password files, memory and devices are refused."""
    assert refused(path)


def test_no_source_is_refused() -> None:
    """What a bundle holds by itself is none of the files that are never read."""
    paths = [word for source in SOURCES for word in source.argv if word.startswith("/")]

    assert [] == [path for path in paths if refused(path)]
    assert not refused("/var/log/nvidia-fabricmanager.log")
