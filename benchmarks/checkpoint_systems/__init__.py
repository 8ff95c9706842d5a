"""The systems that ``benchmarks/checkpoint.py`` compares, one adapter each, and who needs what to run (pure)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the tables.

    Attributes:
        module: of this package; it has ``make(place, options)``, see :mod:`checkpoint_systems.interface`.
        options: what tells rows of the same module apart.
        rival: lives in an environment of its own, see :mod:`checkpoint_systems.environment`.
    """

    module: str
    options: tuple[tuple[str, object], ...] = ()
    rival: bool = False


SYSTEMS: dict[str, Entry] = {
    "hpctrain": Entry("hpctrain_tiers", (("tiers", ("ram", "shared")),)),
    "hpctrain, all tiers": Entry("hpctrain_tiers", (("tiers", ("ram", "peer", "local", "shared")),)),
    "hpctrain, no RAM tier": Entry("hpctrain_tiers", (("tiers", ("shared",)),)),
    "torch.save": Entry("one_file", (("format", "torch"),)),
    "safetensors": Entry("one_file", (("format", "safetensors"),)),
    "DCP save": Entry("dcp_sync", (("threads", 1), ("sync_files", True))),
    "DCP save, 2 threads": Entry("dcp_sync", (("threads", 2), ("sync_files", True))),
    "DCP save, no fsync": Entry("dcp_sync", (("threads", 1), ("sync_files", False))),
    "DCP async_save, thread": Entry("dcp_async", (("process", False), ("kept", False))),
    "DCP async_save, thread, kept stager": Entry("dcp_async", (("process", False), ("kept", True))),
    "DCP async_save, process": Entry("dcp_async", (("process", True), ("kept", False))),
    "DCP async_save, process, kept stager": Entry("dcp_async", (("process", True), ("kept", True))),
    "torchsnapshot async_take": Entry("torchsnapshot_async", rival=True),
    "dlrover flash checkpoint": Entry("dlrover_flash", rival=True),
}
"""All rows, in the order of the tables."""

OURS, DCP_SAVE, ASYNC = "hpctrain", "DCP save", "DCP async_save"
