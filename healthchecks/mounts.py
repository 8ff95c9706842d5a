"""File systems that are missing or do not answer (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading

_PRIVATE = frozenset({"Permission denied", "Operation not permitted"})
"""A file system of a user's own, such as FUSE, which even root may not enter."""


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report expected mounts that are not there or of another kind, and mounts that hang or fail."""
    mounted = {fs.mount: fs for fs in reading.file_systems}
    table_was_read = bool(reading.file_systems)
    for mount, kind in reading.expected.mounts.items():
        if mount not in mounted and table_was_read:
            yield CHECK.critical(mount, f"{mount} is not mounted", expected_kind=kind)
        elif mount in mounted and kind and mounted[mount].kind != kind:
            yield CHECK.critical(mount, f"{mount} is of kind {mounted[mount].kind}, not {kind}", kind=mounted[mount].kind)
    for fs in reading.file_systems:
        if not fs.answers:
            yield CHECK.critical(
                fs.mount, f"{fs.mount} ({fs.kind}) did not answer within {fs.took_s:.1f} s", action=Action.REBOOT
            )
        elif fs.error and fs.error not in _PRIVATE:
            yield CHECK.critical(fs.mount, f"{fs.mount} ({fs.kind}): {fs.error}", error=fs.error)


CHECK = Check(
    name="mounts",
    what="Every file system that the site expects, and whether each that is mounted answers.",
    why="A hanging file server blocks ranks inside the kernel, where nothing can end them, and the whole job with them.",
    remedy="Look at the server and the network; unmount with umount -l and mount again; reboot if processes stay blocked.",
    false_alarms=(
        "Automounters mount on first use: do not list such paths. A slow server under heavy load may miss the "
        "deadline of 2 s, so the node is not drained unless the site says so."
    ),
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.CONFIGURE,
    needs=("mounts",),
)
