"""Settings of what follows pruning: what all adaptations share, and those that work on windows."""

from operator import not_
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from freelunch.study.methods import ALPHA, FULL, RANK, Method, Trained
from freelunch.study.settings import Absent, Found, Searched, Settings, absent
from freelunch.study.steps import RECONSTRUCT_WINDOW
from freelunch.study.windows import AUTO, MATRIX, Window, WindowName

# Beyond the largest rate, training diverges at once; below the least, no weight changes.
Rate = Annotated[float, Field(ge=1e-12, le=10)]
Count = Annotated[int, Field(ge=1, le=10_000)]
Precision = Literal["auto", "model", "float32", "bfloat16"]
WindowSetting = Annotated[
    Annotated[int, Field(ge=1), Tag("(blocks)")] | Annotated[WindowName, Tag("(name)")],
    Discriminator(lambda value: "(name)" if isinstance(value, str) else "(blocks)"),
]
_METHOD = "How the model is adapted."


class Budget(Settings):
    """Training tokens, summed over all epochs: a number, or a multiple of another adaptation's. The
    budget sets `samples`.
    """

    tokens: Absent[int] = absent(ge=1, le=10**12)
    """Number of tokens, rounded down to whole sequences in whole epochs."""
    times: Absent[float] = absent(gt=0, le=10**6)
    """Multiple of the tokens that `of` sees."""
    of: Absent[str] = absent()
    """An adaptation that lists no alternatives and whose own budget is not a multiple."""


def _either(budget: Budget) -> Budget:
    named = {name for name in ("tokens", "times", "of") if getattr(budget, name) is not None}
    if named not in ({"tokens"}, {"times", "of"}):
        raise PydanticCustomError("budget", "expected `tokens`, or `times` and `of`")
    return budget


class Adaptation(Settings):
    """Settings that all adaptations share.

    Attributes:
        is_retraining: Whether the adaptation trains the whole model on text.
        rule: Name of the Snakemake rule that carries it out.
    """

    is_retraining: ClassVar[bool] = False
    rule: ClassVar[str]

    method: str = Field(description=_METHOD)
    after: Absent[str] = absent()
    """An adaptation of windows from whose result this one starts, for the same pruned model and
    seed. Default: it starts from the pruned weights."""

    @property
    def is_sequential(self) -> bool:
        """Whether a window's inputs depend on the adapted windows before it."""
        return False

    @property
    def becomes_dense(self) -> bool:
        """Whether the merged model is dense rather than pruned."""
        return False

    @property
    def distils(self) -> bool:
        """Whether the dense model's predictions are the training targets."""
        return False

    @property
    def reads_dense_states(self) -> bool:
        """Whether the dense model's hidden states behind a block make inputs or targets."""
        return self.distils

    @property
    def learns_text(self) -> bool:
        """Whether it learns from the text itself, rather than from the dense model alone."""
        return self.is_retraining and not self.distils


class Local(Adaptation):
    """Settings of the adaptations that work on one window at a time."""

    rule: ClassVar[str] = RECONSTRUCT_WINDOW

    inputs: Literal["dense", "sparse"] = "dense"
    """dense: the dense model's activations, so that windows are independent of each other; sparse
    (sequential inputs): the outputs of the adapted windows before it, so that one job adapts all
    windows in turn."""
    targets: Literal["dense", "local", "behind_sparse"] = "dense"
    """dense: the dense model's activations; local: the outputs of the window's own dense weights on
    its inputs. behind_sparse, for single matrices (a code-paper discrepancy): the outputs of the
    matrix's own dense weights on what reaches it if dense hidden states enter its block, whose
    earlier matrices are pruned; with `inputs: dense`, that is also its input."""
    lost_residual: bool = Field(default=False, exclude_if=not_)
    """With `targets: behind_sparse`: the MLP and the next block get the target of the matrix before
    them without the residual stream (a code-paper discrepancy). One job then adapts all windows in
    turn."""
    train_biases: bool = True
    """Also adapt the biases of linear layers."""

    @property
    def is_sequential(self) -> bool:
        return self.sparse_inputs or self.lost_residual

    @property
    def reads_dense_states(self) -> bool:
        return not (self.local_targets or self.lost_residual)

    @property
    def sparse_inputs(self) -> bool:
        """Whether a window's inputs are the outputs of the adapted windows before it."""
        return self.inputs == "sparse"

    @property
    def local_targets(self) -> bool:
        """Whether a window's targets are the outputs of its own dense weights on its inputs."""
        return self.targets == "local"

    @property
    def targets_behind_sparse(self) -> bool:
        """Whether the adapted matrices of a block act on the targets of those behind them."""
        return self.targets == "behind_sparse"

    @property
    def quirks(self) -> tuple[str, ...]:
        """Names of the settings that switch a quirk of the paper's code on, besides `targets`."""
        return ("lost_residual",) if self.lost_residual else ()


class LeastSquares(Local):
    """Masked least squares in closed form, row by row: the optimum of window `matrix`."""

    window: ClassVar[Window] = MATRIX

    method: Literal["least_squares"] = Field(description=_METHOD)
    damping: float = Field(default=1e-8, ge=0)
    """Damping that holds weights near their pruned values, as a share of the Gram matrix's mean
    diagonal. The default only settles directions that no token excites; larger values
    regularise."""


