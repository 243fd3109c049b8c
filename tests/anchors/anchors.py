"""Compare masks, perplexities and times with llm-compressor's (`make anchors`).

Both prune the model of `studies/anchors.yaml` with the same calibration tokens. Each cell is made
in turns by both, from the dense checkpoint and the token ids on disk to the pruned model on disk.
Ours is made by Snakemake, as in any run, with a dense pass for that cell alone. The page is written
to docs/results/anchors.md, unless only some cells are asked for.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from anchors_page import SHARED, Compared, Spent, in_sweep, page, row, sweep_text
from freelunch.core.artifact import Artifact
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import assemble_model
from freelunch.model.token_ids import TOKENS, read_tokens
from freelunch.study import paths, steps
from freelunch.study.cell import Cell
from freelunch.study.study import Study

STUDY = Path("studies/anchors.yaml")
# The study of one cell, and after it of the next.
ALONE = Path("results/anchor.yaml")
PAGE = Path("docs/results/anchors.md")
PYTHON = Path(".venv-anchors/bin/python")
SCRIPT = Path(__file__).with_name("llm_compressor.py")
# In this order.
PATTERNS = ("u50", "2of4", "4of8", "u60")
# How often the sweep is timed: before, between and after the cells.
SWEEPS = 3
WINDOWS_AT_ONCE = 8
# In how many other orders the calibration sequences pass where pruned blocks come before a block.
ORDERS = 3


def spent(command: Sequence[str], threads: int | None = None) -> Spent:
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout.decode(errors='replace')}")
    return Spent(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


class Ours:
    """A study that Snakemake prunes by, with so many cores."""

    def __init__(self, file: Path, cores: int) -> None:
        self.file, self.cores, self.study = file, cores, Study.load(file)
        self.paths = self.study.paths
        self.name = self.study.cells[0].model
        self.calibration = self.paths.calibration(self.name, 0)
        self.windows = self.paths.text_windows(self.name)
        self.make(self.paths.model(self.name), self.calibration, self.windows)

    def make(self, *folders: Path) -> Spent:
        return spent(
            [
                *("snakemake", "--cores", str(self.cores), "--config", f"study={self.file}"),
                *("--workflow-profile", "workflow/profiles/local", "--"),
                *map(paths.manifest, folders),
            ]
        )

    def prune(self, cells: Sequence[Cell]) -> Spent:
        for step in ("dense", "hidden", "pruned"):
            shutil.rmtree(self.paths.root / step, ignore_errors=True)
        return self.make(*map(self.masks, cells))

    def pruned(self, cell: Cell, scratch: Path) -> PreTrainedModel:
        model = StreamedModel(self.paths.model(cell.model))
        assemble_model(
            model, Artifact(self.masks(cell), steps.MASKS), [], scratch / "ours", "anchors"
        )
        return loaded(scratch / "ours")

    def masks(self, cell: Cell) -> Path:
        return self.paths.pruned(cell.model, cell.pruning, cell.seed)


def alone(cell: Cell, cores: int, tokens: Path | None = None) -> Ours:
    """Return a study of one cell, on its calibration tokens or those of a file. In the study of all
    cells, the dense pass serves the others, too.
    """
    study = yaml.safe_load(STUDY.read_text())
    study["study"]["name"] = ALONE.stem
    if tokens is not None:
        name, path = tokens.stem, str(tokens.resolve())
        study["study"]["name"] = study["study"]["calibration"]["text"] = name
        study["texts"] = {name: {"source": "tokens", "path": path}}
    study["study"]["grids"] = [
        {
            "models": [cell.model],
            "criteria": [cell.criterion],
            "patterns": [cell.pattern],
            "adaptations": ["none"],
            "seeds": [cell.seed],
        }
    ]
    ALONE.write_text(yaml.safe_dump(study))
    return Ours(ALONE, cores)


def compare(cell: Cell, scratch: Path, cores: int, ours_first: bool) -> Compared:
    ours = alone(cell, cores)
    model = StreamedModel(ours.paths.model(cell.model))
    theirs = scratch / "theirs"
    criterion, _, statistics = cell.criterion.partition("_")
    command = [
        *map(str, (PYTHON, SCRIPT, model.folder, ours.calibration / TOKENS)),
        *(criterion, cell.pattern, statistics or "dense", str(theirs)),
    ]
    if ours_first:
        our_time, their_time = ours.prune([cell]), spent(command, cores)
    else:
        their_time, our_time = spent(command, cores), ours.prune([cell])
    one, other = loaded(theirs), ours.pruned(cell, scratch)
    windows = read_tokens(Artifact(ours.windows, steps.TEXT_WINDOWS))
    again = [
        (differences(model, each, other)[1], perplexity(each, windows))
        for each in (reordered(cell, ours, scratch, cores) if statistics else ())
    ]
    return Compared(
        cell,
        *differences(model, one, other),
        (perplexity(one, windows), perplexity(other, windows)),
        (their_time, our_time),
        again,
    )


def reordered(cell: Cell, ours: Ours, scratch: Path, cores: int) -> Iterator[PreTrainedModel]:
    """Yield our model of a cell with its calibration sequences in other orders: the same sums, but
    for rounding.
    """
    rows = read_tokens(Artifact(ours.calibration, steps.CALIBRATION))
    for order in range(ORDERS):
        generator = torch.Generator().manual_seed(order)
        # Its name is that of the study, too.
        tokens = ALONE.with_name(f"anchor_{order}.safetensors")
        save_file({"input_ids": rows[torch.randperm(len(rows), generator=generator)]}, tokens)
        other = alone(cell, cores, tokens)
        other.prune([cell])
        yield other.pruned(cell, scratch)


def loaded(folder: Path) -> PreTrainedModel:
    """Return the model in a folder, which is deleted."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    shutil.rmtree(folder)
    return model


