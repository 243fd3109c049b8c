"""Speed of the dense pass and of pruning (a part of `make bench`)."""

import statistics
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from freelunch.core.artifact import Artifact
from freelunch.model import token_ids
from freelunch.model.block_pass import BlockPass
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.model.open_dense_pass import DensePass
from freelunch.model.token_ids import read_tokens
from freelunch.pruning import dense_pass
from freelunch.pruning.criteria import sparsegpt
from freelunch.pruning.dense_pass import capture_dense, read_statistics
from freelunch.pruning.masks import keep_mask
from freelunch.pruning.prune import prune_model, prune_together
from freelunch.pruning.sharing import Pruning
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from freelunch.study.study import Study
from timing import alternating, say, seconds

MODEL = "smollm2-135m"


def capture(model: StreamedModel, sample: Artifact, gram: bool, folder: Path) -> None:
    """Run a dense pass that writes all its files below a folder."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    dense, hidden = folder / "dense", folder / "hidden"
    capture_dense(
        DensePass(model, sample, "all", dense, hidden, "bench", scratch), gram, float("inf")
    )


def bench_capture(model: StreamedModel, sample: Artifact, gram: bool) -> None:
    input_ids = read_tokens(sample)
    whole = AutoModelForCausalLM.from_pretrained(model.folder).eval()
    blocks = BlockPass(model, *input_ids.shape)

    @torch.no_grad()
    def plain() -> None:
        for batch in blocks.batches:
            whole.model(input_ids[batch], use_cache=False)

    def captured() -> None:
        with tempfile.TemporaryDirectory(dir="results") as scratch:
            capture(model, sample, gram, Path(scratch) / "pass")

    plain_s, captured_s = alternating(plain, captured)
    say(
        f"capture_dense{' with Gram matrices' if gram else ''} / plain forward of the blocks",
        f"{captured_s / plain_s:.2f} ({captured_s:.1f} s)",
        "none" if gram else "2",
    )


def bench_pruning(model: StreamedModel, sample: Artifact) -> None:
    """Time pruning from one dense pass, I/O included, by all criteria and patterns of the bound."""
    criteria = ("magnitude", "wanda", "ria", "sparsegpt")
    patterns = ("u50", "u60", "2of4", "4of8")
    with tempfile.TemporaryDirectory(dir="results") as folder:
        scratch = Path(folder)
        # Time the dense pass before and after, because the machine's speed changes.
        before = seconds(lambda: capture(model, sample, True, scratch / "before"))
        dense = Artifact(scratch / "before" / "dense", dense_pass.KIND)
        states = open_states(model, sample, scratch / "before" / "hidden", scratch)

        def pruning(score: str, pattern: str, folder: str) -> Pruning:
            target = scratch / folder / f"{score}-{pattern}"
            criterion = read_criterion({"score": score})
            return Pruning(criterion, Pattern.parse(pattern), 0, target, "bench")

        masks = [pruning(score, name, "together") for score in criteria for name in patterns]
        together_s = seconds(lambda: prune_together(model, dense, masks))
        alone_s = statistics.median(
            seconds(
                lambda name=name: prune_model(
                    model, dense, pruning("sparsegpt", name, "alone"), states
                )
            )
            for name in patterns
        )
        captured_s = statistics.median(
            [before, seconds(lambda: capture(model, sample, True, scratch / "after"))]
        )
    say(
        f"{len(masks)} criteria and patterns / the capture_dense they all come from",
        f"{together_s / captured_s:.2f} ({together_s:.0f} s)",
        "2.5",
    )
    say("  SparseGPT, one pattern, seconds", f"{alone_s:.1f}", "none")


def column_loop(weight: Tensor, upper: Tensor, sparsity: float, block: int = 128) -> Tensor:
    """Eliminate as SparseGPT's own code does: after each column, update all later ones of the
    block.
    """
    weight, columns = weight.clone(), weight.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        inner, here = weight[:, start:stop].clone(), upper[start:stop, start:stop]
        errors = torch.zeros_like(inner)
        costs = inner.square() / here.diagonal().square()
        goes = costs <= costs.flatten().sort().values[int(costs.numel() * sparsity) - 1]
        for column in range(stop - start):
            kept = inner[:, column].clone()
            kept[goes[:, column]] = 0.0
            error = (inner[:, column] - kept) / here[column, column]
            inner[:, column:] -= error[:, None] @ here[column, column:][None, :]
            errors[:, column] = error
        weight[:, start:stop] = inner.masked_fill(goes, 0.0)
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def bench_elimination(model: StreamedModel, dense: Artifact) -> None:
    """Time the elimination on one thread, for all matrices of a block, with equal masks."""
    torch.set_num_threads(1)
    u50, criterion = Pattern.parse("u50"), read_criterion({"score": "sparsegpt"})
    block = model.load_block(model.num_blocks // 2)
    inputs = read_statistics(dense, model.num_blocks // 2, gram=True)
    work = [
        (linear.weight, inputs[name], sparsegpt.factorise(inputs[name], criterion.damping))
        for name, linear in block_linears(block).items()
    ]

    def usual() -> list[Tensor]:
        return [column_loop(weight, factor.upper, u50.sparsity) for weight, _, factor in work]

    def ours() -> list[Tensor]:
        return [sparsegpt.prune([weight], x, u50, criterion)[0][0] for weight, x, _ in work]

    different = sum(
        int(((one == 0) != (other == 0)).sum()) for one, other in zip(usual(), ours(), strict=True)
    )
    usual_s, ours_s = alternating(usual, ours)
    say(
        f"usual column loop / SparseGPT's elimination, 1 thread ({different} weights differ)",
        f"{usual_s / ours_s:.2f}",
        "at least 3",
    )
    torch.set_num_threads(2)


def bench_selection() -> None:
    scores = torch.rand(2048, 8192)
    for name in ("u50", "2of4"):
        for scope in ("row", "matrix") if name == "u50" else ("row",):
            groups = scores if scope == "row" else scores.reshape(1, -1)
            sorted_s, selected_s = alternating(
                lambda groups=groups: groups.sort(dim=1),
                lambda name=name, scope=scope: keep_mask(scores, Pattern.parse(name), scope),
            )
            say(
                f"full sort / mask of 2048 x 8192, {name}, scope {scope}",
                f"{sorted_s / selected_s:.1f}",
                "at least 4",
            )


def main() -> None:
    paths = Study.load(Path("config.yaml")).paths
    model = StreamedModel(paths.model(MODEL))
    sample = Artifact(paths.calibration(MODEL, 0), token_ids.KIND)
    dense = Artifact(paths.dense(MODEL, 0), dense_pass.KIND)
    bench_capture(model, sample, gram=False)
    bench_capture(model, sample, gram=True)
    bench_pruning(model, sample)
    bench_elimination(model, dense)
    bench_selection()
