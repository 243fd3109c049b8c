"""Cost of retraining a whole model, from shapes alone.

With T tokens, P weights in the linear layers of all blocks, V weights in the head, heads of width d
together, sequence length S and L blocks, the forward pass of an epoch takes 2 T (P + V) + 2 T S d
L. In the backward pass, the gradients of activations take 2 T (P + V) + 4 T S d L. The gradients of
matrices take another 2 T per weight if a matrix is trained itself or through factors that multiply
it. Branches beside frozen matrices (rank r, R outputs, C inputs) take 6 T r (R + C) instead.

Element-wise work is left out: norms, activations, softmax, masks, the optimiser. Attention is
causal. Its backward pass counts as two forward passes, although kernels recompute some of it.
"""

from freelunch.costs.cost import ATTENTION, HEAD, PASSES, PROCESS_BYTES, Cost, Work
from freelunch.costs.pass_costs import passing
from freelunch.costs.shapes import Shapes
from freelunch.costs.window_costs import BESIDE_BYTES, MOMENT_BYTES, TrainedBlock
from freelunch.study.methods import FULL, matrix_parameters
from freelunch.study.retraining import Retraining
from freelunch.study.steps import CHECK_SEQUENCES, HEAD_BYTES
from freelunch.study.windows import KEEP_ALL, KEEP_NONE


def retrain(
    shapes: Shapes,
    samples: int,
    length: int,
    settings: Retraining,
    keep: str = KEEP_ALL,
    streamed: bool = False,
    checked: int | None = None,
) -> Cost:
    """Return the cost of retraining a model.

    Args:
        samples: Number of sequences.
        length: Tokens in a sequence.
        keep: Hidden states of the dense model that are on disk; a distillation recomputes those
            that it lacks.
        streamed: Whether one block at a time is in memory, or the whole model.
        checked: Number of sequences on which losses are measured, if not that of any adaptation.
    """
    run = PlannedRetraining(shapes, samples, length, settings, streamed, checked)
    # If any hidden states are kept, those after the last block are.
    remade = shapes.blocks if settings.distils and keep == KEEP_NONE else 0
    hidden = shapes.hidden_bytes(samples * length)
    read, written = run.traffic()
    # The final norm and the head are written with the whole outer part.
    outer = settings.trained.norms or settings.trained.head
    leaves = shapes.blocks_bytes + (shapes.outer_bytes if outer else 0)
    return Cost(
        run.work() + passing(shapes, samples * length, length, remade),
        run.memory_bytes(),
        staged_bytes=max(shapes.staged_bytes, run.staged_bytes),
        read_bytes=read + run.moved_bytes + remade * (shapes.block_bytes + hidden),
        written_bytes=leaves + written + run.moved_bytes + remade * hidden,
        disk_bytes=leaves,
        scratch_bytes=run.scratch_bytes() + (2 * hidden if remade else 0),
        saved_bytes=run.state_bytes,
        # Not after the last step.
        saves=run.steps - 1,
        overlaps=streamed,
        alone_bytes=run.moved_bytes,
    )


