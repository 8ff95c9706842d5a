"""What cannot work in the section ``checkpoint`` (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpctrain.recipe.problem import Problem, shown
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_checkpoint import Checkpoint, LocalTier, ObjectTier
from hpctrain.recipe.units import format_duration

LONGEST_FLUSH_S = 3600
"""Nodes that train nothing must not be held longer for what memory still holds."""

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$", re.DOTALL)
_SECRET_OPTION = re.compile(r"[?&;](?:[^=&]*(?:key|secret|token|password|signature|credential)[^=&]*)=", re.IGNORECASE)


def check_checkpoint(recipe: Recipe) -> list[Problem]:
    """Every combination of this section's values that cannot work."""
    section = recipe.checkpoint
    return [*_intervals(section), *_memory_tiers(recipe), *_local(section.local), *_object(section.object), *_rest(section)]


def ram_wanted(recipe: Recipe) -> bool:
    """The ram tier is to be tried; whether a node has the memory is seen there."""
    return recipe.checkpoint.ram.enabled is not False


def peer_wanted(recipe: Recipe) -> bool:
    """Copies go to other nodes."""
    peer = recipe.checkpoint.peer
    return ram_wanted(recipe) and (recipe.resources.nodes > 1 if peer == "auto" else peer is True)


def _intervals(section: Checkpoint) -> Iterator[Problem]:
    tiers: tuple[tuple[tuple[str, ...], Checkpoint | LocalTier | ObjectTier], ...] = (
        (("checkpoint",), section), (("checkpoint", "local"), section.local), (("checkpoint", "object"), section.object))
    for path, tier in tiers:
        if tier.every_steps is not None and tier.every not in (None, "auto"):
            name = ".".join(path)
            yield Problem((*path, "every"), f"give at most one of {name}.every and {name}.every_steps")


def _memory_tiers(recipe: Recipe) -> Iterator[Problem]:
    section = recipe.checkpoint
    if not ram_wanted(recipe):
        for path, is_set in ((("peer",), section.peer is True), (("ram", "history"), section.ram.history > 0),
                             (("local", "path"), section.local.path is not None)):
            if is_set:
                yield Problem(("checkpoint", *path), (
                    "needs the ram tier, which checkpoint.ram.enabled switches off: it is written from memory"),
                    hint=f"set checkpoint.ram.enabled to auto, or leave checkpoint.{'.'.join(path)} out")
    elif section.peer is True and recipe.resources.nodes == 1:
        yield Problem(("checkpoint", "peer"), "needs another node to hold the copies; resources.nodes is 1",
                      hint="set checkpoint.peer to auto, which uses it from two nodes on")


def _local(tier: LocalTier) -> Iterator[Problem]:
    place = ("checkpoint", "local", "path")
    if tier.path is not None and not tier.path.startswith("/"):
        yield Problem(place, f"{shown(tier.path)} is not an absolute path: it has to mean a local disk on every node",
                      hint="give a path such as /scratch or /local/ssd that exists on every node")
    elif tier.path is not None and ("\0" in tier.path or ".." in tier.path.split("/")):
        yield Problem(place, f"{shown(tier.path)} is not a plain path")
    if tier.path is None and _says_more(tier):
        yield Problem(place[:-1], "has no effect without checkpoint.local.path")


def _object(tier: ObjectTier) -> Iterator[Problem]:
    place = ("checkpoint", "object", "url")
    if tier.url is None:
        if _says_more(tier):
            yield Problem(place[:-1], "has no effect without checkpoint.object.url")
        return
    match = _URL.match(tier.url)
    if not match or not match.group(2):
        yield Problem(place, f"{_without_secrets(tier.url)} is not a URL such as s3://bucket/prefix",
                      hint="for a directory of a file system write file:///path")
        return
    host = match.group(2).split("/", 1)[0]
    if "@" in host or _SECRET_OPTION.search(tier.url):
        yield Problem(place, f"{_without_secrets(tier.url)} carries credentials, and a recipe is stored and shown as it is",
                      hint="leave them out: they are found as the store's own tools find them, in files such as "
                           "~/.aws/credentials, or in the environment of the job")


def _rest(section: Checkpoint) -> Iterator[Problem]:
    if section.flush_limit > LONGEST_FLUSH_S:
        yield Problem(("checkpoint", "flush_limit"), (
            f"{format_duration(section.flush_limit)} holds nodes that train nothing; at most "
            f"{format_duration(LONGEST_FLUSH_S)}"))
    best = section.keep_best
    if best.metric is None and (best.count != 1 or best.mode != "min"):
        yield Problem(("checkpoint", "keep_best"), "has no effect without checkpoint.keep_best.metric")


def _says_more(tier: LocalTier | ObjectTier) -> bool:
    return tier.every_steps is not None or tier.every != "auto"


def _without_secrets(url: str) -> str:
    """The URL as far as it may be shown."""
    start, sign, rest = url.partition("://")
    if not sign:
        return shown(url.split("?", 1)[0].rpartition("@")[2])
    return shown(f"{start}://{rest.split('?', 1)[0].rpartition('@')[2]}")
