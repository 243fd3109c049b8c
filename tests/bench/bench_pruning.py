"""Speed of the dense pass and of pruning (a part of `make bench`)."""

import math
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from freelunch.core.artifact import Artifact
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import BlockPass, open_states
from freelunch.model.token_ids import read_tokens
from freelunch.pruning import dense_pass
from freelunch.pruning.dense_pass import capture_dense
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
    places = dense, hidden, "bench", scratch
    capture_dense(model, sample, *places, keep="all", gram=gram, dense_limit=math.inf)


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
        captured_s / plain_s,
        most=math.inf if gram else 2,
        note=f"{captured_s:.1f} s",
    )


def bench_pruning(model: StreamedModel, sample: Artifact) -> None:
    """Time pruning from one dense pass, I/O included, by all criteria and patterns of the bound."""
    patterns = ("u50", "u60", "2of4", "4of8")
    with tempfile.TemporaryDirectory(dir="results") as folder:
        scratch = Path(folder)
        # Time the dense pass before and after, because the machine's speed changes.
        before = seconds(lambda: capture(model, sample, True, scratch / "before"))
        dense = Artifact(scratch / "before" / "dense", dense_pass.KIND)
        states = open_states(model, sample, scratch / "before" / "hidden", scratch)

        def masks(where: str, *criteria: str) -> list[Pruning]:
            return [
                Pruning(
                    read_criterion({"score": score}),
                    *(Pattern.parse(name), 0, scratch / where / f"{score}-{name}", "bench"),
                )
                for score in criteria
                for name in patterns
            ]

        together = masks("together", "magnitude", "wanda", "ria", "sparsegpt")
        together_s = seconds(lambda: prune_together(model, dense, together))
        alone_s = statistics.median(
            seconds(partial(prune_model, model, dense, each, states))
            for each in masks("alone", "sparsegpt")
        )
        after = seconds(lambda: capture(model, sample, True, scratch / "after"))
    say(
        f"{len(together)} criteria and patterns / the capture_dense they all come from",
        together_s / statistics.median([before, after]),
        most=2.5,
        note=f"{together_s:.0f} s",
    )
    say("SparseGPT, one pattern / that capture_dense", alone_s / before)


def main() -> None:
    paths = Study.load(Path("config.yaml")).paths
    model = StreamedModel(paths.model(MODEL))
    sample = Artifact(paths.calibration(MODEL, 0), token_ids.KIND)
    bench_capture(model, sample, gram=False)
    bench_capture(model, sample, gram=True)
    bench_pruning(model, sample)
