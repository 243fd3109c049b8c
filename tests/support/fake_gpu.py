"""A GPU without memory and without results, on which each operation checks the devices of its
tensors.

What is moved to the device becomes a fake tensor of torch's FakeTensorMode: it has a shape, a dtype
and a device, and an operation on tensors of two devices raises. Files and tensors of the CPU are
real. A CPU build of torch stops the process where autograd meets a fake tensor of the device
"cuda". This device therefore has a name of its own, under which torch lets Python register one, and
the program treats every device but the CPU alike. It can be registered once in a process, for good:
`python tests/support/fake_gpu.py` runs all cases in a process of their own, and prints the error of
each as JSON.
"""

import contextlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only

import tiny_models as tiny
from freelunch.adaptation.retraining.trainee import Passes
from freelunch.core import background_io
from freelunch.evaluation.likelihood import LikelihoodRequest
from freelunch.model import transfer
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import load_pruned_block
from freelunch.model.tensor_file import create_hidden
from freelunch.study.windows import MATRIX, split_windows
from interrupts import interrupted, stop_at
from measuring import drift_of, likelihoods_of, perplexity_of
from tiny_models import Prepared

DEVICE = "fakegpu"
BLOCKS = 2
# As small as may be: least squares loops over rows, and each operation on a fake tensor takes long.
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": BLOCKS}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}
aten = torch.ops.aten
# Shapes of the tensors that were recorded as used by another stream than their own.
RECORDED: list[torch.Size] = []
# What the program asks of values, which fake tensors lack: it shall see sound ones.
ANSWERS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: lambda tensor: {torch.bool: True, torch.int32: 0}.get(
        tensor.dtype, 1.0
    ),
    aten.equal.default: lambda one, other: True,
    aten.nonzero.default: lambda tensor: tensor.new_empty((0, tensor.dim()), dtype=torch.int64),
    aten.record_stream.default: lambda tensor, stream: RECORDED.append(tensor.shape),
}


class FakeGpu(FakeTensorMode):
    """Fake what concerns the device, and run all else."""

    # Tensors are made on the CPU before they are moved to the device.
    avoid_device_init = True  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        # How many operations on fake tensors are being carried out, by other operations.
        self._within = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not self._within and not any(
            isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == DEVICE)
            for leaf in leaves
        ):
            # Without a real GPU there is no pinned memory.
            return func(
                *args, **{**kwargs, "pin_memory": False} if "pin_memory" in kwargs else kwargs
            )
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            # From the device to the CPU.
            return args[0].fill_(1)
        if func in ANSWERS:
            devices = {leaf.device for leaf in leaves if isinstance(leaf, Tensor)}
            assert len(devices) == 1, f"{func} of tensors on {devices}"
            return ANSWERS[func](*args, **kwargs)
        if any(isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor) for leaf in leaves):
            args, kwargs = tree_map_only(Tensor, self._fake, (args, kwargs))
        self._within += 1
        try:
            found = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._within -= 1
        if self._within:
            return found
        # Mostly one tensor: no walk through a tree.
        if isinstance(found, FakeTensor):
            return _returned(found)
        return tree_map_only(FakeTensor, _returned, found)

    def _fake(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)


def _returned(tensor: FakeTensor) -> Tensor:
    return torch.ones(tensor.shape, dtype=tensor.dtype) if tensor.device.type == "cpu" else tensor


class FakeEvent:
    """A point in the work of a stream; `waited` are the streams that the host waited for."""

    waited: ClassVar[list["FakeStream"]] = []

    def __init__(self, stream: "FakeStream") -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.waited.append(self.stream)


class FakeStream(torch.Stream):
    """A stream that notes which streams it waits for. In `current` are the streams in which
    operations run, the innermost last; `set_` were set for a thread.
    """

    current: ClassVar[list["FakeStream"]]
    set_: ClassVar[list["FakeStream"]] = []
    # By itself, a stream equals any other of the same number.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(self, device: Any) -> None:
        self.waits: list[FakeStream] = []

    def __enter__(self) -> "FakeStream":
        FakeStream.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        FakeStream.current.pop()

    def record_event(self) -> FakeEvent:
        return FakeEvent(self)

    def wait_event(self, event: FakeEvent) -> None:
        self.waits.append(event.stream)

    def wait_stream(self, stream: "FakeStream") -> None:
        self.waits.append(stream)


