"""Reconstruct windows one after another, from masks and dense hidden states to one shard per block.

With dense inputs and targets, windows are independent: each needs only its own blocks, their masks,
and the dense hidden states at its two ends. With sparse inputs, each window sees the outputs of the
adapted windows before it. Only one window is in memory at a time.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.adaptation.job import AdaptationJob, WindowResult
from freelunch.adaptation.reconstruction.least_squares import solve_window_
from freelunch.adaptation.reconstruction.matrix_inputs import (
    INPUTS,
    OUTPUTS,
    BehindSparse,
    Recorded,
    dense_outputs,
    recorded,
)
from freelunch.adaptation.reconstruction.train_window import WindowModules, train_window_
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.model.blocks import BlockCall, LinearWatcher, block_linears, half
from freelunch.model.checkpoint import block_shard, write_shard
from freelunch.model.hidden_states import SparseStates
from freelunch.model.tensor_file import HiddenStates
from freelunch.study.adaptations import LeastSquares, Local, Reconstruction
from freelunch.study.cell import derive_seed
from freelunch.study.families import Family, check_dropout, dropout_of, halves_of, whole_of
from freelunch.study.windows import HALVES, MATRIX, Window

# A window, its inputs and its targets.
Work = tuple[WindowModules, HiddenStates, HiddenStates]

log = logging.getLogger(__name__)


def reconstruct_windows(
    job: AdaptationJob[Local],
    window: Window,
    windows: Sequence[range],
    others: Iterable[Path] = (),
) -> Artifact:
    """Adapt windows, each some blocks, one after another and write one shard per block; with sparse
    inputs, all windows of the model. The job's settings may have left open the window. Windows
    that are finished in folders of jobs that divided them into other groups (`others`) are taken
    over.

    UserError: the masks belong to another model or calibration sample, the halves of the model's
    family are not known, or a loss is not finite.
    """
    writer = job.writer(others)
    run = _Run(job, window)
    for done, indices in enumerate(windows, 1):
        # A window is done when its last block is written.
        if not all(writer.find(block_shard(index)) for index in indices):
            run.adapt_and_write(indices, writer)
        if job.settings.is_sequential and done < len(windows):
            for index in indices:
                run.pass_on(index, job.model.load_block(index, writer))
        results = writer.entry(block_shard(indices.start))["windows"].values()
        before = sum(each["loss_before"] for each in results)
        after = sum(each["loss_after"] for each in results)
        job.report(done, len(windows), f"windows (loss {before:.3g} to {after:.3g})")
    return job.finish(writer, window)


def probe_windows(
    job: AdaptationJob[Local], window: Window, windows: Sequence[range]
) -> dict[str, WindowResult]:
    """Return what comes of windows, each some blocks, that are adapted as `reconstruct_windows`
    does, by name; nothing is written.
    """
    run = _Run(job, window)
    return {
        name: result
        for indices in windows
        for name, result in run.adapt_(indices, run.load(indices)).items()
    }


class _Run:
    """State that all windows of a reconstruction share: `sparse` and `behind` are hidden states on
    their way through the adapted model, and through dense weights behind sparse matrices, if
    settings ask for them.
    """

    def __init__(self, job: AdaptationJob[Local], window: Window) -> None:
        self.job, self.model, self.states, self.window = job, job.model, job.states, window
        settings = job.settings
        # All windows share one set of files: each window overwrites those of the window before.
        self.scratch = job.states.scratch / "window"
        self.scratch.mkdir(exist_ok=True)
        self.sparse = SparseStates(job.states) if settings.sparse_inputs else None
        self.drops = isinstance(settings, Reconstruction) and settings.model_dropout
        self.behind = BehindSparse(job.states) if settings.targets_behind_sparse else None
        self.family: Family | None = None
        config = job.model.config.to_dict()
        family, whole = config["model_type"], whole_of(config)
        if self.drops:
            check_dropout(dropout_of(config), family)
        if window == HALVES:
            self.family = halves_of(family, whole)
        if settings.lost_residual:
            self.behind = BehindSparse(job.states, halves_of(family, whole))

    def pass_on(self, index: int, block: nn.Module) -> None:
        if self.behind is not None:
            self.behind.on(index, block)
        if self.sparse is not None:
            if self.drops:
                torch.manual_seed(derive_seed(self.job.seed, "dropout", "inputs", index))
            self.sparse.on(index, block.train(self.drops))

    def load(self, indices: range) -> list[tuple[nn.Module, dict[str, Tensor]]]:
        """Return pruned blocks and their masks."""
        return [self.job.load_block(index) for index in indices]

    def adapt_and_write(self, indices: range, writer: ArtifactWriter) -> None:
        loaded = self.load(indices)
        results = self.adapt_(indices, loaded)
        windows = {name: result.as_json() for name, result in results.items()}
        name = self.model.sharding.name
        for index, (block, _) in zip(indices, loaded, strict=True):
            tensors = {name(index, key): value for key, value in block.state_dict().items()}
            write_shard(writer, block_shard(index), tensors, windows=windows)

    def adapt_(
        self, indices: range, loaded: Sequence[tuple[nn.Module, dict[str, Tensor]]]
    ) -> dict[str, WindowResult]:
        """Adapt a window of blocks, or the windows in a block; return what came of each."""
        blocks, keep_masks = [block for block, _ in loaded], [keep for _, keep in loaded]
        if self.window == MATRIX:
            work = self._matrices(indices.start, blocks[0], keep_masks[0])
        elif self.family is not None:
            work = self._halves(indices.start, blocks[0], keep_masks[0], self.family)
        else:
            work = self._blocks(indices, blocks, keep_masks)
        return {
            window.name: self._adapt_window_(window, inputs, targets)
            for window, inputs, targets in work
        }

    def _adapt_window_(
        self, window: WindowModules, inputs: HiddenStates, targets: HiddenStates
    ) -> WindowResult:
        for module in window.modules:
            module.float()
        settings = self.job.settings
        if isinstance(settings, LeastSquares):
            result = solve_window_(window, inputs, targets, settings)
        else:
            assert isinstance(settings, Reconstruction)
            order = derive_seed(self.job.seed, "reconstruction", window.name)
            stop, rows = self.job.stop_at_divergence, self.job.trained
            result = train_window_(window, inputs, targets, settings, order, stop, rows)
        for module in window.modules:
            module.requires_grad_(False).to(window.dtype)
        log.info("window %s: %s", window.name, result)
        return result

    # Each of the following generators yields a window with its inputs and targets, and goes on when
    # the window has been adapted.

    def _blocks(
        self, indices: range, blocks: Sequence[nn.Module], keep_masks: Sequence[dict[str, Tensor]]
    ) -> Iterator[Work]:
        inputs = self._inputs(indices.start)
        if self.job.settings.local_targets:
            targets, entering = self.states.create(self.scratch / "targets"), inputs
            for index in indices:
                # The dense block is in memory for this pass only, not while the window is adapted.
                self.states.blocks.through_(index, self.model.load_block(index), entering, targets)
                entering = targets
        else:
            targets = self.states.at(indices.stop)
        name = f"{indices.start}-{indices.stop - 1}"
        yield self._window(name, indices, blocks, keep_masks), inputs, targets

    def _halves(
        self, index: int, block: nn.Module, keep_masks: dict[str, Tensor], family: Family
    ) -> Iterator[Work]:
        # For each half of a block, the modules of the other half.
        halves = {"attention": family.mlp_half, "mlp": family.attention_half}
        local = self.job.settings.local_targets

        def through(name: str, of: nn.Module, inputs: HiddenStates, file: str) -> HiddenStates:
            outputs = self.states.create(self.scratch / file)
            part = half(of, family, halves[name])
            self.states.blocks.through_(index, part, inputs, outputs)
            return outputs

        def of_dense(name: str, inputs: HiddenStates, file: str) -> HiddenStates:
            # The dense block is in memory for this pass only, not while a window is adapted.
            return through(name, self.model.load_block(index), inputs, file)

        dense_ends = {}
        if not local:
            middle = of_dense("attention", self.states.at(index), "dense")
            dense_ends = {"attention": middle, "mlp": self.states.at(index + 1)}
        inputs = self._inputs(index)
        for name, other in halves.items():
            targets = of_dense(name, inputs, "targets") if local else dense_ends[name]
            part = half(block, family, other)
            masks = {linear: keep_masks[linear] for linear in block_linears(part)}
            yield self._part(index, name, part, masks), inputs, targets
            if self.sparse is None:
                inputs = dense_ends[name]
            elif name == "attention":
                inputs = through(name, block, inputs, "sparse")

    def _matrices(
        self, index: int, block: nn.Module, keep_masks: dict[str, Tensor]
    ) -> Iterator[Work]:
        linears, groups = block_linears(block), self._groups(index, block)
        dense_targets = self.job.settings.targets == "dense"
        ends: Recorded = {}
        if dense_targets:
            seen = groups if self.sparse is None else ()
            dense = self.model.load_block(index)
            hidden = self.states.at(index)
            ends = recorded(self.states, index, dense, hidden, self.scratch, seen, outputs=True)
            # The outputs of the dense block are on disk.
            del dense
        for group, names in groups.items():
            if self.sparse is not None:
                # The inputs of this group, as the matrices before it, adapted by now, produce them.
                hidden = self.sparse.hidden
                ends |= recorded(self.states, index, block, hidden, self.scratch, [group])
            if self.behind is None:
                inputs = arriving = ends[INPUTS, group]
            else:
                arriving = self.behind.inputs(index, block, group)
                inputs = ends.get((INPUTS, group), arriving)
            for name in names:
                if dense_targets:
                    targets = ends[OUTPUTS, name]
                else:
                    path = self.scratch / "targets"
                    targets = dense_outputs(self.states, index, name, arriving, path)
                masks = {"": keep_masks[name]}
                yield self._part(index, name, linears[name], masks, f"{name}."), inputs, targets

    def _part(
        self, index: int, name: str, part: nn.Module, masks: dict[str, Tensor], prefix: str = ""
    ) -> WindowModules:
        """Return a window of a part of a block: a half, or the matrix whose tensors' names have
        this prefix.
        """
        return self._window(f"{index}.{name}", range(index, index + 1), [part], [masks], prefix)

    def _window(
        self,
        name: str,
        indices: range,
        modules: Sequence[nn.Module],
        keep_masks: Sequence[dict[str, Tensor]],
        prefix: str = "",
    ) -> WindowModules:
        def calls(batch: int) -> list[BlockCall]:
            if prefix:
                return [BlockCall((), {})]
            of_model = self.states.blocks.calls(batch)
            return [of_model[index] for index in indices]

        def pruned() -> Iterator[dict[str, Tensor]]:
            for index in indices:
                yield {
                    key.removeprefix(prefix): value
                    for key, value in self.job.load_block(index)[0].state_dict().items()
                    if key.startswith(prefix)
                }

        return WindowModules(
            name, modules, calls, keep_masks, pruned, self.model.dtype, self.model.device
        )

    def _inputs(self, boundary: int) -> HiddenStates:
        return self.states.at(boundary) if self.sparse is None else self.sparse.hidden

    def _groups(self, index: int, block: nn.Module) -> dict[str, list[str]]:
        """Return the matrices of a block, grouped by shared input, in the order of their calls."""
        watcher = LinearWatcher(block)
        entering = self._inputs(index) if self.behind is None else self.behind.hidden(index)
        one = entering[:1].to(self.model.device)
        with torch.no_grad(), watcher.watching():
            self.states.blocks.calls(1)[index](block, one)
        groups: dict[str, list[str]] = {}
        for name, group in watcher.groups.items():
            groups.setdefault(group, []).append(name)
        return groups
