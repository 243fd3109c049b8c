"""The dense pass against transformers' own forward, and what an interrupt leaves of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.model.blocks import InputsSeen
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.tensor_file import create_hidden, hidden_file, open_hidden
from freelunch.pruning.dense_pass import read_statistics, statistics_file
from freelunch.pruning.statistics import Collector
from interrupts import contents, interrupted, stamps, stop_at
from refusals import refused
from slow_scores import inputs_of_linears
from tiny_models import BLOCKS, FAMILIES, LENGTH

SEQUENCES = 5


@pytest.fixture(scope="module", params=FAMILIES)
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Return the dense activations of a family; the model is in `../checkpoint`."""
    base = tmp_path_factory.mktemp(request.param)
    return dense_of(base, request.param)


def dense_of(
    base: Path,
    family: str = "llama",
    folder: str = "dense",
    dtype: str = "float32",
    **settings: Any,
) -> Artifact:
    """Capture a model below `base`, which is made the first time."""
    if not (base / "sample").exists():
        checkpoint = tiny.tiny_checkpoint(base, family, dtype)
        tiny.save_calibration(checkpoint, base / "sample", tiny.random_tokens(SEQUENCES))
    model = StreamedModel(base / "checkpoint")
    sample = Artifact(base / "sample", "calibration")
    return tiny.capture(model, sample, base / folder, **settings)


def hidden_of(dense: Artifact, boundary: int) -> Tensor:
    """Return the hidden states that a pass kept beside its statistics."""
    return open_hidden(tiny.hidden_folder(dense.folder) / hidden_file(boundary))[:]


class Seen:
    """What passes through a whole model of transformers.

    Attributes:
        inputs: For each block, the inputs of each linear layer, (tokens, features).
        outputs: Outputs of each block, (sequences, length, d).
        hidden: transformers' own `hidden_states`, (sequences, length, d) each.
    """

    @torch.no_grad()
    def __init__(self, folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder)
        blocks = model.get_submodule(StreamedModel(folder).sharding.path)
        self.inputs = inputs_of_linears(model, blocks, tiny.random_tokens(SEQUENCES))
        outputs: list[list[Tensor]] = [[] for _ in blocks]

        def note(of_block: list[Tensor]) -> Callable[..., None]:
            return lambda _, args, output: of_block.append(
                (output[0] if isinstance(output, tuple) else output).clone()
            )

        for block, of_block in zip(blocks, outputs, strict=True):
            block.register_forward_hook(note(of_block))
        each = [
            model(input_ids=ids[None], use_cache=False, output_hidden_states=True).hidden_states
            for ids in tiny.random_tokens(SEQUENCES)
        ]
        self.hidden = [torch.cat(states) for states in zip(*each, strict=True)]
        self.outputs = [torch.cat(of_block) for of_block in outputs]


def assert_statistics_are_sums(dense: Artifact, seen: Seen, rtol: float) -> None:
    for index in range(BLOCKS):
        statistics = read_statistics(dense, index)
        assert statistics.keys() == seen.inputs[index].keys()
        for name, found in statistics.items():
            tokens = seen.inputs[index][name].double()
            assert found.tokens == len(tokens) == SEQUENCES * LENGTH
            assert found.mean.dtype == found.squared_norm.dtype == torch.float32
            squares, mean = tokens.square().sum(0), tokens.mean(0)
            scale = float(tokens.square().mean().sqrt())
            torch.testing.assert_close(found.squared_norm.double(), squares, rtol=rtol, atol=0)
            torch.testing.assert_close(found.mean.double(), mean, rtol=0, atol=rtol * scale)


def test_statistics_are_explicit_sums(dense: Artifact) -> None:
    assert_statistics_are_sums(dense, Seen(dense.folder.parent / "checkpoint"), rtol=1e-5)


def test_half_precision_is_summed_in_float32(tmp_path: Path) -> None:
    dense = dense_of(tmp_path, dtype="bfloat16")
    assert hidden_of(dense, 1).dtype == torch.bfloat16
    # A bfloat16 sum would be wrong by 1e-2.
    assert_statistics_are_sums(dense, Seen(tmp_path / "checkpoint"), rtol=1e-5)


def test_hidden_states_are_those_of_transformers(dense: Artifact) -> None:
    seen = Seen(dense.folder.parent / "checkpoint")
    assert len(seen.hidden) == BLOCKS + 1
    found = [hidden_of(dense, boundary) for boundary in range(BLOCKS + 1)]
    for boundary in range(BLOCKS):
        # The last of transformers' is behind the final norm.
        torch.testing.assert_close(found[boundary], seen.hidden[boundary], rtol=0, atol=1e-5)
        after = seen.outputs[boundary]
        torch.testing.assert_close(found[boundary + 1], after, rtol=0, atol=1e-5)


