"""Packed checkpoints are the same to the bit, and cut ones compute what their zeros compute."""

import filecmp
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import slow_units as slow
import tiny_models as tiny
from damage import flip_bit, truncate
from freelunch.cli.main import main
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.model.checkpoint import (
    KIND,
    OUTER,
    block_shard,
    finish_checkpoint,
    write_shard,
)
from freelunch.pruning.export import export
from freelunch.pruning.structured import Layout
from refusals import refused
from tiny_models import BLOCKS, FAMILIES

# Their configs fix the width of attention, or of the MLP, by other sizes.
FIXED = ("opt", "gpt_neox", "bloom", "falcon")


def zeroed(folder: Path, family: str = "llama", pattern: str = "s50", **changes: str) -> Artifact:
    """Return a checkpoint whose heads and channels, or single weights, are zero."""
    prepared = tiny.prepare(folder, family, pattern=pattern, sequences=slow.SEQUENCES, **changes)
    return slow.assembled(prepared, prepared.masks, folder / "pruned")


def logits_of(checkpoint: Artifact) -> Tensor:
    return slow.logits_of(slow.transformers_model(checkpoint), tiny.random_tokens(4, seed=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_loads_and_computes_what_the_zeros_compute(family: str, tmp_path: Path) -> None:
    if family == "olmo2":
        # Its norms mix the channels of all heads, so that no head can be pruned at all.
        with refused(where="olmo2"):
            zeroed(tmp_path, family)
        return
    whole = zeroed(tmp_path, family)
    if family in FIXED:
        with refused(where=whole.folder, found="Error: ", todo="pack"):
            export(whole.folder, tmp_path / "cut", "cut")
        assert not list(tmp_path.glob("*cut*"))
        return
    cut = export(whole.folder, tmp_path / "cut", "cut")
    expected = logits_of(whole)
    assert expected.std() > 0.1, "logits without spread would make any comparison pass"
    torch.testing.assert_close(logits_of(cut), expected, atol=1e-4, rtol=1e-3)
    for index in range(BLOCKS):
        before, after = (load_file(each.folder / block_shard(index)) for each in (whole, cut))
        matrices = [name for name in before if before[name].dim() == 2]
        assert all(after[name].numel() == before[name].numel() // 2 for name in matrices)
        assert all(after[name].count_nonzero() == before[name].count_nonzero() for name in matrices)


def test_a_cut_model_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, kept_units = zeroed(tmp_path), Layout.kept_units

    def others(self: Layout, block: nn.Module) -> tuple[Tensor, Tensor]:
        heads, channels = kept_units(self, block)
        return heads, channels.roll(1)

    monkeypatch.setattr(Layout, "kept_units", others)
    with refused(where=whole.folder, found="logits that differ"):
        export(whole.folder, tmp_path / "cut", "cut")
    assert not list(tmp_path.glob("*cut*"))


@pytest.mark.parametrize("pattern", ["u50", "s50"])
def test_blocks_of_different_widths_are_not_cut(tmp_path: Path, pattern: str) -> None:
    """Nor are those in which no whole unit is zero."""
    prepared = tiny.prepare(tmp_path, sequences=slow.SEQUENCES)
    masks = prepared.masks
    if pattern == "s50":
        masks = tiny.prune(
            prepared.model,
            prepared.dense,
            tmp_path / "flap",
            "flap",
            pattern,
            bias_compensation=False,
        )
    whole = slow.assembled(prepared, masks, tmp_path / "pruned")
    with refused(where=whole.folder, expected="as many in every block", todo="scope: block"):
        export(whole.folder, tmp_path / "cut", "cut")
    assert not list(tmp_path.glob("*cut*"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pattern", ["u50", "2of4", "s50"])
def test_what_was_packed_is_the_same_to_the_bit(tmp_path: Path, pattern: str, dtype: str) -> None:
    whole = zeroed(tmp_path, pattern=pattern, dtype=dtype)
    packed = export(whole.folder, tmp_path / "packed", "packed")
    plain = export(packed.folder, tmp_path / "plain", "plain")
    assert plain.files.keys() == whole.files.keys() and plain.facts == whole.facts
    assert all(filecmp.cmp(whole.folder / name, plain.folder / name, False) for name in plain.files)
    for index in range(BLOCKS):
        shard = load_file(whole.folder / block_shard(index))
        kept = sum(int(tensor.count_nonzero()) for tensor in shard.values())
        weights = sum(tensor.numel() for tensor in shard.values())
        size = sum(
            tensor.nbytes
            for tensor in load_file(packed.folder / f"packed-{block_shard(index)}").values()
        )
        each = next(iter(shard.values())).element_size()
        assert size <= kept * each + weights / 8 + len(shard)


def test_a_negative_zero_is_a_value_and_a_full_matrix_is_not_packed(tmp_path: Path) -> None:
    full = torch.ones(8, 16)
    sparse = torch.diag(torch.full((16,), -0.0))
    sparse[3, 4] = 2.0
    writer = ArtifactWriter(tmp_path / "own", KIND, "own")
    others = {"vector": torch.zeros(9), "number": torch.tensor(0.0), "none": torch.zeros(0, 4)}
    write_shard(writer, OUTER, {"full": full, "sparse": sparse, **others})
    packed = export(finish_checkpoint(writer, [OUTER]).folder, tmp_path / "packed", "packed")
    held = load_file(packed.folder / f"packed-{OUTER}")
    assert set(held) == {"full", "sparse.kept", "sparse.values", *others}
    # The signs of the diagonal, and one number.
    assert len(held["sparse.values"]) == 17
    plain = export(packed.folder, tmp_path / "plain", "plain")
    assert torch.equal(load_file(plain.folder / OUTER)["sparse"].signbit(), sparse.signbit())


@pytest.mark.parametrize("damage", [flip_bit, truncate])
def test_a_packed_file_that_was_cut_or_altered_is_refused(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    packed = export(zeroed(tmp_path, pattern="u50").folder, tmp_path / "packed", "packed")
    path = packed.folder / f"packed-{block_shard(1)}"
    damage(path)
    with refused(where=path, todo="export it again"):
        export(packed.folder, tmp_path / "plain", "plain")
    assert not list(tmp_path.glob("*plain*"))


@pytest.mark.parametrize("missing", ["manifest.json", block_shard(1)])
@pytest.mark.parametrize("form", ["packed", "cut"])
def test_a_checkpoint_that_is_not_whole_is_not_exported(
    tmp_path: Path, missing: str, form: str
) -> None:
    whole = zeroed(tmp_path)
    (whole.folder / missing).unlink()
    with refused(where=whole.folder / missing, todo="STUDY=..."):
        export(whole.folder, tmp_path / "below" / "mine", form)
    assert not list(tmp_path.glob("**/mine*"))


def test_the_card_and_its_licence_go_along(tmp_path: Path) -> None:
    whole = zeroed(tmp_path)
    (whole.folder / "README.md").write_text("licence: mine")
    packed = export(whole.folder, tmp_path / "packed", "packed")
    for each in (packed, export(packed.folder, tmp_path / "plain", "plain")):
        assert each.path("README.md").read_text() == "licence: mine"


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    whole = zeroed(tmp_path, pattern="u50")
    (tmp_path / "mine").mkdir()
    with refused(where=tmp_path / "mine"):
        export(whole.folder, tmp_path / "mine", "packed")
    with refused(found="checkpoint", expected="packed checkpoint"):
        export(whole.folder, tmp_path / "plain", "plain")
    assert not list((tmp_path / "mine").iterdir()) and not list(tmp_path.glob("*plain*"))


def test_the_command_says_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, target = zeroed(tmp_path, pattern="u50"), tmp_path / "packed"
    monkeypatch.setattr("sys.argv", ["freelunch", "export", str(whole.folder), str(target)])
    assert main() == 0
    assert f"Written: {target}" in capsys.readouterr().out
    assert main() == 1
    assert "is there already" in capsys.readouterr().err
