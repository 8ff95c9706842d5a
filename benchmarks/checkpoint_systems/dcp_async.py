"""``torch.distributed.checkpoint.async_save``, with its thread or its process (adapter over PyTorch).

The *kept stager* is what a careful user adds: one stager for all saves, so that its buffers are reused, in shared memory
for the process. Without it PyTorch makes a new one for each save.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save

from checkpoint_systems.dcp_sync import Dcp
from checkpoint_systems.interface import COMPLETE

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors


class DcpAsync(Dcp):
    """One save at a time.

    Args:
        process: write in a process; else in a thread.
        kept: keep the stager.
    """

    is_async = True

    def __init__(self, place: Path, *, process: bool, kept: bool) -> None:
        super().__init__(place)
        self._kind = AsyncCheckpointerType.PROCESS if process else AsyncCheckpointerType.THREAD
        self._stager = DefaultStager(StagingOptions(
            use_pinned_memory=False, use_shared_memory=process, use_async_staging=False, use_non_blocking_copy=False,
        )) if kept else None
        self._future: Future[Any] | None = None

    def save(self, step: int, tensors: Tensors) -> None:  # noqa: ARG002 - we count
        answer: Any = async_save(
            dict(tensors), storage_writer=self.next_writer(), async_checkpointer_type=self._kind, async_stager=self._stager,
        )
        self._future = getattr(answer, "upload_completion", answer)

    def reached(self, level: str) -> bool:
        if level != COMPLETE or self._future is None or not self._future.done():
            return False
        self._future.result()  # a failure is raised here
        return True

    def close(self) -> None:
        if self._stager is not None:
            self._stager.close()


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:  # noqa: ARG001 - the same for all
    """``process`` and ``kept``."""
    return DcpAsync(place, process=options["process"], kept=options["kept"])