class _Layers(nn.Module):
    """Two layers that are fed the same tensor, or equal tensors, and one that may be left out."""

    def __init__(self, copies: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
        self.copies, self.skip = copies, skip

    def forward(self, hidden: Tensor) -> Tensor:
        self.one(hidden)
        self.two(hidden.clone() if self.copies else hidden)
        return hidden if self.skip else self.three(hidden * 2)


@pytest.mark.parametrize("copies", [False, True])
def test_equal_tensors_are_not_the_same_tensor(copies: bool) -> None:
    layers = _Layers(copies)
    collector = Collector(layers)
    batches = [torch.randn(2, 4, 3), torch.randn(1, 4, 3)]
    with collector.watching():
        for batch in batches:
            layers(batch)
    results = collector.results()
    assert collector.groups == {"one": "one", "two": "two" if copies else "one", "three": "three"}
    rows = torch.cat([batch.reshape(-1, 3) for batch in batches])
    for name, factor in {"one": 1, "three": 2, **({"two": 1} if copies else {})}.items():
        assert results[name].tokens == 12
        torch.testing.assert_close(results[name].mean, factor * rows.mean(0))
        torch.testing.assert_close(results[name].squared_norm, (factor * rows).square().sum(0))


@pytest.mark.parametrize(("sequences", "layer"), [(1, "three"), (0, "one")])
def test_a_layer_that_no_token_reached(sequences: int, layer: str) -> None:
    layers = _Layers(skip=True)
    collector = Collector(layers, "model.layers.7.")
    with collector.watching():
        layers(torch.randn(sequences, 4, 3))
    with refused(where=f"model.layers.7.{layer}", found="0 tokens"):
        collector.results()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite(value: float) -> None:
    layers = _Layers()
    collector = Collector(layers, "model.layers.7.")
    hidden = torch.randn(1, 4, 3)
    hidden[0, 2, 1] = value
    with collector.watching():
        layers(hidden)
    with refused(where="model.layers.7.one", todo="bfloat16"):
        collector.results()


def test_sharing_that_changes_between_batches_is_a_defect() -> None:
    layers = _Layers()
    with Collector(layers).watching():
        layers(torch.randn(1, 4, 3))
        layers.copies = True
        with pytest.raises(RuntimeError, match="two shares its input"):
            layers(torch.randn(1, 4, 3))


def test_a_pass_for_statistics_ends_before_the_last_layer() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    collector, computed = Collector(block, ends_pass=True), []
    collector.see_output = lambda name, outputs: computed.append(name)
    with collector.watching():
        block(torch.ones(1, 2, 4))
        for _ in range(2):
            with pytest.raises(InputsSeen):
                block(torch.ones(1, 2, 4))
    assert computed == ["0", "1", "0", "0"]
    assert [seen.tokens for seen in collector.by_layer().values()] == [6, 6]


def test_the_perplexity_on_the_first_sequences(dense: Artifact) -> None:
    input_ids = tiny.random_tokens(SEQUENCES)
    model = AutoModelForCausalLM.from_pretrained(dense.folder.parent / "checkpoint")
    with torch.no_grad():
        losses = [float(model(input_ids=ids[None], labels=ids[None]).loss) for ids in input_ids]
    assert dense.facts["perplexity"] == pytest.approx(math.exp(sum(losses) / SEQUENCES), rel=1e-5)


def test_an_implausible_perplexity_stops_before_anything_is_pruned(tmp_path: Path) -> None:
    with refused(expected="dense_limit = 2"):
        dense_of(tmp_path, dense_limit=2)
    assert not (tmp_path / "dense" / MANIFEST).exists()


@pytest.mark.parametrize(("blocks", "keep"), [(1, "all"), (2, "all"), (3, "all"), (2, "none")])
def test_an_interrupted_pass_goes_on(tmp_path: Path, blocks: int, keep: str) -> None:
    whole = dense_of(tmp_path, folder="whole", keep=keep)
    interrupted(lambda: dense_of(tmp_path, keep=keep, report=stop_at(blocks)))
    folder = tmp_path / "dense"
    done, hidden = stamps(folder), stamps(tiny.hidden_folder(folder))
    assert not (folder / MANIFEST).exists()
    assert done.keys() == set(map(statistics_file, range(blocks)))
    assert hidden.keys() == set(map(hidden_file, range(blocks + 1 if keep == "all" else 0)))
    resumed = dense_of(tmp_path, keep=keep)
    assert contents(folder) == contents(whole.folder)
    assert contents(tiny.hidden_folder(folder)) == contents(tiny.hidden_folder(whole.folder))
    assert resumed.digest == whole.digest
    again = stamps(folder) | stamps(tiny.hidden_folder(folder))
    before = done | hidden
    assert {name: again[name] for name in before} == before, "a finished block was computed again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hidden_files_are_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(2, 3, 5).to(dtype)
    path = tmp_path / "hidden"
    created = create_hidden(path, (2, 3, 5), dtype)
    created[:] = values
    del created
    assert torch.equal(load_file(path)["hidden"], values)
    found = open_hidden(path)
    assert (found.shape, found.dtype, len(found)) == ((2, 3, 5), dtype, 2)
    assert torch.equal(found[torch.tensor([1, 0, 1])], values[[1, 0, 1]])
    assert torch.equal(torch.stack(list(found)), values)
    with pytest.raises(ValueError, match="does not fit"):
        create_hidden(path, (2, 3, 5), dtype)[0:2] = values[:1]
