"""What went wrong between this machine and the Hugging Face hub, in the user's words (pure).

The libraries that load from the hub raise dozens of classes. They are told apart by their names and by the status of the
answer, so that none of them need be imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from hpctrain.errors import NotFoundError, first_line

Kind = Literal["model", "tokenizer", "data set"]
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp")
_UNREACHED = ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
_REFUSED = ("RepositoryNotFoundError", "GatedRepoError", "DatasetNotFoundError", "RevisionNotFoundError")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables that forbid to ask the hub."""
_PASSING = (408, 429)
"""Answers by which a server asks to come again later, beside all from 500 on."""


def is_unreached(error: BaseException) -> bool:
    """No answer came, or one that says to come again later: another try may well succeed."""
    for one in _chain(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status >= 500 or status in _PASSING
        names = [base.__name__ for base in type(one).__mro__]
        if any(name in _REFUSED for name in names):
            return False
        if isinstance(one, ConnectionError | TimeoutError) or any(name in _UNREACHED for name in names):
            return True
        if any(base.__module__.split(".")[0] in _CLIENTS for base in type(one).__mro__):
            return True
    return "couldn't connect to" in str(error).lower()


def load_error(error: BaseException, kind: Kind, name: str, *, where: str, env: Mapping[str, str]) -> NotFoundError:
    """Why a model, a tokenizer or a data set could not be loaded, and what to do.

    Args:
        name: hub id or directory.
        where: its key in the recipe.
        env: of this process; says whether the hub may be asked at all.
    """
    option = " --repo-type dataset" if kind == "data set" else ""
    download = (f"where there is a network, 'hf download {name}{option}' puts it into the cache below HF_HOME, which nodes "
                "must share; or give a local directory")
    if is_unreached(error):
        if offline(env):
            message = f"the {kind} {name!r} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub for it"
            return NotFoundError(message, where=where, hint=download)
        hub = env.get("HF_ENDPOINT") or "https://huggingface.co"
        return NotFoundError(f"the {kind} {name!r} is not in the cache, and the hub at {hub} cannot be reached: "
                             f"{first_line(_root(error))}", where=where, hint=download)
    if any(base.__name__ in _REFUSED for one in _chain(error) for base in type(one).__mro__):
        return NotFoundError(f"there is no {kind} {name!r} on the hub, or your token may not read it", where=where,
                             hint="look at its name; for one that is private or gated, 'hf auth login' as a user who may")
    return NotFoundError(f"cannot load the {kind} {name!r}: {first_line(error)}", where=where)


def offline(env: Mapping[str, str]) -> bool:
    """The user forbids to ask the hub."""
    return any(env.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _root(error: BaseException) -> BaseException:
    """The innermost error: ``Name or service not known`` rather than what was made of it."""
    return list(_chain(error))[-1]
