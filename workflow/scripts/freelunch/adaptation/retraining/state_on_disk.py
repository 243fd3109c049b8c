"""What a streamed retraining moves, on disk: see `freelunch.adaptation.retraining.state`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.adaptation.retraining.state import (
    FILES,
    PARAMETER,
    SLOT,
    STEPS,
    TrainedState,
    move_,
    shapes_of,
)
from freelunch.adaptation.training.optimisation import make_optimiser
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.files import no_half_file
from freelunch.model.tensor_file import Entry, TensorFile, create_tensor_file
from freelunch.model.transfer import read_tensor


class TrainedStateOnDisk(TrainedState):
    """Trained parameters of the blocks on disk, and those outside of the blocks in memory.

    One parameter at a time is in memory for its step. A step writes all values anew; there are two
    slots for them, and the one that was saved last is left as it is, so that a training that is
    killed at any moment resumes from it.

    Args:
        optimiser: "adamw" or "sgd".
        saved: The file in which the state is saved, except what is on disk anyway.
        fingerprint: Digest of what is trained, on what, and by which code.
        device: Where passes run.
        outer: Number of the part that stays in memory.
    """

    def __init__(
        self,
        optimiser: str,
        saved: Path,
        fingerprint: str,
        device: torch.device,
        outer: int,
    ) -> None:
        super().__init__(optimiser, saved, fingerprint, device)
        self._outer = outer
        self._shapes: dict[int, list[tuple[int, ...]]] = {}
        self._of_gradients: dict[int, list[Tensor]] = {}
        self._steps = 0
        # The slot that holds the values, and the one that the next step writes.
        self._from, self._to = 0, 0

    def check_room(self, parameters: int, beside: int) -> None:
        """Raise UserError if the disk cannot hold so many trained parameters, and `beside` them the
        bytes that the training writes otherwise: hidden states and shards.
        """
        # Values and moments in both slots, and gradients.
        needed = parameters * 4 * (2 * (1 + len(self._moments)) + 1) + beside
        self._folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_blocks * 512 for path in self._folder.rglob("*.safetensors"))
        free = shutil.disk_usage(self._folder).free + there
        if needed > free:
            raise UserError(
                "the disk cannot hold the state of this training",
                where=self._folder,
                found=f"{free / 1e9:,.1f} GB free",
                expected=f"{needed / 1e9:,.1f} GB: weights and moments twice, gradients, hidden "
                "states, and the model that is made",
                todo="free space, or use a method that trains less, such as masklora",
            )

    def __contains__(self, part: int) -> bool:
        return part in self._shapes or super().__contains__(part)

    def parameters(self, part: int) -> list[Tensor]:
        """Return the trained parameters of a part, for its modules to use; read from disk."""
        if part == self._outer:
            return super().parameters(part)
        file = TensorFile(self._file(part, self._from))
        return [
            nn.Parameter(read_tensor(file, f"{at}.{PARAMETER}", self._device))
            for at in range(len(self._shapes[part]))
        ]

    def add(self, part: int, parameters: Sequence[Tensor]) -> None:
        """Add a part with its initial parameters; their place on disk is reserved."""
        if part == self._outer:
            super().add(part, parameters)
            return
        self._shapes[part] = [tuple(parameter.shape) for parameter in parameters]
        for path, entries in self._files_of(part).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # The space of a new file reads as zeros, from which moments start.
            path.unlink(missing_ok=True)
            with no_half_file(path):
                create_tensor_file(path, entries).close()
        file = TensorFile(self._file(part, self._from), "r+b")
        for at, parameter in enumerate(parameters):
            file.write(f"{at}.{PARAMETER}", parameter)

    def gathered(self, part: int, parameters: Sequence[Tensor]) -> None:
        """Write the gradients of a part, which are complete."""
        if part == self._outer:
            return
        file = TensorFile(self._gradients(part), "r+b")
        norms = self._of_gradients[part] = []
        for at, parameter in enumerate(parameters):
            assert parameter.grad is not None
            norms.append(torch.linalg.vector_norm(parameter.grad))
            file.write(str(at), parameter.grad)
            parameter.grad = None

    def save(self, facts: Mapping[str, object]) -> None:
        """Save the state: keep the slot that holds it, and write the rest as in memory."""
        names = [self._file(part, self._from).name for part in sorted(self._shapes)]
        folder = self._slot(self._from)
        for name in names:
            TensorFile(folder / name).sync()
        files = {name: file_digest(folder / name) for name in names}
        super().save({**facts, SLOT: self._from, FILES: files, STEPS: self._steps})
        self._to = 1 - self._from

    def _take(self, part: int, values: Sequence[dict[str, Tensor]]) -> None:
        if part == self._outer:
            super()._take(part, values)
            return
        # A training in memory left it.
        self.add(part, [each[PARAMETER] for each in values])
        file = TensorFile(self._file(part, self._from), "r+b")
        for at, each in enumerate(values):
            for name in self._moments:
                file.write(f"{at}.{name}", each[name])
            if "step" in each:
                self._steps = int(each["step"])

    def _take_slot(self, slot: int, files: Sequence[Path], steps: int) -> None:
        for path in files:
            part = int(path.stem)
            self._shapes[part] = shapes_of(TensorFile(path))
            for other, entries in self._files_of(part).items():
                # What the next step writes may be gone or broken.
                if other != path:
                    other.parent.mkdir(parents=True, exist_ok=True)
                    with no_half_file(other):
                        create_tensor_file(other, entries).close()
        self._steps, self._from, self._to = steps, slot, 1 - slot

    def _norms(self) -> list[Tensor]:
        blocks = [norm for _, norms in sorted(self._of_gradients.items()) for norm in norms]
        return [*blocks, *super()._norms()]

    def _move_(self, rate: float, scale: Tensor | None) -> None:
        names = self._moments
        for part, shapes in sorted(self._shapes.items()):
            source = TensorFile(self._file(part, self._from))
            target = TensorFile(self._file(part, self._to), "r+b")
            gradients = TensorFile(self._gradients(part))
            for at in range(len(shapes)):
                parameter = nn.Parameter(source.read(f"{at}.{PARAMETER}").to(self._device))
                parameter.grad = gradients.read(str(at)).to(self._device)
                optimiser = make_optimiser(self._optimiser, [parameter])
                state = {name: source.read(f"{at}.{name}").to(self._device) for name in names}
                if self._optimiser == "adamw":
                    state["step"] = torch.tensor(float(self._steps), device=self._device)
                optimiser.state[parameter] = state
                move_(optimiser, [parameter], rate, scale)
                target.write(f"{at}.{PARAMETER}", parameter)
                for name in names:
                    target.write(f"{at}.{name}", optimiser.state[parameter][name])
        super()._move_(rate, scale)
        self._steps += 1
        self._from = self._to

    def _files_of(self, part: int) -> dict[Path, dict[str, Entry]]:
        """Return the tensors of each file of a part."""
        shapes, names = self._shapes[part], (PARAMETER, *self._moments)
        values = {f"{at}.{name}": shape for at, shape in enumerate(shapes) for name in names}
        gradients = {str(at): shape for at, shape in enumerate(shapes)}
        files = {
            self._file(part, 0): values,
            self._file(part, 1): values,
            self._gradients(part): gradients,
        }
        return {
            path: {name: (shape, torch.float32) for name, shape in of.items()}
            for path, of in files.items()
        }

    def _file(self, part: int, slot: int) -> Path:
        return self._slot(slot) / f"{part:03d}.safetensors"

    def _gradients(self, part: int) -> Path:
        return self._folder / "gradients" / f"{part:03d}.safetensors"
