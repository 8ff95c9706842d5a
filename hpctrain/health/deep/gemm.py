"""Matrix products under full load, with every result verified (adapter over torch).

Silent corruption is looked for in two ways, because each misses something. The inputs are small whole numbers, so that every
product and every sum is exact in float32, in any order: Freivalds' test on the processor, ``C x = A (B x)`` with vectors of
plus and minus one in float64 where everything is exact, finds a result that is *always* wrong, and any single wrong value
with certainty. Every further repetition has to give the same bits as the first, which finds a unit that is wrong *at times*.

In bfloat16 a library may round in the middle of a sum, so results are compared bit for bit with the first of their kind, and
with the exact ones only as closely as the format allows.
"""

from __future__ import annotations

import time

import torch

from hpctrain.health.deep.bench import Bench, Reading, corrupt, first_difference, measured, skipped

LARGEST = 8
"""Inputs are whole numbers from -8 to 8: 64 x 16384 = 2**20 < 2**24, so that float32 sums of products are exact."""
VECTORS = 8
_SEED = 20240229


def inputs(size: int, device: torch.device, seed: int = _SEED) -> tuple[torch.Tensor, torch.Tensor]:
    """Two float32 matrices of whole numbers; the same on every node."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(-LARGEST, LARGEST + 1, (size, size), generator=generator, dtype=torch.int8)
    second = torch.randint(-LARGEST, LARGEST + 1, (size, size), generator=generator, dtype=torch.int8)
    return first.to(device, torch.float32), second.to(device, torch.float32)


def freivalds(first: torch.Tensor, second: torch.Tensor, product: torch.Tensor, *, seed: int = _SEED) -> str:
    """What is wrong with a product of whole-numbered matrices, in words; "" if nothing is.

    Works on the processor, in float64, where all numbers are exact; costs eight matrix-vector products per matrix.
    """
    size = second.shape[1]
    signs = torch.randint(0, 2, (size, VECTORS), generator=torch.Generator().manual_seed(seed + 1)) * 2 - 1
    vectors = signs.to(torch.float64)
    expected = _times(first, _times(second, vectors))
    found = _times(product, vectors)
    rows = torch.nonzero((found != expected).any(dim=1)).view(-1)
    return "" if not rows.numel() else f"Freivalds' test fails in {rows.numel()} of {size} rows, the first is {int(rows[0])}"


def _times(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """By blocks of rows, so that no second copy of the matrix is needed."""
    return torch.cat([block.cpu().to(torch.float64) @ vectors for block in torch.split(matrix, 1024)])


def run(bench: Bench) -> list[Reading]:
    """Burn in float32 and in bfloat16, half of the time each."""
    if bench.on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = True  # exact for these inputs: its 11 bits hold every one of them
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    size = bench.sizes.matrix_gpu if bench.on_gpu else bench.sizes.matrix_cpu
    first, second = inputs(size, bench.device)
    exact = torch.mm(first, second)
    bench.spoil("gemm", exact)
    if wrong := freivalds(first, second, exact):
        return [corrupt("gemm.float32", wrong), *skipped(("gemm.bfloat16",), "float32 is wrong already")]
    found = [_burn(bench, "gemm.float32", first, second, exact)]
    low = (first.to(torch.bfloat16), second.to(torch.bfloat16))
    reference = torch.mm(*low)
    if wrong := _far_off(reference.float(), exact):
        return [*found, corrupt("gemm.bfloat16", wrong)]
    return [*found, _burn(bench, "gemm.bfloat16", *low, reference)]


def _burn(bench: Bench, metric: str, first: torch.Tensor, second: torch.Tensor, expected: torch.Tensor) -> Reading:
    size, result, times = first.shape[0], torch.empty_like(expected), []
    until = time.perf_counter() + bench.sizes.burn_s / 2
    repeats = 0
    while repeats < bench.sizes.repeats or time.perf_counter() < until:
        times.append(bench.seconds(lambda: torch.mm(first, second, out=result)))
        repeats += 1
        if not torch.equal(result, expected):
            told = f"repetition {repeats} gives other bits than the first: {first_difference(result, expected)}"
            return corrupt(metric, told)
    middle = sorted(times)[len(times) // 2]
    return measured(metric, 2 * size**3 / middle / 1e12, f"{repeats} products of {size} x {size}, all verified")


def _far_off(found: torch.Tensor, exact: torch.Tensor) -> str:
    """bfloat16 keeps 8 bits: one rounding of a sum is off by 2**-8 of it; twice that is allowed, and one unit near zero."""
    allowed = exact.abs() * 2.0**-7 + 1
    wrong = torch.nonzero(~((found - exact).abs() <= allowed).view(-1))
    if not wrong.numel():
        return ""
    index = int(wrong[0])
    return f"{wrong.numel()} values are far off, such as {found.view(-1)[index].item()} for {exact.view(-1)[index].item()}"