class PlannedRetraining:
    """A retraining, with what `retrain` takes.

    Attributes:
        number_bytes: Bytes of a trained number with its moments, in float32.
        between_bytes: Bytes of a token's hidden states between the blocks of a model in training.
        numbers: How many numbers train the matrices of all blocks.
        state_bytes: Bytes of what a retraining moves, with its moments, in float32.
        staged_bytes: What passes through the host's memory besides the dense model: a state that is
            saved, or a block that comes with its weights in training from the disk.
    """

    def __init__(
        self,
        shapes: Shapes,
        samples: int,
        length: int,
        settings: Retraining,
        streamed: bool = False,
        checked: int | None = None,
    ) -> None:
        self.shapes, self.settings, self.streamed = shapes, settings, streamed
        self.samples, self.length = samples, length
        self.block = TrainedBlock(shapes, settings.trained)
        self.is_full = settings.trained.weights == FULL
        self.batch = min(settings.batch, samples)
        self.micro_batch = min(settings.micro_batch or self.batch, self.batch)
        self.checked = min(CHECK_SEQUENCES, samples) if checked is None else checked
        self.recomputes = streamed or settings.gradient_checkpointing
        sizes = {"float32": 4, "bfloat16": 2}
        self.precision_bytes = sizes.get(settings.precision or "", shapes.bytes_each)
        self.between_bytes = max(shapes.bytes_each, self.precision_bytes) * shapes.hidden
        self.number_bytes = 4 + MOMENT_BYTES[settings.optimiser]
        self.numbers = shapes.blocks * self.block.parameters
        head = shapes.head_weights if self.is_full and settings.trained.head else 0
        self.staged_bytes = self.state_bytes = self.number_bytes * (self.numbers + head)
        if streamed and self.is_full:
            self.staged_bytes = shapes.block_bytes + 4 * self.block.parameters

    @property
    def steps(self) -> int:
        """The steps of a run; its memory does not depend on them, nor on a list of epochs."""
        return self.settings.passes * -(-self.samples // self.batch)

    @property
    def moved_bytes(self) -> int:
        """What the steps of a streamed training read between their passes, and as much that they
        write: gradients, weights and moments, one after another.
        """
        # Without a trained head, which stays in memory. A gradient is in float32, too.
        moves = self.streamed and self.is_full
        return self.steps * (self.number_bytes + 4) * self.numbers if moves else 0

    def traffic(self) -> tuple[int, int]:
        """Return the bytes that are read and written, except for the retrained model itself and for
        what a step of a streamed training moves.
        """
        shapes, settings = self.shapes, self.settings
        pruned = shapes.blocks_bytes + shapes.masks_bytes
        seen = settings.passes * self.samples + 2 * self.checked
        read = shapes.outer_bytes + (seen * shapes.hidden_bytes(self.length) * settings.distils)
        if not self.streamed:
            # Masks are read again to merge.
            return read + pruned + shapes.masks_bytes, 0
        # Twice a step; for the losses before and after; and to write the shards. Masks are read
        # again when blocks are merged for the last two.
        visits = 2 * self.steps + 3
        read += visits * pruned + 2 * shapes.masks_bytes
        between = self.between_bytes * settings.passes * self.samples * self.length
        # Hidden states at each boundary, and their gradients, except where the embedding ends.
        written = (2 * shapes.blocks + 1) * between
        read += (3 * shapes.blocks + 1) * between
        if self.is_full:
            read += visits * 4 * self.numbers
            written += 4 * self.numbers
        return read, written

    def scratch_bytes(self) -> int:
        """Return the bytes on disk while it runs: its state twice, since the saved one stays while
        the next is written, and if it is streamed the hidden states of a step between blocks. For
        `full`, a streamed one has gradients there, too.
        """
        state = 2 * self.state_bytes
        if not self.streamed:
            return state
        between = (self.shapes.blocks + 2) * self.batch * self.length * self.between_bytes
        return between + state + (4 * self.numbers if self.is_full else 0)

    def work(self) -> Work:
        """Return the operations, including those of the losses before and after it."""
        shapes, settings, block = self.shapes, self.settings, self.block
        trained = block.trained
        samples, tokens, epochs = self.samples, self.samples * self.length, self.settings.passes
        attention = (4 if self.recomputes else 3) * epochs * samples + 2 * self.checked
        blocks, head = 2 * tokens * shapes.block_weights * shapes.blocks, shapes.head_flops(tokens)
        of_block, of_head = block.branch_flops(tokens), 0
        if block.has_branches and trained.head:
            # A branch beside the frozen head.
            of_head = 2 * tokens * trained.rank * (shapes.vocabulary + shapes.hidden)
        # With the teacher's logits.
        heads = head * (2 if settings.distils else 1)
        # If nothing is trained before the first linear layers, no gradient passes through them.
        begun = 0 if trained.norms and shapes.family.begins_with_norm else 1
        epoch = block.epoch_flops(tokens, shapes.blocks, begun, (0,))
        head_epoch = heads + head + 3 * of_head
        if trained.needs_weight_gradient and trained.head:
            head_epoch += head
        if self.recomputes:
            # Only a streamed block runs to its end again.
            spared = 0 if self.streamed else self._last_flops(tokens)
            epoch += blocks + (of_block - spared) * shapes.blocks
        whole, rest = divmod(samples, settings.batch)
        passes = epochs * (
            whole * -(-settings.batch // self.micro_batch) - (-rest // self.micro_batch)
        )
        # The loss before is measured with adapters, and the loss after without.
        branch = of_block * shapes.blocks
        checks = self.checked * (2 * blocks + branch) // samples
        head_checks = self.checked * (2 * heads + of_head) // samples
        products = block.product_flops(
            shapes.blocks,
            passes=passes,
            again=passes if self.recomputes else 0,
            checks=self.checked,
            # Streamed, blocks are merged to measure the loss after, and again to write them.
            merges=2 if self.streamed else 1,
            begun=begun,
            groups=(0,),
        )
        once = shapes.attention_flops(self.length, self.length)
        return Work(
            {
                PASSES: epochs * epoch + checks + products,
                HEAD: epochs * head_epoch + head_checks,
                ATTENTION: attention * once,
            }
        )

    def _last_flops(self, tokens: int) -> int:
        """Return the operations of the last product in a block's forward pass; no gradient needs
        them again. A matrix that is computed from A and B is the exception: 0.
        """
        block = self.block
        if not block.is_low_rank:
            return 2 * tokens * self.shapes.weights[-1]
        last = self.shapes.matrices[-1].outputs if block.has_branches else 0
        return 2 * tokens * block.trained.rank * last

    def memory_bytes(self) -> int:
        """Return the peak memory, in bytes.

        `freelunch.adaptation.retraining.trainee` holds it: frozen weights as they are stored,
        trained ones in float32 with their moments and gradients, adapters with theirs.
        """
        shapes, trained = self.shapes, self.settings.trained
        # The dense model's outer part, which the one in training shares unless passes in float32
        # widen it or its head is trained.
        outer = shapes.outer_bytes
        if self.precision_bytes > shapes.bytes_each:
            outer += shapes.outer_weights * 4
        elif trained.head:
            outer += shapes.head_weights * shapes.bytes_each
        if trained.head and trained.weights is not None:
            # What trains the head, with gradients and moments; and a mask of one that is trained
            # itself.
            head = shapes.head_weights
            numbers = matrix_parameters(trained, shapes.vocabulary, shapes.hidden, head)
            outer += numbers * (4 + self.number_bytes) + (head if self.is_full else 0)
        adapters = shapes.blocks * self.block.adapter_bytes(self.settings.optimiser)
        return PROCESS_BYTES + BESIDE_BYTES + outer + adapters + self._working_bytes()

    def _working_bytes(self) -> int:
        """Return the most memory, in bytes, that blocks take with what is computed with them and
        with the head, except for adapters.
        """
        shapes, settings, full = self.shapes, self.settings, self.is_full
        stored, largest = shapes.bytes_each, shapes.largest_matrix
        tokens, precision = self.micro_batch * self.length, self.precision_bytes
        passed = 1 if self.recomputes else shapes.blocks
        head = shapes.head_weights if settings.trained.head else 0
        # Logits and what a loss makes of them, with gradients, in float32: four arrays as large as
        # the logits, or seven with a teacher's.
        of_place = 4 * self.micro_batch * shapes.vocabulary
        logits = min(of_place * self.length, max(HEAD_BYTES, of_place))
        loss = (7 if settings.distils else 4) * logits
        # The gradient of the head by one part of the loss, beside the sum of those before.
        loss = max(loss, 4 * head + logits)
        computed = 0
        if self.block.is_low_rank and not self.block.has_branches:
            # A matrix that is computed from frozen weights, and its gradient, while it is used;
            # beside a head, there are logits and their gradients.
            computed = 4 * 3 * largest
            loss = max(loss, 4 * 3 * head + 2 * logits)
        elif full and precision < 4 and self.micro_batch < self.batch:
            # From the second micro-batch on, copies of the weights in the precision of the passes
            # stand beside the gradients. In the first, there are no gradients yet.
            computed = precision * shapes.block_weights * passed
            loss += precision * head
        elif not full and precision != stored:
            # A frozen matrix that is converted while it is used.
            computed = precision * largest
        saved = shapes.saved_bytes(tokens, self.length) * passed
        # Gradients of scores, in the backward pass of a block.
        scores = shapes.scores_bytes(tokens, self.length)
        hidden = 4 * tokens * shapes.hidden
        # While a matrix is merged and rounded, no pass runs.
        merging = 8 * largest
        if not self.streamed:
            # The zeros of a frozen weight are its mask; a trained one has a mask and a gradient.
            each = self.block.weight_bytes(settings.optimiser, stored) + (1 + 4 if full else 0)
            between = hidden * shapes.blocks if settings.gradient_checkpointing else 0
            blocks = shapes.blocks * shapes.block_weights * each
            return blocks + max(computed + saved + max(loss, scores), merging) + between
        # A block in use, and the next, if any, with its masks and its trained weights.
        using = shapes.block_weights * (4 + 1 + 4 if full else stored)
        each = stored + 1 + (4 if full else 0)
        coming = shapes.block_weights * each if shapes.blocks > 1 else 0
        # No block is in memory while the loss is computed, nor while weights in training move, one
        # at a time; but then the next may be coming.
        moving = (4 + self.number_bytes) * largest + coming if full else 0
        most = max(using + coming + max(computed + saved + scores, merging), loss, moving)
        # Hidden states and gradients of a micro-batch, those of the next, and those being written.
        return most + 6 * hidden
