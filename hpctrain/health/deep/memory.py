"""Copy bandwidth and pattern tests of memory, and copies between host and GPU (adapter over torch)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from hpctrain.health.deep.bench import Bench, Reading, corrupt, first_difference, measured, skipped

PATTERNS = (0x00, 0xFF, 0x55, 0xAA)
_CHUNK_BYTES = 2**30


def run_copy(bench: Bench) -> list[Reading]:
    """Copy bandwidth of the device's memory: bytes read plus bytes written."""
    return [_copy(bench, "memory.copy")]


def run_pattern(bench: Bench) -> list[Reading]:
    """Patterns in the device's memory."""
    return [_pattern(bench, "pattern", "pattern.memory")]


def run_host(bench: Bench) -> list[Reading]:
    """Both for the host's memory; without a GPU that is what the other two have measured."""
    if not bench.gpus:
        return skipped(("host_memory.copy", "host_memory.pattern"), "no GPU: 'memory' and 'pattern' are the host's")
    host = replace(bench, device=torch.device("cpu"))
    return [_copy(host, "host_memory.copy"), _pattern(host, "host_memory", "host_memory.pattern")]


def run_pcie(bench: Bench) -> list[Reading]:
    """Pinned copies to the GPU and back; what comes back has to be what went."""
    metrics = ("pcie.to_gpu", "pcie.to_host")
    if not bench.on_gpu:
        return skipped(metrics, "no GPU")
    size = bench.sizes.copy_bytes
    source = torch.randint(0, 256, (size,), dtype=torch.uint8).pin_memory()
    there, back = torch.empty(size, dtype=torch.uint8, device=bench.device), torch.empty_like(source).pin_memory()
    to_gpu = bench.repeated_seconds(lambda: there.copy_(source, non_blocking=True))
    to_host = bench.repeated_seconds(lambda: back.copy_(there, non_blocking=True))
    bench.spoil("pcie", back)
    if wrong := first_difference(back, source):
        return [corrupt(metric, wrong) for metric in metrics]
    return [measured(metrics[0], size / to_gpu / 1e9, "verified"), measured(metrics[1], size / to_host / 1e9, "verified")]


def _copy(bench: Bench, metric: str) -> Reading:
    size = bench.sizes.gpu_copy_bytes if bench.on_gpu else bench.sizes.copy_bytes
    source = torch.arange(size // 8, dtype=torch.int64, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.repeated_seconds(lambda: target.copy_(source))
    if wrong := first_difference(target, source):
        return corrupt(metric, wrong)
    return measured(metric, 2 * size / seconds / 1e9, f"{size} bytes, verified")


def _pattern(bench: Bench, check: str, metric: str) -> Reading:
    """Fill everything, then read everything: a small piece would be read back from a cache.

    Four constant patterns turn every bit both ways, the last one makes every word different: it finds addresses that meet.
    """
    chunks = _allocate(bench)
    total = sum(chunk.numel() * 8 for chunk in chunks)
    seconds = 0.0
    for pattern in (*PATTERNS, None):
        for number, chunk in enumerate(chunks):
            seconds += bench.seconds(partial(_fill, chunk, pattern, number))
        bench.spoil(check, chunks[0])
        for number, chunk in enumerate(chunks):
            spent, wrong = bench.timed(partial(_wrong, chunk, pattern, number))
            seconds += spent
            if wrong:
                name = "addresses" if pattern is None else f"0x{pattern:02x}"
                return corrupt(metric, f"pattern {name}, chunk {number + 1} of {len(chunks)}: {wrong}")
    return measured(metric, 2 * (len(PATTERNS) + 1) * total / seconds / 1e9, f"{total} bytes, all patterns right")


def _allocate(bench: Bench) -> list[torch.Tensor]:
    size = bench.sizes.pattern_bytes
    if bench.on_gpu:
        free, _ = torch.cuda.mem_get_info(bench.device)
        size = int(free * bench.sizes.gpu_share)
    # One chunk's worth stays free for comparing.
    whole, rest = divmod(size, _CHUNK_BYTES)
    sizes = [_CHUNK_BYTES] * max(0, whole - 1) + ([rest] if rest >= 8 else []) or [_CHUNK_BYTES]
    return [torch.empty(one // 8, dtype=torch.int64, device=bench.device) for one in sizes]


def _fill(chunk: torch.Tensor, pattern: int | None, number: int) -> None:
    if pattern is None:
        first = number * (_CHUNK_BYTES // 8)
        torch.arange(first, first + chunk.numel(), out=chunk)
    else:
        chunk.fill_(_word(pattern))


def _wrong(chunk: torch.Tensor, pattern: int | None, number: int) -> str:
    """What is wrong in a chunk; looked at in parts, so that comparing needs little memory."""
    first = number * (_CHUNK_BYTES // 8)
    for start in range(0, chunk.numel(), 2**24):
        part = chunk[start : start + 2**24]
        if pattern is None:
            expected = torch.arange(first + start, first + start + part.numel(), dtype=torch.int64, device=chunk.device)
        else:
            expected = torch.full_like(part, _word(pattern))
        if not torch.equal(part, expected):
            return f"from word {start}: {first_difference(part, expected)}"
    return ""


def _word(pattern: int) -> int:
    """Eight times the byte, as a signed number."""
    return int.from_bytes(bytes([pattern] * 8), "little", signed=True)
