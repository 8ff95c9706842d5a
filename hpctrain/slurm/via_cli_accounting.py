"""The accounting database, through ``sacct`` (adapter over :mod:`hpctrain.slurm.commands`).

sacct talks to slurmdbd, not to slurmctld: either may be down while the other answers. A cluster without accounting is a fact
to be told, not a failure. There are no further tries: a database that is down stays so for longer than a person waits, and
every caller can go on without it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import replace

from hpctrain.errors import AccountingDownError, NoAccountingError, SlurmError, SlurmMissingError
from hpctrain.process import Result
from hpctrain.slurm import refusal
from hpctrain.slurm.accounting import AccountingQuery, Attempt
from hpctrain.slurm.commands import Commands, said
from hpctrain.slurm.parse_accounting import COLUMNS, parse_attempts

PATIENCE = 3
"""A database of years takes longer to answer than a controller: so many times the usual timeout."""
_DISABLED = re.compile(r"accounting storage is disabled|accounting_storage/none", re.I)
_DOWN = re.compile(
    r"persistent connection|PersistInit|problem talking to the database|slurmdbd|connection (?:refused|reset|timed out)"
    r"|unable to (?:connect|contact|resolve)|no route to host|name or service not known|database",
    re.I,
)


class AccountingCommands:
    """The part of :class:`hpctrain.slurm.via_cli.SlurmCli` that reads the accounting database."""

    _slurm: Commands
    _uid: int

    def accounting(self, query: AccountingQuery) -> list[Attempt]:
        """Attempts on record, from one sacct."""
        mark = f"~{secrets.token_hex(4)}~"
        commands = replace(self._slurm, timeout_s=self._slurm.timeout_s * PATIENCE)
        try:
            result = commands.run("sacct", *arguments(query, mark, self._uid))
        except SlurmMissingError as error:
            raise NoAccountingError(error.message, hint=error.advice) from None
        _check(result, commands.timeout_s)
        try:
            return parse_attempts(result.stdout, mark)
        except ValueError as error:
            hint = "please report this with 'scontrol -V'"
            raise SlurmError(f"the answer of sacct does not parse: {error}", hint=hint) from None


def arguments(query: AccountingQuery, mark: str, uid: int) -> list[str]:
    """What sacct is called with: every attempt, no steps, times that know no time zone."""
    since = 1_000_000 if query.since is None else max(1_000_000, int(query.since))
    found = [
        "--noheader", "--allocations", "--duplicates", "--local", "--noconvert", "--parsable", f"--delimiter={mark}",
        f"--format={','.join(COLUMNS)}", f"--starttime=uts{since}",
    ]
    if query.until is not None:
        found.append(f"--endtime=uts{-int(-query.until // 1)}")
    if query.ids:
        found.append(f"--jobs={','.join(map(str, query.ids))}")
    if query.accounts:
        found.append(f"--accounts={','.join(query.accounts)}")
    if query.users:
        found.append(f"--user={','.join(query.users)}")
    else:
        found.append("--allusers" if query.all_users else f"--user={uid}")
    return found


def _check(result: Result, timeout_s: float) -> None:
    """Raise what a failed sacct means."""
    text = said(result)
    if result.timed_out:
        raise AccountingDownError(f"Slurm's accounting database gave no answer within {timeout_s:g} s")
    if _DISABLED.search(text):
        raise NoAccountingError("this cluster keeps no accounting (it has no slurmdbd)")
    # With slurmdbd up and its own database down sacct may end well, with nothing but complaints.
    if result.ok and (result.stdout.strip() or "error:" not in result.stderr):
        return
    if _DOWN.search(text):
        raise AccountingDownError(f"Slurm's accounting database does not answer ({refusal.in_slurms_words(text)})")
    message = f"cannot read Slurm's accounting database: {refusal.in_slurms_words(text)}"
    raise SlurmError(message, hint="'sacctmgr show user' and 'sacctmgr show account' list the names that it knows")