class Backend(backend_registration._DummyBackendModule):
    # What torch asks of a device.
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Inline:
    """An executor without a thread: a mode of torch holds for the thread that entered it."""

    def __init__(self, workers: int, name: str) -> None: ...

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None: ...

    def shutdown(self, wait: bool = True) -> None: ...

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """Have what is moved to DEVICE be fake, and streams and events note what they are asked."""
    backward = Tensor.backward

    def checked_backward(self: Tensor, gradient: Tensor | None = None) -> None:
        # An error within the engine's thread would end the process.
        if gradient is not None and gradient.device != self.device:
            raise RuntimeError(f"a gradient on {gradient.device} for a tensor on {self.device}")
        backward(self, gradient)

    def set_data(parameter: Tensor, converted: Tensor) -> None:
        # As for tensors that are not fake. Swapping fails where anything refers to a parameter.
        parameter.data = converted.data

    def current_stream(device: torch.device) -> FakeStream:
        return FakeStream.current[-1]

    def set_stream(stream: FakeStream) -> None:
        # It holds for a thread of its own, which this is not.
        FakeStream.set_.append(stream)

    FakeStream.current = [FakeStream(DEVICE)]
    transfer._stream.cache_clear()
    with (
        mock.patch.object(Tensor, "backward", checked_backward),
        mock.patch.object(torch.utils, "swap_tensors", set_data),
        mock.patch.object(torch, "Stream", FakeStream),
        mock.patch.object(torch.accelerator, "current_stream", current_stream),
        mock.patch.object(torch.accelerator, "set_stream", set_stream),
        mock.patch.object(background_io, "ThreadPoolExecutor", Inline),
        FakeGpu(),
    ):
        yield


def on_device(prepared: Prepared) -> Prepared:
    return Prepared(StreamedModel(prepared.model.folder, DEVICE), prepared.dense, prepared.masks)


def adapted(**settings: Any) -> Callable[[Prepared, Path], object]:
    windows = split_windows(BLOCKS, settings.get("window", MATRIX))
    return lambda prepared, base: tiny.reconstruct(
        on_device(prepared), base / "adapted", windows, **settings
    )


def retrained(**settings: Any) -> Callable[[Prepared, Path], object]:
    return lambda prepared, base: tiny.retrain(on_device(prepared), base / "retrained", **settings)


def resumed(**settings: Any) -> Callable[[Prepared, Path], object]:
    def run(prepared: Prepared, base: Path) -> None:
        there, folder = on_device(prepared), base / "retrained"
        retrain = partial(tiny.retrain, there, folder, epochs=2, **settings)
        interrupted(lambda: retrain(report=stop_at(2), save_s=0))
        retrain()

    return run


def autocast(prepared: Prepared, base: Path) -> None:
    """Check that passes in half precision are on the device: the CPU's autocast leaves it alone."""
    context = Passes(torch.bfloat16).autocast(on_device(prepared).model.device)
    assert isinstance(context, torch.autocast) and context.device == DEVICE


def blocks_on_their_way(prepared: Prepared, base: Path) -> None:
    """Check that the memory of a block and its masks is used again only after its passes."""
    there = on_device(prepared)

    def load(index: int) -> object:
        return load_pruned_block(there.model, there.masks, index)

    RECORDED.clear()
    for _, (block, masks) in transfer.load_ahead(there.model.device, range(BLOCKS), load):
        shapes = [tensor.shape for tensor in (*block.parameters(), *masks.values())]
        assert RECORDED[-len(shapes) :] == shapes


def captured(prepared: Prepared, base: Path) -> None:
    model = on_device(prepared).model
    sample = tiny.save_calibration(model.artifact, base / "sample", tiny.random_tokens(6))
    tiny.capture(model, sample, base / "dense")


