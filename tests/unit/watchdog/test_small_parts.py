"""Settings, pacing and notifications of the watchdog."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import HpctrainError, RecipeError
from hpctrain.watchdog.budget import Cause
from hpctrain.watchdog.config import WatchdogConfig, parse
from hpctrain.watchdog.model import Command, Deed
from hpctrain.watchdog.notify import Notifications, mail_text, notification
from hpctrain.watchdog.pacing import Pace
from hpctrain.watchdog.webhook import post

COMMAND = Command(
    Deed.NOTIFY, "k", 7, 1, "run-1", "/r", Cause.NODE, "node n1\nSubject: was lost $(reboot)", data={"kind": "restart"},
)


def test_settings_are_read() -> None:
    """Every key, and the defaults without them."""
    assert parse({}) == WatchdogConfig()
    table = {
        "poll_s": 5, "longest_poll_s": 30.0, "continue_after_s": 9, "drain_after": 0, "state_dir": "/s", "spool_dir": "/p",
        "notify_command": ["/bin/page", "-x"],
        "notify_webhook": "https://h", "notify_mail": "a@b",
    }
    assert parse(table) == WatchdogConfig(5.0, 30.0, 9.0, 0, "/s", "/p", ("/bin/page", "-x"), "https://h", "a@b")


@pytest.mark.parametrize("table", [
    {"poll": 5}, {"poll_s": 0}, {"poll_s": True}, {"poll_s": "5"}, {"state_dir": "relative"}, {"notify_command": "page me"},
    {"notify_command": ["page"]}, {"notify_webhook": "ftp://x"}, {"notify_mail": "-oQ/tmp@x"}, {"notify_mail": "a@b c"},
    {"poll_s": 90}, {"drain_after": -1}, {"drain_after": 2.5}, {"drain_after": True},
])
def test_wrong_settings_are_one_clear_error(table: dict[str, Any]) -> None:
    """The key is named."""
    with pytest.raises(RecipeError, match=r"watchdog\."):
        parse(table)


def test_polls_are_rare_while_nothing_changes_and_soon_while_something_is_on_its_way() -> None:
    """10 s, then slower up to 60; at most 5 while unsettled; up to 300 while nobody answers."""
    pace = Pace()
    assert pace.answered(changed=True, unsettled=False) == 10
    waits = [pace.answered(changed=False, unsettled=False) for _ in range(8)]
    assert waits == sorted(waits) and waits[0] == 15 and waits[-1] == 60
    assert pace.answered(changed=False, unsettled=True) == 5
    assert [pace.silent() for _ in range(7)] == [20, 40, 80, 160, 300, 300, 300]
    assert pace.answered(changed=True, unsettled=False) == 10


def test_a_command_gets_the_notification_on_its_standard_input(tmp_path: Path) -> None:
    """As one JSON object; nothing of it is an argument, let alone a command."""
    script = tmp_path / "page.sh"
    script.write_text(f'#!/bin/sh\n{{ echo "$#"; cat; }} > "{tmp_path}/told"\n')
    script.chmod(0o700)
    said = Notifications(WatchdogConfig(notify_command=(str(script), "one")), post, host="h").send(COMMAND)
    count, text = (tmp_path / "told").read_text().split("\n", 1)
    assert said == "by command" and count == "1" and json.loads(text) == notification(COMMAND, "h")


def test_a_command_that_fails_is_an_error_and_the_other_ways_are_tried() -> None:
    """The webhook hears of it all the same."""
    posted: list[bytes] = []
    config = WatchdogConfig(notify_command=("/bin/false",), notify_webhook="https://secret.example.org/token")
    with pytest.raises(HpctrainError, match="command: exit code 1"):
        Notifications(config, lambda _, body: posted.append(body), host="h").send(COMMAND)
    assert json.loads(posted[0])["run"] == "run-1"


def test_a_mail_has_one_subject_line() -> None:
    """No text of a job can add a header."""
    text = mail_text(notification(COMMAND, "h"), "a@b")
    headers, _, body = text.partition("\n\n")
    assert headers.count("Subject:") == 1 and "was lost" in body


@pytest.fixture
def hook() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server: its address, and what was posted to it. /no answers 500, /else redirects."""
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response({"/no": 500, "/else": 302}.get(self.path, 204))
            self.send_header("Location", "/stolen")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_is_posted_to(hook: tuple[str, list[bytes]]) -> None:
    """And answers that are no success are errors that do not tell the address, which may be a secret."""
    address, posted = hook
    post(f"{address}/yes", b"{}")
    for path in ("no", "else"):
        with pytest.raises(HpctrainError) as caught:
            post(f"{address}/{path}", b"{}")
        assert "127.0.0.1" not in str(caught.value)
    assert len(posted) == 3
    with pytest.raises(HpctrainError, match="no answer"):
        post("http://127.0.0.1:1/x", b"{}")