def differences(
    dense: StreamedModel, one: PreTrainedModel, other: PreTrainedModel
) -> tuple[int, int]:
    """Return how many weights the matrices of all blocks have, and how many only one prunes."""
    first, second = one.state_dict(), other.state_dict()
    weights = differ = 0
    for index in range(dense.num_blocks):
        for layer in block_linears(dense.shapes_of_block()):
            name = f"{dense.sharding.name(index, layer)}.weight"
            weights += first[name].numel()
            differ += int(((first[name] == 0) != (second[name] == 0)).sum())
    return weights, differ


@torch.no_grad()
def perplexity(model: PreTrainedModel, windows: Tensor) -> float:
    """Return exp(mean loss of all predicted tokens), as the evaluation of a study does."""
    losses = [
        torch.nn.functional.cross_entropy(
            model(batch).logits[:, :-1].flatten(0, 1).float(),
            batch[:, 1:].flatten(),
            reduction="none",
        )
        for batch in windows.split(WINDOWS_AT_ONCE)
    ]
    return float(torch.cat(losses).double().mean().exp())


def installed() -> dict[str, str]:
    names = ("llmcompressor", "torch", "transformers")
    code = (
        "import json; from importlib.metadata import version; "
        f"print(json.dumps({{name: version(name) for name in {names}}}))"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cells", nargs="*", help="only these, such as wanda-u50")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="for each of the two")
    given = parser.parse_args()
    chosen, cores = given.cells, given.cores
    logging.disable_progress_bar()
    torch.set_num_threads(cores)
    ours = Ours(STUDY, cores)
    swept = in_sweep(ours.study)
    cells = [cell for cell in ours.study.cells if cell.criterion.startswith(SHARED)]
    cells.sort(key=lambda cell: (cell not in swept, PATTERNS.index(cell.pattern)))
    with tempfile.TemporaryDirectory(prefix="anchors-") as scratch:
        if chosen:
            for cell in cells:
                if cell.pruning in chosen:
                    print(row(compare(cell, Path(scratch), cores, ours_first=False)), flush=True)
        else:
            measure(ours, cells, swept, Path(scratch))


def measure(ours: Ours, cells: Sequence[Cell], swept: Sequence[Cell], scratch: Path) -> None:
    """Compare cells, time the sweep before, between and after those that it has, and write the
    page.
    """
    shared = sum(cell in swept for cell in cells)
    before = {round(shared * part / (SWEEPS - 1)) for part in range(SWEEPS)}
    windows = tuple(read_tokens(Artifact(ours.windows, steps.TEXT_WINDOWS)).shape)
    sweeps: list[Spent] = []
    compared: list[Compared] = []
    for number in range(len(cells) + 1):
        if number in before:
            sweeps.append(ours.prune(swept))
        if number < len(cells):
            # The two take turns in going first.
            first = bool(number // 2 % 2)
            compared.append(compare(cells[number], scratch, ours.cores, ours_first=first))
            print(row(compared[-1]), flush=True)
    PAGE.write_text(page(ours.study, compared, sweeps, windows, ours.cores, installed()))
    print(f"\n{sweep_text(ours.study, compared, sweeps)}\nThe page: {PAGE}")


if __name__ == "__main__":
    main()
