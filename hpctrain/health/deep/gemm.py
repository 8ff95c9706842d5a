"""Matrix products under full load, with every result verified (adapter over torch).

Silent corruption is looked for in two ways, because each misses something. The inputs are small whole numbers, so that every
product and every sum is exact in float32, in any order. Freivalds' test on the processor, ``C x = A (B x)`` with vectors of
plus and minus one in float64 where all is exact, finds a result that is *always* wrong, and any single wrong value with
certainty. Every further repetition has to give the same bits as the first, which finds a unit that is wrong *at times*.

In bfloat16 a library may round in the middle of a sum. So there is a product besides whose sums never leave the whole
numbers up to 256, all of which bfloat16 holds: it passes through Freivalds' test, too. The products of the burn are compared
bit for bit with the first of them, and with the exact ones as closely as the format allows. TF32, which rounds inside the
tensor cores in ways that no standard fixes, is not used.
"""

from __future__ import annotations

import time

import torch

from hpctrain.health.deep.bench import Bench, Reading, corrupt, first_difference, measured, skipped

LARGEST = 8
"""Inputs are whole numbers from -8 to 8: 64 x 16384 = 2**20 < 2**24, so that float32 sums of products are exact."""
LARGEST_SUM = 256
"""bfloat16 has 8 bits for a number's digits: it holds every whole number up to 256."""
_THIN_SIZE = 4096
VECTORS = 8
_SEED = 20240229


def inputs(size: int, device: torch.device, seed: int = _SEED) -> tuple[torch.Tensor, torch.Tensor]:
    """Two float32 matrices of whole numbers; the same on every node."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(-LARGEST, LARGEST + 1, (size, size), generator=generator, dtype=torch.int8)
    second = torch.randint(-LARGEST, LARGEST + 1, (size, size), generator=generator, dtype=torch.int8)
    return first.to(device, torch.float32), second.to(device, torch.float32)


def thin_inputs(size: int, device: torch.device, seed: int = _SEED) -> tuple[torch.Tensor, torch.Tensor]:
    """Two bfloat16 matrices of -1, 0 and 1 of whose product every partial sum is a whole number of at most 256.

    No row of the first has more than 256 values that are not zero; each row has them in other columns.
    """
    generator = torch.Generator().manual_seed(seed + 2)
    signs = torch.randint(0, 2, (2, size, size), generator=generator, dtype=torch.int8) * 2 - 1
    columns = torch.arange(size).view(1, -1) - torch.arange(size).view(-1, 1) * 7
    signs[0] *= (columns % size < LARGEST_SUM).to(torch.int8)
    return signs[0].to(device, torch.bfloat16), signs[1].to(device, torch.bfloat16)


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
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    size = bench.sizes.matrix_gpu if bench.on_gpu else bench.sizes.matrix_cpu
    first, second = inputs(size, bench.device)
    exact = torch.mm(first, second)
    bench.spoil("gemm", exact)
    if wrong := freivalds(first, second, exact):
        return [corrupt("gemm.float32", wrong), *skipped(("gemm.bfloat16",), "float32 is wrong already")]
    found = [_burn(bench, "gemm.float32", first, second, exact)]
    if wrong := _small_sums(bench, min(size, _THIN_SIZE)):
        return [*found, corrupt("gemm.bfloat16", wrong)]
    low = (first.to(torch.bfloat16), second.to(torch.bfloat16))
    reference = torch.mm(*low)
    if wrong := _far_off(reference.float(), exact):
        return [*found, corrupt("gemm.bfloat16", wrong)]
    return [*found, _burn(bench, "gemm.bfloat16", *low, reference)]


def _small_sums(bench: Bench, size: int) -> str:
    """What is wrong with a bfloat16 product that is exact in any order of adding; "" if nothing is."""
    first, second = thin_inputs(size, bench.device)
    product = torch.mm(first, second)
    bench.spoil("gemm.bfloat16", product)
    return freivalds(first, second, product)


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
    return measured(metric, 2 * size**3 / bench.counts(times) / 1e12, f"{repeats} products of {size} x {size}, all verified")


def _far_off(found: torch.Tensor, exact: torch.Tensor) -> str:
    """bfloat16 keeps 8 bits: one rounding of a sum is off by 2**-8 of it; twice that is allowed, and one unit near zero."""
    allowed = exact.abs() * 2.0**-7 + 1
    wrong = torch.nonzero(~((found - exact).abs() <= allowed).view(-1))
    if not wrong.numel():
        return ""
    index = int(wrong[0])
    return f"{wrong.numel()} values are far off, such as {found.view(-1)[index].item()} for {exact.view(-1)[index].item()}"