class Training(Adaptation):
    """Settings of the adaptations that train by gradient descent."""

    samples: Absent[int] = absent(ge=1)
    """Number of training sequences: the first of the calibration sample, then further draws of its
    kind. Default: the calibration sample."""
    skip: Absent[int] = absent(ge=1)
    """Number of sequences before these that are left out, such as those that an adaptation before
    this one saw. Default: none."""
    budget: Absent[Annotated[Budget, AfterValidator(_either)]] = absent()
    """Training tokens, which set `samples`."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """adamw: PyTorch's betas, no weight decay. sgd: momentum 0.9."""
    learning_rate: Found[Rate] = 0.001
    """Peak learning rate, in each window anew; of a list, the best is chosen (`select_on`), and
    auto finds one for each cell by short trainings. The paper's grid is 1e-7 ... 5e-4."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay to 0 after the warm-up, or none (constant). The paper uses linear."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises linearly."""
    epochs: Searched[Count] = 1
    """Passes over the sample in each window; of a list, the best is chosen. The paper uses 1, 5 and
    10."""
    batch: int = Field(default=2, ge=1)
    """Sequences in an optimiser step."""
    shuffle: bool = True
    """Draw a new order in each epoch. The paper's own code keeps a fixed order."""
    precision: Absent[Precision] = absent()
    """Dtype of the training passes. Default: `study.precision`. Trained weights and optimiser
    moments are always float32."""
    select_on: Literal["calibration", "evaluation"] = "calibration"
    """Text on which candidates are compared: held-out calibration text (`study.selection`), or the
    very text that the study is judged by, as in the paper. Tables mark the latter."""

    @property
    def finds_rate(self) -> bool:
        """Whether short trainings find the learning rate."""
        return self.learning_rate == AUTO

    @property
    def rates(self) -> list[float]:
        """The learning rates to choose from; none if it is found."""
        rates = self.learning_rate if isinstance(self.learning_rate, list) else [self.learning_rate]
        return [rate for rate in rates if not isinstance(rate, str)]

    @property
    def epoch_counts(self) -> list[int]:
        """The numbers of epochs to choose from."""
        return self.epochs if isinstance(self.epochs, list) else [self.epochs]

    @property
    def is_searched(self) -> bool:
        """Whether learning rates or epochs are listed as alternatives."""
        return isinstance(self.learning_rate, list) or isinstance(self.epochs, list)

    @property
    def rate(self) -> float:
        """The learning rate of a run; raises ValueError if several are listed, or it is found."""
        (rate,) = self.rates
        return rate

    @property
    def passes(self) -> int:
        """Passes of a run over its sample; raises ValueError if several numbers are listed."""
        (passes,) = self.epoch_counts
        return passes

    @property
    def trained(self) -> Trained:
        """The parameters that are trained, and how."""
        raise NotImplementedError

    @property
    def becomes_dense(self) -> bool:
        return self.trained.becomes_dense


class Reconstruction(Training, Local):
    """Train one window of the pruned model at a time, to match the outputs of the dense model."""

    method: Literal["reconstruction"] = Field(description=_METHOD)
    window: WindowSetting = 1
    """Part of the model that is trained together: so many consecutive blocks (the last window may
    have fewer), all of them, the attention and the MLP of each block, or each linear layer
    (matrix). auto: the largest of these that fits into `memory_gb`."""
    memory_gb: Absent[float] = absent(gt=0)
    """For `window: auto`: memory of a job in GB (1e9 bytes), as `make plan` predicts it."""
    trains: Absent[Method] = absent()
    """Retraining method that decides which parameters of a window are trained. Default: full."""
    rank: Absent[int] = absent(f"Rank of a low-rank `trains`. Default: {RANK}.", ge=1)
    alpha: Absent[float] = absent(f"Alpha of a low-rank `trains`. Default: {ALPHA}.", gt=0)
    loss: Literal["mean_squared_error", "negative_cosine", "relative_squared_error"] = Field(
        default="mean_squared_error"
    )
    """Loss on the residual stream after the window, or on a matrix's own output. negative_cosine: 1
    - cosine, mean over tokens; relative_squared_error: each token's squared error divided by the
    squared norm of its target."""
    train_norms: bool = True
    """Train the window's norms as well as its unpruned weights. A window of one matrix has no
    norms, so use the same value in all windows that are compared."""
    model_dropout: bool = Field(default=False, exclude_if=not_)
    """For windows of whole blocks: train with the model's own dropout, at the rate in its config (a
    code-paper discrepancy; 0.1 for OPT). With `inputs: sparse`, adapted blocks also drop out while
    they make the inputs of the next window."""

    @property
    def quirks(self) -> tuple[str, ...]:
        return (*super().quirks, *(("model_dropout",) if self.model_dropout else ()))

    @property
    def trained(self) -> Trained:
        return Trained.by(
            self.trains or FULL,
            biases=self.train_biases,
            norms=self.train_norms,
            rank=self.rank or RANK,
            alpha=self.alpha or ALPHA,
        )


Windowed = Reconstruction | LeastSquares


def with_window(settings: Windowed, window: Window) -> Windowed:
    """Return settings with this window; least squares always works on single matrices."""
    of_matrix = isinstance(settings, LeastSquares)
    return settings if of_matrix else settings.model_copy(update={"window": window})
