"""Files of tensors against safetensors' own reader and writer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from freelunch.model.checkpoint import StreamedModel
from freelunch.model.tensor_file import TensorFile, create_tensor_file
from freelunch.model.transfer import read_tensor
from tiny_models import tiny_checkpoint

CPU = torch.device("cpu")
DTYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.uint8),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    given = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 2, (3, 5), generator=given)
    found = {str(dtype): drawn.to(dtype) for dtype in DTYPES}
    return {**found, "scalar": torch.tensor(0.5), "empty": torch.zeros(0, 4)}


def test_a_file_of_safetensors_is_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    file = TensorFile(tmp_path / "file")
    assert file.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = read_tensor(file, name, CPU)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor)
        # It is memory of its own: what is done to it leaves the file as it is.
        found.zero_()
    kept = load_file(tmp_path / "file")
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())


def test_safetensors_reads_our_file(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    entries = {name: (tuple(each.shape), each.dtype) for name, each in tensors.items()}
    file = create_tensor_file(tmp_path / "file", entries)
    for name, tensor in tensors.items():
        file.write(name, tensor)
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_file_that_ends_early(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "file"
    save_file({"one": tensors["torch.float32"]}, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(EOFError, match=f"{path} ends early"):
        TensorFile(path).read("one")


def test_a_linear_layer_is_that_of_its_block(tmp_path: Path) -> None:
    model = StreamedModel(tiny_checkpoint(tmp_path).folder)
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        (alone, within) = model.load_linear(1, name), model.load_block(1).get_submodule(name)
        found, expected = alone.state_dict(), within.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
