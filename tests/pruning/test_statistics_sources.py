"""What criteria are told of a layer's input: variance, Gram matrix, and whose activations."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.core.artifact import Artifact
from freelunch.core.progress import Report
from freelunch.model import hidden_states
from freelunch.model.blocks import block_linears
from freelunch.model.mask_store import load_pruned_block, masks_file
from freelunch.pruning import statistics
from freelunch.pruning.criteria import sparsegpt
from freelunch.pruning.dense_pass import read_statistics, statistics_file
from freelunch.pruning.statistics import Collector, InputStatistics, add_gram_, need_gram
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from interrupts import contents, interrupted, stamps, stop_at
from refusals import refused
from slow_scores import inputs_of_linears, slow_mask, slow_scores
from tiny_models import BLOCKS, LENGTH, Prepared

SEQUENCES = 6


def collect(batches: list[Tensor], gram: bool = False) -> InputStatistics:
    """Return the statistics of batches (tokens, features) of one layer's input."""
    layers = nn.Sequential(nn.Linear(batches[0].shape[-1], 1))
    collector = Collector(layers, gram=gram)
    with collector.watching():
        for batch in batches:
            layers(batch)
    return collector.results()["0"]


@pytest.mark.parametrize(
    ("mean", "deviation", "drift", "rtol"),
    [
        (0.1, 0.0, 0.0, 0.0),
        (0.0, 1.0, 0.0, 1e-6),
        (3.0, 0.5, 0.2, 1e-6),
        (1000.0, 0.1, 0.0, 1e-6),
        (-1000.0, 0.1, 0.1, 1e-5),
        (1000.0, 0.1, 1.0, 1e-5),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_variance_does_not_cancel(
    mean: float, deviation: float, drift: float, rtol: float, seed: int
) -> None:
    """A feature may be large and hardly vary, and batches may have means of their own."""
    generator = torch.Generator().manual_seed(seed)
    batches = [
        mean
        + deviation * torch.randn(512, 16, generator=generator)
        + drift * torch.randn(16, generator=generator)
        for _ in range(4)
    ]
    found = collect(batches)
    everything = torch.cat(batches).double()
    expected = torch.var(everything, dim=0, correction=0)
    assert found.variance.dtype == torch.float32
    torch.testing.assert_close(found.variance.double(), expected, rtol=rtol, atol=1e-14)
    torch.testing.assert_close(
        found.mean.double(), everything.mean(0), rtol=1e-6, atol=1e-6 * deviation
    )


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 11, 23])
@pytest.mark.parametrize("strip", [1, 4, 256])
def test_the_gram_matrix_is_the_sum_of_outer_products(
    monkeypatch: pytest.MonkeyPatch, width: int, strip: int
) -> None:
    monkeypatch.setattr(statistics, "_STRIP", strip)
    generator = torch.Generator().manual_seed(width)
    batches = [torch.randn(tokens, width, generator=generator) for tokens in (5, 1, 9)]
    expected = torch.zeros(width, width, dtype=torch.float64)
    for token in torch.cat(batches).double():
        expected += torch.outer(token, token)
    found = collect(batches, gram=True)
    assert found.gram is not None
    assert found.gram.dtype == torch.float32
    torch.testing.assert_close(found.gram.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.gram, found.gram.T), "not exactly symmetric"
    torch.testing.assert_close(found.gram.diagonal(), found.squared_norm)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("llama"), sequences=SEQUENCES)


@pytest.fixture(scope="module")
def without_gram(llama: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    base = tmp_path_factory.mktemp("without_gram")
    sample = tiny.save_calibration(
        llama.model.artifact, base / "sample", tiny.random_tokens(SEQUENCES)
    )
    return tiny.capture(llama.model, sample, base / "dense", gram=False)


def slow_wanda_mask(weight: Tensor, inputs: Tensor) -> Tensor:
    settings = read_criterion({"score": "wanda"})
    return slow_mask(slow_scores("wanda", weight, inputs, settings), "u50", "row")


def sparsegpt_mask(weight: Tensor, inputs: Tensor) -> Tensor:
    gram = inputs.double().T @ inputs.double()
    told = InputStatistics(1, gram[0], gram[0], gram[0], gram.float())
    settings = read_criterion({"score": "sparsegpt"})
    return sparsegpt.prune([weight], told, Pattern.parse("u50"), settings)[0][1]


EXPECTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "wanda": slow_wanda_mask,
    "sparsegpt": sparsegpt_mask,
}


