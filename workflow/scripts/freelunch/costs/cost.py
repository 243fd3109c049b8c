"""What a job costs, and how long it takes on a machine.

Every prediction of time is made here. A job computes for as long as each kind of work takes at its
own rate. It reads and writes at the rate of the disk, as if nothing were in the page cache.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from freelunch.costs.machine import Machine
from freelunch.study.steps import SAVE_S

# Resident memory before any weight: Python, torch, transformers, modules (measured, CPU build).
PROCESS_BYTES = 385_000_000
# Seconds that a job needs to start: a Python process, torch, transformers.
START_S = 4.0
# Single precision without tensor cores against bfloat16 with them, by NVIDIA's data sheet of the
# H100 (67 and 989 TFLOP/s). No GPU was there to measure it.
SINGLE_ON_GPU = 67 / 989


class WorkKind(NamedTuple):
    """A kind of work, with its rate as a share of the rate of a large matrix product, and whether
    it is in single precision whatever the model's precision.
    """

    name: str
    share: float
    single: bool = False

    def per_s(self, machine: Machine) -> float:
        slower = SINGLE_ON_GPU if self.single and machine.device_bytes is not None else 1.0
        return machine.flops_per_s * self.share * slower


# The shares below were measured on one thread of an AMD EPYC (two cores, AVX-512, CPU build of
# torch) with SmolLM2-135M in float32, unless a comment says otherwise. "Records" are those in
# docs/full: operations of a step by its processor seconds, against those of an evaluation of
# perplexity (82.9 GFLOP/s), whose own share was measured beside a large matrix product.

# Matrix products of passes. Records: windows of blocks 84.7 GFLOP/s, retraining 78 to 83, zero-shot
# tasks with packed masks 82.9: all as an evaluation.
PASSES = WorkKind("passes", 0.65)
# The language-model head, with the softmax over the vocabulary. Records of Gemma 3 270M, whose head
# takes 63 % of a forward pass: windows of blocks 65 GFLOP/s, evaluation 57, retraining 56.
HEAD = WorkKind("head", 0.52)
# Attention, which counts as if only its lower half were computed. The kernel alone takes 0.30 and
# 0.33 at 2048 and 4096 tokens in bfloat16 (0.69 and 0.74 in float32).
ATTENTION = WorkKind("attention", 0.33)
# Gram matrices, of which only the upper half counts. Records: dense passes with and without them,
# 43.0 and 30.2 s. The products alone take 0.72 to 0.87. Also ALPS, which decomposes Gram matrices
# and multiplies by their inverses.
GRAM = WorkKind("Gram matrices", 0.55, single=True)
# SparseGPT: factorising Gram matrices and eliminating columns. Records: 24.9 GFLOP/s, without what
# Wanda takes for the same weights.
ELIMINATION = WorkKind("elimination", 0.19, single=True)
# Least squares: a factorisation for each row. Records: 13.5 GFLOP/s, without the job's passes and
# Gram matrices.
SOLVING = WorkKind("least squares", 0.11, single=True)
# Swaps: a search among the weights of each row. Alone, on matrices of SmolLM2's shapes: 0.04 to
# 0.12, falling with the number of swaps.
SWAPS = WorkKind("swaps", 0.05, single=True)

# Floating-point operations of each kind of work.
Work = Counter[WorkKind]


def times(count: int, work: Work) -> Work:
    return Work({kind: count * flops for kind, flops in work.items()})


class Memory(NamedTuple):
    """Memory of a job, in bytes: the host's, and the device's."""

    host: int
    device: int


@dataclass(frozen=True)
class Cost:
    """Predicted cost of one job.

    Attributes:
        work: Floating-point operations of each kind of work.
        memory_bytes: Peak resident memory on a machine without a device, in bytes.
        holes_bytes: The part of it that the host's allocator holds in holes, and no device's.
        host_bytes: The part of it that stays in the host's memory if a device computes.
        staged_bytes: What also passes through the host's memory on its way to a device.
        read_bytes: Bytes read from disk.
        written_bytes: Bytes written to disk.
        downloaded_bytes: Bytes that come over the network.
        disk_bytes: Bytes that the job leaves on disk.
        scratch_bytes: Bytes on disk while the job runs, beside those that it leaves.
        saved_bytes: Bytes that it writes each time that it saves its state.
        saves: How often it can save its state at most.
        overlaps: Whether it computes while it reads and writes.
        alone_bytes: Bytes that it reads, and as many that it writes, while it computes nothing,
            even if the rest overlaps.
        other_s: Seconds of work that are no operations on weights, on one thread.
    """

    work: Work = field(default_factory=Counter)
    memory_bytes: int = PROCESS_BYTES
    holes_bytes: int = 0
    host_bytes: int = PROCESS_BYTES
    staged_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    downloaded_bytes: int = 0
    disk_bytes: int = 0
    scratch_bytes: int = 0
    saved_bytes: int = 0
    saves: int = 0
    overlaps: bool = False
    alone_bytes: int = 0
    other_s: float = 0.0

    @property
    def flops(self) -> int:
        return self.work.total()

    def part(self, share: float) -> "Cost":
        """Return the cost of a share of the work, or of several times as much, in as much memory,
        that leaves nothing on disk.
        """
        return replace(
            self,
            work=Work({kind: int(share * flops) for kind, flops in self.work.items()}),
            read_bytes=int(share * self.read_bytes),
            written_bytes=int(share * self.written_bytes),
            alone_bytes=int(share * self.alone_bytes),
            disk_bytes=0,
            saves=0,
        )

    def memory(self, device: bool) -> Memory:
        if not device:
            return Memory(self.memory_bytes, 0)
        of_device = self.memory_bytes - self.holes_bytes - self.host_bytes
        return Memory(self.host_bytes + self.staged_bytes, of_device)

    def seconds(self, machine: Machine) -> float:
        """Return how long a job takes on a machine."""
        moving = (self.read_bytes + self.written_bytes) / machine.disk_per_s
        alone = 2 * self.alone_bytes / machine.disk_per_s
        computing = sum(flops / kind.per_s(machine) for kind, flops in self.work.items())
        both = max(moving - alone, computing) + alone if self.overlaps else moving + computing
        saves = min(both // SAVE_S, self.saves)
        both += saves * self.saved_bytes / machine.disk_per_s
        return START_S + self.other_s + both + self.downloaded_bytes / machine.network_per_s


def together(costs: Sequence[Cost]) -> Cost:
    """Return the cost of several jobs together; memory and scratch are those of the largest."""
    totals = ("read_bytes", "written_bytes", "downloaded_bytes", "disk_bytes")
    largest = ("memory_bytes", "holes_bytes", "host_bytes", "scratch_bytes")
    sizes = {name: sum(getattr(cost, name) for cost in costs) for name in totals}
    sizes |= {name: max((getattr(cost, name) for cost in costs), default=0) for name in largest}
    return Cost(sum((cost.work for cost in costs), Work()), **sizes)
