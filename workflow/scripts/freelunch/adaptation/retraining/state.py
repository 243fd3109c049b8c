"""What a retraining moves: trained parameters with their gradients and the optimiser's moments,
grouped in parts: one for each block, and one for what is outside of the blocks.

The state is saved from time to time, so that an interrupt loses little. A training goes on from it
in memory or streamed, whichever way it was saved. A state that belongs to another training, or is
damaged, is an error: it may hold days of work, so that nobody but its owner removes it.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from freelunch.adaptation.training.optimisation import MOMENTS, make_optimiser
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.files import no_half_file
from freelunch.model.tensor_file import Entry, TensorFile, create_tensor_file
from freelunch.model.transfer import read_tensor

# Keys of the notes that a saved state carries.
_FINGERPRINT, _SHA256, _SLOT, _FILES, _STEPS = "fingerprint", "sha256", "slot", "files", "steps"
_PARAMETER = "parameter"


class TrainedState:
    """Trained parameters of all parts in memory, moved by "adamw" or "sgd", and saved in a file
    with the digest of what is trained, on what, and by which code.
    """

    def __init__(self, optimiser: str, saved: Path, fingerprint: str, device: torch.device) -> None:
        self._optimiser, self._device = optimiser, device
        self._saved, self._fingerprint = saved, fingerprint
        # What a streamed training has on disk anyway is beside the state.
        self._folder = saved.with_name(f"{saved.name}.files")
        self._parts: dict[int, list[Tensor]] = {}
        self._optimisers: dict[int, torch.optim.Optimizer] = {}

    def __contains__(self, part: int) -> bool:
        return part in self._parts

    def parameters(self, part: int) -> list[Tensor]:
        """Return the trained parameters of a part, for its modules to use."""
        return self._parts[part]

    def add(self, part: int, parameters: Sequence[Tensor]) -> None:
        """Add a part with its initial parameters."""
        self._parts[part] = list(parameters)
        if parameters:
            self._optimisers[part] = make_optimiser(self._optimiser, parameters)

    def gathered(self, part: int, parameters: Sequence[Tensor]) -> None:
        """Take the gradients of a part, which are complete."""

    def step_(self, rate: float, clip: float | None) -> None:
        """Move all parameters by one step at a learning rate, and free their gradients, whose norm
        is at most `clip`.
        """
        scale = None
        if clip is not None:
            total = torch.linalg.vector_norm(torch.stack(self._norms()))
            scale = torch.clamp(clip / (total + 1e-6), max=1.0)
        self._move_(rate, scale)

    def save(self, facts: Mapping[str, object]) -> None:
        """Save the state under a temporary name first, with facts that JSON can hold."""
        tensors = {
            f"{part}.{at}.{name}": value.detach().cpu().contiguous()
            for part, parameters in self._parts.items()
            for at, parameter in enumerate(parameters)
            for name, value in self._values(part, parameter)
        }
        noted = {_FINGERPRINT: self._fingerprint, _SHA256: _digest(tensors, facts), **facts}
        temporary = self._saved.with_name(f"{self._saved.name}.part")
        with no_half_file(temporary):
            save_file(tensors, temporary, metadata={"state": json.dumps(noted)})
            # After a power cut, an older state would name values that were written over.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self._saved)

    def load(self) -> dict[str, Any] | None:
        """Load the saved state and return its facts; None if there is none. UserError: it belongs
        to another training, or is damaged.
        """
        if not self._saved.is_file():
            return None
        noted, tensors = self._read()
        for part, values in sorted(_by_part(tensors).items()):
            self._take(part, values)
        if _SLOT in noted:
            self._take_slot(noted[_SLOT], self._checked(noted[_SLOT], noted[_FILES]), noted[_STEPS])
        return noted

    def _take(self, part: int, values: Sequence[dict[str, Tensor]]) -> None:
        parameters = [nn.Parameter(each[_PARAMETER].to(self._device)) for each in values]
        self.add(part, parameters)
        for parameter, each in zip(parameters, values, strict=True):
            self._optimisers[part].state[parameter] = {
                name: moment.to(self._device) for name, moment in each.items() if name != _PARAMETER
            }

    def _take_slot(self, slot: int, files: Sequence[Path], steps: int) -> None:
        """Add the parts that a streamed training had on disk after so many steps."""
        for path in files:
            file = TensorFile(path)
            values = [
                {name: file.read(f"{at}.{name}") for name in (_PARAMETER, *self._moments)}
                for at in range(len(shapes_of(file)))
            ]
            if self._optimiser == "adamw":
                for each in values:
                    each["step"] = torch.tensor(float(steps))
            self._take(int(path.stem), values)

    @property
    def _moments(self) -> Sequence[str]:
        return MOMENTS[self._optimiser]

    def remove(self) -> None:
        """Remove what is on disk."""
        self._saved.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _norms(self) -> list[Tensor]:
        return [
            torch.linalg.vector_norm(parameter.grad)
            for _, parameters in sorted(self._parts.items())
            for parameter in parameters
            if parameter.grad is not None
        ]

    def _move_(self, rate: float, scale: Tensor | None) -> None:
        for part, optimiser in sorted(self._optimisers.items()):
            _move_parameters_(optimiser, self._parts[part], rate, scale)

    def _values(self, part: int, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
        yield _PARAMETER, parameter
        yield from self._optimisers[part].state[parameter].items()

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self._saved, framework="pt") as file:
                noted = json.loads((file.metadata() or {}).get("state", "{}"))
                if noted.get(_FINGERPRINT, self._fingerprint) != self._fingerprint:
                    # Before its tensors are read.
                    raise self._refusal(
                        "an interrupted training with other settings, data or code left its state",
                        self._saved,
                        f"a state after {len(noted.get('losses', []))} steps",
                        "no state, or one of this training",
                        "undo what was changed to resume that training, or give it up",
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, OSError) as error:
            raise self._damaged(self._saved, "not a readable safetensors file") from error
        facts = {key: noted[key] for key in noted if key not in (_FINGERPRINT, _SHA256)}
        if noted.get(_SHA256) != _digest(tensors, facts):
            raise self._damaged(self._saved, "content that does not match its digest")
        return noted, tensors

    def _checked(self, slot: int, digests: Mapping[str, str]) -> list[Path]:
        """Return the files on disk that belong to a state, in the order of their parts."""
        paths = []
        for name, digest in sorted(digests.items()):
            path = self._slot(slot) / name
            if not path.is_file():
                raise self._damaged(path, "no file")
            if file_digest(path) != digest:
                raise self._damaged(path, "content that does not match its digest")
            paths.append(path)
        return paths

    def _slot(self, slot: int) -> Path:
        return self._folder / str(slot)

    def _damaged(self, path: Path, found: str) -> UserError:
        problem = "the saved state of an interrupted training is damaged"
        todo = "restore the file, or start the training again"
        return self._refusal(problem, path, found, "what was saved", todo)

    def _refusal(
        self, problem: str, where: Path, found: str, expected: str, todo: str
    ) -> UserError:
        paths = f"{shlex.quote(str(self._saved))} {shlex.quote(str(self._folder))}"
        todo = f"{todo}: `rm -rf {paths}`, and run the same command again"
        return UserError(problem, where=where, found=found, expected=expected, todo=todo)


class TrainedStateOnDisk(TrainedState):
    """Trained parameters of the blocks on disk, and those of the part `outer` in memory.

    One parameter at a time is in memory for its step. A step writes all values anew; there are two
    slots for them, and the one that was saved last is left as it is, so that a training that is
    killed at any moment resumes from it.
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

    def __contains__(self, part: int) -> bool:
        return part in self._shapes or super().__contains__(part)

    def parameters(self, part: int) -> list[Tensor]:
        """Return the trained parameters of a part, for its modules to use; read from disk."""
        if part == self._outer:
            return super().parameters(part)
        file = TensorFile(self._file(part, self._from))
        return [
            nn.Parameter(read_tensor(file, f"{at}.{_PARAMETER}", self._device))
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
            file.write(f"{at}.{_PARAMETER}", parameter)

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
        super().save({**facts, _SLOT: self._from, _FILES: files, _STEPS: self._steps})
        self._to = 1 - self._from

    def _take(self, part: int, values: Sequence[dict[str, Tensor]]) -> None:
        if part == self._outer:
            super()._take(part, values)
            return
        # A training in memory left it.
        self.add(part, [each[_PARAMETER] for each in values])
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
                parameter = nn.Parameter(source.read(f"{at}.{_PARAMETER}").to(self._device))
                parameter.grad = gradients.read(str(at)).to(self._device)
                optimiser = make_optimiser(self._optimiser, [parameter])
                state = {name: source.read(f"{at}.{name}").to(self._device) for name in names}
                if self._optimiser == "adamw":
                    state["step"] = torch.tensor(float(self._steps), device=self._device)
                optimiser.state[parameter] = state
                _move_parameters_(optimiser, [parameter], rate, scale)
                target.write(f"{at}.{_PARAMETER}", parameter)
                for name in names:
                    target.write(f"{at}.{name}", optimiser.state[parameter][name])
        super()._move_(rate, scale)
        self._steps += 1
        self._from = self._to

    def _files_of(self, part: int) -> dict[Path, dict[str, Entry]]:
        shapes, names = self._shapes[part], (_PARAMETER, *self._moments)
        entries = [(shape, torch.float32) for shape in shapes]
        values = {f"{at}.{name}": entry for at, entry in enumerate(entries) for name in names}
        gradients = {str(at): entry for at, entry in enumerate(entries)}
        slots = {self._file(part, slot): values for slot in (0, 1)}
        return slots | {self._gradients(part): gradients}

    def _file(self, part: int, slot: int) -> Path:
        return self._slot(slot) / f"{part:03d}.safetensors"

    def _gradients(self, part: int) -> Path:
        return self._folder / "gradients" / f"{part:03d}.safetensors"


def _move_parameters_(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    rate: float,
    scale: Tensor | None,
) -> None:
    """Scale gradients, move their parameters, and free the gradients."""
    if scale is not None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
    optimiser.param_groups[0]["lr"] = rate
    optimiser.step()
    optimiser.zero_grad()


def _by_part(tensors: Mapping[str, Tensor]) -> dict[int, list[dict[str, Tensor]]]:
    values: dict[int, dict[int, dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        part, at, name = key.split(".")
        values.setdefault(int(part), {}).setdefault(int(at), {})[name] = value
    return {part: [each for _, each in sorted(of.items())] for part, of in values.items()}


def shapes_of(file: TensorFile) -> list[tuple[int, ...]]:
    """Return the shapes of the parameters in a file."""
    count = sum(key.endswith(f".{_PARAMETER}") for key in file.entries)
    return [file.entries[f"{at}.{_PARAMETER}"][0] for at in range(count)]


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> str:
    # As JSON gives them back; a loss may be NaN.
    written = json.dumps(json.loads(json.dumps(facts)), sort_keys=True)
    digest = hashlib.sha256(written.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
