"""How benchmarks measure time and print what they found.

The machines are noisy, so nothing here is a test: each ratio is a median over alternating
repetitions, and is printed beside the bound that the project set itself and beside the ratio of the
last release.
"""

import json
import statistics
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import torch

from repository import ROOT

REPEATS = 5
# What the last release measured: a copy of what a run of all benchmarks leaves in results/.
LAST, MADE = ROOT / "tests" / "bench" / "last_release.json", Path("results", "bench.json")
# A ratio that is worse by less than this part is as good: the machines are noisy.
NOISE = 0.1
_said: dict[str, float] = {}
_problems: list[str] = []


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


def say(what: str, value: float, least: float = -inf, most: float = inf, note: str = "") -> None:
    """Print one result beside its bound and the last release's. With `least`, more is better."""
    more = least > -inf
    last = json.loads(LAST.read_text()).get(what) if LAST.exists() else None
    problems = [] if least <= value <= most else ["misses its bound"]
    if last and (last / value if more else value / last) > 1 + NOISE:
        problems.append("fell")
    _said[what] = value
    if problems:
        _problems.append(f"{what}: {' and '.join(problems)}")
    bound = f">= {least:g}" if more else f"<= {most:g}"
    was = f"{last:.3g}" if last else "-"
    print(f"{what:<76} {value:>8.3g} {was:>8}  {bound:<8} {note}".rstrip(), flush=True)


def finish() -> None:
    """Say what misses its bound or fell since the last release, and write what was measured."""
    print(
        "", *(_problems or ["Nothing misses its bound or fell since the last release."]), sep="\n"
    )
    MADE.write_text(json.dumps(_said, indent=2) + "\n")