def transfers(prepared: Prepared, base: Path) -> None:
    """Check which streams wait for which while batches come and go."""
    device, parts = torch.device(DEVICE, 0), [slice(0, 2), slice(2, 4), slice(4, 6)]
    file = create_hidden(base / "hidden.safetensors", (6, 3, 8), torch.float32)
    RECORDED.clear()
    FakeEvent.waited.clear()
    FakeStream.set_.clear()
    computing = torch.accelerator.current_stream(device)
    with transfer.writing_behind(device) as write:
        batches = transfer.read_batches(device, parts, file)
        for part, (states,) in zip(parts, batches, strict=True):
            write(file, part, states + 1)
    incoming, outgoing = (transfer._stream(device, what) for what in ("batches", "results"))
    # What arrives is there before it is used, and what leaves is computed before it is copied.
    assert FakeStream.set_ == 3 * [incoming]
    assert computing.waits == 3 * [incoming]
    assert outgoing.waits == 3 * [computing]
    # Memory is used again when neither stream needs it.
    assert RECORDED == 6 * [(2, 3, 8)]
    # The host waits for the device before it reads on, and for a copy before it writes it.
    assert FakeEvent.waited.count(computing) == FakeEvent.waited.count(outgoing) == 3
    assert torch.equal(file[:], torch.ones(6, 3, 8))


def misplaced(prepared: Prepared, base: Path) -> None:
    """Check that a tensor on the CPU is noticed, among masks and as an input."""
    there = on_device(prepared)
    block, masks = load_pruned_block(there.model, there.masks, 0)
    (name, linear), *_ = block_linears(block).items()
    for mistake in (
        lambda: linear.weight * torch.ones(masks[name].shape, dtype=torch.bool),
        lambda: linear(torch.ones(1, linear.in_features)),
    ):
        try:
            mistake()
        except RuntimeError:
            continue
        raise AssertionError("a tensor on the CPU met one on the device")


CASES: dict[str, Callable[[Prepared, Path], object]] = {
    "transfers": transfers,
    "a dense pass": captured,
    "a window of a block": adapted(window=1),
    "windows of halves": adapted(window="attention_mlp", epochs=1),
    "windows of matrices": adapted(window="matrix", train_norms=False, epochs=1),
    "sequential windows": adapted(window=1, inputs="sparse", targets="local", epochs=1),
    "sequential windows of matrices": adapted(
        window="matrix", train_norms=False, inputs="sparse", targets="local", epochs=1
    ),
    "least squares": adapted(method="least_squares"),
    "perplexity": lambda prepared, base: perplexity_of(
        on_device(prepared).model, tiny.random_tokens(4), base
    ),
    "drift": lambda prepared, base: drift_of(
        on_device(prepared).model, on_device(prepared).model, tiny.random_tokens(4), base
    ),
    "likelihoods": lambda prepared, base: likelihoods_of(
        on_device(prepared).model,
        [LikelihoodRequest([1, 2, 3], [token]) for token in range(5, 9)],
        base,
    ),
    "retraining streamed, masklora": retrained(
        method="masklora", rank=4, micro_batch=1, streamed=True
    ),
    "retraining streamed, lora": retrained(method="lora", rank=4, streamed=True),
    "retraining in memory, lora_prune": retrained(method="lora_prune", rank=4),
    "retraining streamed, norms": retrained(method="norms", streamed=True),
    "retraining streamed, spp": retrained(method="spp", rank=4, streamed=True),
    "retraining in memory, scalelora": retrained(method="scalelora", rank=4),
    "retraining with checkpointing and a trained head": retrained(
        method="full", gradient_checkpointing=True, train_head=True
    ),
    "resumed in memory, masklora": resumed(method="masklora", rank=4, micro_batch=1),
    "resumed streamed, full": resumed(method="full", loss="distillation", streamed=True),
    "autocast": autocast,
    "blocks on their way": blocks_on_their_way,
    "a tensor on the wrong device is noticed": misplaced,
}


def error_of(case: str, prepared: Prepared, base: Path) -> str | None:
    try:
        with fake_gpu():
            CASES[case](prepared, base)
    except Exception:
        return traceback.format_exc()
    return None


def main(cases: Sequence[str]) -> None:
    torch.set_num_threads(1)
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, Backend())
    with tempfile.TemporaryDirectory() as folder:
        prepared = tiny.prepare(Path(folder) / "prepared", sequences=2, **SIZES)
        for number, case in enumerate(cases or CASES):
            base = Path(folder) / str(number)
            base.mkdir()
            # Line by line: an error in a thread of torch's ends the process.
            print(json.dumps({case: error_of(case, prepared, base)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
