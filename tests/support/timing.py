"""How benchmarks measure time and print what they found.

The machines are noisy, so nothing here is a test: each ratio is a median over alternating
repetitions, and is printed beside the bound that the project set itself.
"""

import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """Return how many seconds a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(*works: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the median seconds of several pieces of work that are done in turns."""
    times = [[seconds(work) for work in works] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def matmul_rate() -> float:
    """Return the float32 operations per second of matrix products of a SmolLM2 block's shape."""
    a, b = torch.randn(2048, 576), torch.randn(1536, 576)
    linear = torch.nn.functional.linear
    times = [seconds(lambda: [linear(a, b) for _ in range(20)]) for _ in range(7)]
    return 20 * 2 * 2048 * 576 * 1536 / statistics.median(times)


def say(what: str, value: str, bound: str = "none") -> None:
    """Print one result beside its bound."""
    print(f"{what:<66} {value:>18}   bound: {bound}", flush=True)