@pytest.mark.parametrize("family", ["llama", "opt", "gemma2", "phi3"])
@pytest.mark.parametrize("score", EXPECTED)
def test_masks_from_the_pruned_model_are_those_of_its_own_forward(
    tmp_path: Path, family: str, score: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the first batch, passes for statistics end early.
    monkeypatch.setattr(hidden_states, "BATCH_TOKENS", 2 * LENGTH)
    prepared = tiny.prepare(tmp_path, family, sequences=SEQUENCES)
    model = prepared.model
    sparse = tiny.prune(model, prepared.dense, tmp_path / "sparse", score, statistics="sparse")
    dense = tiny.prune(model, prepared.dense, tmp_path / "dense_masks", score, statistics="dense")
    whole = AutoModelForCausalLM.from_pretrained(model.folder)
    path, differences = model.sharding.path, 0
    for index in range(BLOCKS):
        own = [whole.get_submodule(f"{path}.{index}")]
        (inputs,) = inputs_of_linears(whole, own, tiny.random_tokens(SEQUENCES))
        block, masks = load_pruned_block(model, sparse, index)
        from_dense = load_pruned_block(model, dense, index)[1]
        for name, linear in block_linears(model.load_block(index)).items():
            expected = EXPECTED[score](linear.weight, inputs[name])
            assert torch.equal(masks[name], expected), f"block {index}: {name}"
            if index == 0:
                assert torch.equal(from_dense[name], masks[name]), name
            differences += int((from_dense[name] != masks[name]).sum())
        # From here on transformers' own model is pruned as far as this block.
        own[0].load_state_dict(block.state_dict())
    assert differences > 0, "no mask depends on whose activations were seen"


def test_gram_matrices_that_were_not_collected(
    llama: Prepared, without_gram: Artifact, tmp_path: Path
) -> None:
    names = load_file(without_gram.path(statistics_file(0)))
    assert not any(name.endswith(".gram") for name in names)
    for settings in ({"score": "sparsegpt"}, {"score": "magnitude", "swaps": 3}):
        with refused(found="gram = false", todo="--forcerun capture_dense"):
            tiny.prune(llama.model, without_gram, tmp_path / "refused", **settings)
        assert not (tmp_path / "refused").exists()
    with refused(where="layer.7", todo="--forcerun capture_dense"):
        need_gram(read_statistics(without_gram, 0)["self_attn.q_proj"], "layer.7")
    tiny.prune(llama.model, without_gram, tmp_path / "wanda", "wanda")
    # Statistics of the pruned model have Gram matrices of their own.
    for name, dense in (("one", llama.dense), ("two", without_gram)):
        tiny.prune(llama.model, dense, tmp_path / name, "sparsegpt", statistics="sparse")
    assert contents(tmp_path / "one").keys() == contents(tmp_path / "two").keys()


@pytest.mark.parametrize("score", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("source", ["sparse", "dense"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_interrupted_pruning_goes_on(
    llama: Prepared, tmp_path: Path, score: str, source: str, blocks: int
) -> None:
    def run(name: str, **settings: Report) -> Artifact:
        folder = tmp_path / name
        return tiny.prune(llama.model, llama.dense, folder, score, statistics=source, **settings)

    whole = run("whole")
    interrupted(lambda: run("masks", report=stop_at(blocks)))
    done = stamps(tmp_path / "masks")
    assert {name for name in done if name.startswith("masks")} == set(
        map(masks_file, range(blocks))
    )
    resumed = run("masks")
    assert contents(resumed.folder) == contents(whole.folder)
    kept = stamps(resumed.folder)
    assert {name: kept[name] for name in done} == done, "a finished block was pruned again"


@pytest.fixture
def grams_alive(llama: Prepared, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that notes how many Gram matrices of the down projection there are.

    It is noted whenever a block's matrices were read, or something is added to them. Nothing else
    of the model has their shape.
    """
    width: int = llama.model.config.intermediate_size
    shapes = {parameter.shape for parameter in llama.model.shapes_of_block().parameters()}
    assert (width, width) not in shapes
    found: list[int] = []

    # What earlier tests left does not count.
    gc.collect()

    def note() -> None:
        tensors = (item for item in gc.get_objects() if type(item) is Tensor)
        found.append(sum(tensor.shape == (width, width) for tensor in tensors))

    def adding(gram: Tensor, rows: Tensor) -> None:
        add_gram_(gram, rows)
        note()

    def reading(*args: object) -> dict[str, InputStatistics]:
        told = read_statistics(*args)  # type: ignore[arg-type]
        note()
        return told

    monkeypatch.setattr(statistics, "add_gram_", adding)
    monkeypatch.setattr("freelunch.pruning.prune.read_statistics", reading)
    return found


def test_the_dense_pass_has_gram_matrices_of_one_block_in_memory(
    llama: Prepared, tmp_path: Path, grams_alive: list[int]
) -> None:
    sample = tiny.save_calibration(
        llama.model.artifact, tmp_path / "sample", tiny.random_tokens(SEQUENCES)
    )
    tiny.capture(llama.model, sample, tmp_path / "dense")
    assert len(grams_alive) == 4 * BLOCKS, "four distinct inputs in a block"
    assert max(grams_alive) == 1


@pytest.mark.parametrize("source", ["dense", "sparse"])
def test_pruning_has_gram_matrices_of_one_block_in_memory(
    llama: Prepared, tmp_path: Path, grams_alive: list[int], source: str
) -> None:
    tiny.prune(llama.model, llama.dense, tmp_path / "masks", "sparsegpt", statistics=source)
    assert len(grams_alive) == (1 if source == "dense" else 4) * BLOCKS
    assert max(grams_alive) == 1
