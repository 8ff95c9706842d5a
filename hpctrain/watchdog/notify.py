"""Tells people: by a command, a mail, a webhook, as the site's or the user's own settings say (adapter over programs).

A notification is one JSON object. Nothing of it becomes a command or an argument; a recipe chooses neither program nor
address.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

from hpctrain import process
from hpctrain.errors import HpctrainError
from hpctrain.watchdog.config import WatchdogConfig
from hpctrain.watchdog.model import Command

TIMEOUT_S = 20.0


class Notifications:
    """The ways that are set up.

    Args:
        post: sends a JSON text to the webhook's address.
    """

    def __init__(self, config: WatchdogConfig, post: Callable[[str, bytes], None], *, host: str) -> None:
        self._config, self._post, self._host = config, post, host

    def send(self, command: Command) -> str:
        """Tell by every way; how it went, in words.

        Raises:
            HpctrainError: a way failed; the others were tried.
        """
        record = notification(command, self._host)
        config = self._config
        told: list[str] = []
        failed: list[str] = []
        if config.notify_command:
            self._by_program(list(config.notify_command), json.dumps(record), "command", told, failed)
        if config.notify_mail:
            mail = ["sendmail", "-i", "--", config.notify_mail]
            mail[0] = process.find("sendmail") or "sendmail"
            self._by_program(mail, mail_text(record, config.notify_mail), "mail", told, failed)
        if config.notify_webhook:
            try:
                self._post(config.notify_webhook, json.dumps(record).encode())
                told.append("webhook")
            except HpctrainError as error:
                failed.append(f"webhook: {error}")
        if failed:
            raise HpctrainError("; ".join(failed))
        return f"by {', '.join(told)}" if told else "nobody is set up to be told"

    @staticmethod
    def _by_program(argv: list[str], text: str, name: str, told: list[str], failed: list[str]) -> None:
        try:
            result = process.run(argv, timeout_s=TIMEOUT_S, stdin=text, cwd="/")
        except HpctrainError as error:
            failed.append(f"{name}: {error}")
            return
        if result.ok:
            told.append(name)
        else:
            failed.append(f"{name}: exit code {result.returncode}{' (timed out)' if result.timed_out else ''}")


def notification(command: Command, host: str) -> dict[str, Any]:
    """What is told. ``key`` is the same when the same thing is told again."""
    return {
        "schema_version": 1, "kind": command.data.get("kind", "alert"), "key": command.key, "run": command.run_name,
        "job": command.job_id, "cause": command.cause.value, "text": command.reason, "host": host,
    }


def mail_text(record: dict[str, Any], to: str) -> str:
    """The same as a mail."""
    message = EmailMessage()
    message["To"] = to
    message["Subject"] = " ".join(f"hpctrain: {record['kind']}: {record['run']} (job {record['job']})".split())[:200]
    message.set_content(f"{record['text']}\n\ncause: {record['cause']}\ntold by the watchdog on {record['host']}\n")
    return message.as_string()
