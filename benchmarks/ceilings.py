"""What this machine can do at this moment, beside which a row is read: matrix products and copying, on all cores.

    python -m benchmarks.ceilings

A virtual machine shares its cores with others: products of bfloat16 and int8 were seen to vary fivefold within
a day, those of float32 twofold. A ratio between precisions varies as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ceilings"]

SIDE, COPIED = 2048, 2**26
CALLS = 8


def ceilings() -> dict[str, float]:
    """Return GFLOP/s of a product of 2048 × 2048 in float32, bfloat16 and int8, and GB/s of a copy of 256 MB."""
    import torch

    square = torch.randn(SIDE, SIDE)
    half = square.bfloat16()
    small = torch.randint(-100, 100, (SIDE, SIDE), dtype=torch.int8)
    floats = torch.randn(COPIED)
    target = torch.empty_like(floats)
    product = 2 * SIDE**3 / 1e9
    return {
        "fp32_gflops": round(product / _least(lambda: square @ square), 1),
        "bf16_gflops": round(product / _least(lambda: half @ half), 1),
        "int8_gflops": round(product / _least(lambda: torch._int_mm(small, small)), 1),
        "copy_gb_s": round(2 * 4 * COPIED / 1e9 / _least(lambda: target.copy_(floats)), 1),
    }


def _least(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


if __name__ == "__main__":
    print(ceilings())
