"""Settings of what follows pruning: reconstruction, least squares and every retraining method."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from freelunch.study.methods import (
    ALPHA,
    BIASES,
    BIASES_NORMS,
    DISTILLATION,
    FULL,
    LOW_RANK,
    NORMS,
    RANK,
    SCALED,
    Trained,
)
from freelunch.study.settings import (
    Absent,
    Distinct,
    Searched,
    Settings,
    absent,
    chosen_by,
    reader,
)
from freelunch.study.steps import RECONSTRUCT_WINDOW, RETRAIN_MODEL
from freelunch.study.windows import AUTO, LEAST_SQUARES, MATRIX, MODEL, Window

RECONSTRUCTION = "reconstruction"
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Method = Literal[
    "full",
    "biases",
    "norms",
    "biases_norms",
    "lora",
    "lora_prune",
    "masklora",
    "scalelora",
    "spp",
]
WindowSetting = Annotated[
    Annotated[int, Field(ge=1), Tag("(blocks)")]
    | Annotated[Literal["matrix", "attention_mlp", "all", "auto"], Tag("(name)")],
    Discriminator(lambda value: "(name)" if isinstance(value, str) else "(blocks)"),
]
_METHOD = "How the model is adapted; freelunch.study.methods has the formulas of retraining."
_BIASES = "Also adapt the biases of linear layers."
_NORMS = "Also train the norms, including the final one."


class Budget(Settings):
    """Training tokens, summed over all epochs: a number, or a multiple of another adaptation's. The
    budget sets `samples`.
    """

    tokens: Absent[int] = absent(
        "Number of tokens, rounded down to whole sequences in whole epochs.", ge=1, le=10**12
    )
    times: Absent[float] = absent("Multiple of the tokens that `of` sees.", gt=0, le=10**6)
    of: Absent[str] = absent(
        "An adaptation that lists no alternatives and whose own budget is not a multiple."
    )


def _either(budget: Budget) -> Budget:
    given = {name for name in ("tokens", "times", "of") if getattr(budget, name) is not None}
    if given not in ({"tokens"}, {"times", "of"}):
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
    def label(self) -> str:
        """Name of the series of adaptations of this kind."""
        return self.method

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield a key and a message for each setting that contradicts another."""
        yield from ()


class Local(Adaptation):
    """Settings of the adaptations that work on one window at a time."""

    rule: ClassVar[str] = RECONSTRUCT_WINDOW

    inputs: Literal["dense", "sparse"] = Field(
        default="dense",
        description="Inputs of a window. dense: the dense model's activations, so that windows are "
        "independent of each other. sparse: the outputs of the adapted windows before it; one job "
        "then adapts all windows in turn.",
    )
    targets: Literal["dense", "local"] = Field(
        default="dense",
        description="Targets of a window. dense: the dense model's activations. local: the outputs "
        "of the window's own dense weights on its (sparse) inputs.",
    )
    train_biases: bool = Field(default=True, description=_BIASES)

    @property
    def is_sequential(self) -> bool:
        return self.inputs == "sparse"

    @property
    def local_targets(self) -> bool:
        """Whether a window's targets are the outputs of its own dense weights on its inputs."""
        return self.targets == "local"

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.inputs, self.targets) == ("dense", "local"):
            yield (
                "targets",
                "with dense inputs, local targets equal the dense model's activations; expected "
                "dense, or inputs: sparse",
            )


class LeastSquares(Local):
    """Masked least squares, row by row: the exact optimum of window `matrix` for its masks."""

    window: ClassVar[Window] = MATRIX

    method: Literal["least_squares"] = Field(description=_METHOD)
    damping: float = Field(
        default=1e-8,
        ge=0,
        description="Damping that holds each weight near its pruned value, as a share of the Gram "
        "matrix's mean diagonal. The default only settles directions that no token excites; larger "
        "values regularise.",
    )


class Training(Adaptation):
    """Settings of the adaptations that train by gradient descent."""

    samples: Absent[int] = absent(
        "Number of training sequences: the first ones of the calibration sample, or all of it and "
        "further draws of its kind. Default: the calibration sample.",
        ge=1,
    )
    budget: Absent[Annotated[Budget, AfterValidator(_either)]] = absent(
        "Training tokens, summed over all epochs. The budget sets `samples`."
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        default="adamw", description="adamw: PyTorch's betas, no weight decay. sgd: momentum 0.9."
    )
    learning_rate: Searched[Positive] = Field(
        default=0.001,
        description="Peak learning rate; the schedule restarts in each window. If a list is given, "
        "its best entry is chosen (`select_on`). The paper's grid is 1e-7 ... 5e-4.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear",
        description="Decay to 0 after the warm-up; constant: no decay. The paper uses linear.",
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the steps over which the learning rate rises linearly.",
    )
    epochs: Searched[Count] = Field(
        default=1,
        description="Passes over the sample in each window. If a list is given, its best entry is "
        "chosen. The paper uses 1, 5 and 10.",
    )
    batch: int = Field(default=2, ge=1, description="Sequences in an optimiser step.")
    shuffle: bool = Field(
        default=True,
        description="Draw a new order in each epoch. The paper's own code keeps a fixed order.",
    )
    precision: Literal["model", "float32", "bfloat16"] = Field(
        default="model",
        description="Dtype of the training passes; model: the model's own. Trained weights and "
        "their optimiser moments are always float32.",
    )
    select_on: Literal["calibration", "evaluation"] = Field(
        default="calibration",
        description="Text on which the perplexities of candidates are compared. calibration: "
        "documents of the calibration text that the sample does not touch. evaluation: the very "
        "text that the study is judged by, as in the paper; tables mark this.",
    )

    @property
    def rates(self) -> list[float]:
        """The learning rates to choose from."""
        return self.learning_rate if isinstance(self.learning_rate, list) else [self.learning_rate]

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
        """The learning rate of a run; raises ValueError if several are listed."""
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
    window: WindowSetting = Field(
        default=1,
        description="Part of the model that is trained together. A number: that many consecutive "
        "decoder blocks; the last window may have fewer. all: every block. attention_mlp: the "
        "attention and the MLP of each block separately. matrix: each linear layer separately, to "
        "match its own output. auto: the largest of these that fits into memory_gb.",
    )
    memory_gb: Absent[float] = absent(
        "For `window: auto`: memory that a job may use, in GB (1e9 bytes), as `make plan` predicts "
        "it.",
        gt=0,
    )
    trains: Absent[Method] = absent(
        "Retraining method that decides which parameters of a window are trained. Default: full."
    )
    rank: Absent[int] = absent(f"Rank of a low-rank `trains`. Default: {RANK}.", ge=1)
    alpha: Absent[float] = absent(f"Alpha of a low-rank `trains`. Default: {ALPHA}.", gt=0)
    loss: Literal["mean_squared_error", "negative_cosine", "relative_squared_error"] = Field(
        default="mean_squared_error",
        description="Loss on the residual stream after the window, or on a matrix's own output. "
        "negative_cosine: 1 - cosine, mean over tokens. relative_squared_error: the squared error "
        "of each token divided by the squared norm of its target.",
    )
    train_norms: bool = Field(
        default=True,
        description="Train the window's norms as well as the weights that its masks keep. A window "
        "of one matrix has no norms, so use the same value in all windows that are compared.",
    )

    @property
    def trained(self) -> Trained:
        return Trained.by(
            self.trains or FULL,
            biases=self.train_biases,
            norms=self.train_norms,
            rank=self.rank or RANK,
            alpha=self.alpha or ALPHA,
        )

    @property
    def label(self) -> str:
        name = f"{self.method}, window {self.window}"
        dense = ", dense" if self.becomes_dense else ""
        return name if self.trains in (None, FULL) else f"{name}, {self.trains}{dense}"

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        trained = self.trained
        if self.window == MATRIX and trained.norms:
            key, wanted = (
                ("trains", "another method")
                if trained.weights is None
                else ("train_norms", "false")
            )
            yield (
                key,
                f"a window of one matrix holds no norm; expected {wanted}, and the same in the "
                "windows it is compared with",
            )
        if self.window == AUTO and self.memory_gb is None:
            yield "memory_gb", "`window: auto` needs a memory budget; expected one, in GB"
        if self.window != AUTO and self.memory_gb is not None:
            yield "memory_gb", "only `window: auto` has a memory budget; expected no such key"
        trains = self.trains or FULL
        for key, having in (("rank", LOW_RANK), ("alpha", SCALED)):
            if getattr(self, key) is not None and trains not in having:
                yield key, f"`trains: {trains}` has no {key}; expected no such key"
        if trained.weights is None and self.window != MATRIX:
            for key, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
                if needed and not getattr(self, key):
                    yield key, f"`trains: {trains}` trains these parameters; expected true"


Windowed = Reconstruction | LeastSquares


def with_window(settings: Windowed, window: Window) -> Windowed:
    """Return settings with this window; least squares always works on single matrices."""
    if isinstance(settings, LeastSquares):
        return settings
    return settings.model_copy(update={"window": window})


class Retraining(Training):
    """Train the whole pruned model at once, on text."""

    is_retraining: ClassVar[bool] = True
    rule: ClassVar[str] = RETRAIN_MODEL
    window: ClassVar[Window] = MODEL

    loss: Literal["next_token", "distillation"] = Field(
        default="next_token",
        description="next_token: the next-token loss on the text, as in pre-training. "
        "distillation: KL(dense || this), with the dense model's predictions as targets.",
    )
    micro_batch: Absent[int] = absent(
        "Sequences that pass through the model together; the gradients of a batch add up. Fewer "
        "take less memory and leave the steps the same. Default: the batch.",
        ge=1,
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute each block in the backward pass instead of keeping its activations: "
        "less memory, a third more operations.",
    )
    residency: Literal["auto", "model", "streamed"] = Field(
        default="auto",
        description="What is in memory. model: the whole model. streamed: one block, while the "
        "next is being read; each block runs once more, and the results are the same. auto: the "
        "model if it fits into memory_gb.",
    )
    memory_gb: Absent[float] = absent(
        "For `residency: auto`: memory that a job may use, in GB (1e9 bytes), as `make plan` "
        "predicts it. Default: that of the GPU (`make study DEVICE_MEMORY=80`), or else of this "
        "machine.",
        gt=0,
    )
    clip: float | None = Field(
        default=1.0, gt=0, description="Largest norm of all gradients together; null: no clipping."
    )

    @property
    def distils(self) -> bool:
        return self.loss == DISTILLATION

    @property
    def trained(self) -> Trained:
        return Trained.by(self.method)

    @property
    def label(self) -> str:
        dense = ", dense" if self.becomes_dense else ""
        return self.method + dense + (", distilled" if self.distils else "")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.micro_batch is not None and self.micro_batch > self.batch:
            yield (
                "micro_batch",
                f"found {self.micro_batch}; expected at most the batch, {self.batch}",
            )
        if self.residency != "auto" and self.memory_gb is not None:
            yield "memory_gb", "only `residency: auto` has a memory budget; expected no such key"


class OfMatrices(Retraining):
    """Settings of the methods that train matrices."""

    train_norms: bool = Field(default=True, description=_NORMS)
    train_biases: bool = Field(default=True, description=_BIASES)
    train_head: bool = Field(
        default=False,
        description="Also train the language-model head, by the same method. If the head shares "
        "the embedding's weights, this trains the embedding, too.",
    )
    linears: Absent[Distinct[str]] = absent(
        "Linear layers whose matrices are trained, by the ends of their names, such as q_proj. "
        "Default: all linear layers of the blocks."
    )

    @property
    def trained(self) -> Trained:
        return Trained.by(
            self.method,
            biases=self.train_biases,
            norms=self.train_norms,
            head=self.train_head,
            linears=None if self.linears is None else tuple(self.linears),
            **self._low_rank(),
        )

    def _low_rank(self) -> dict[str, Any]:
        """Return the settings of the low-rank factors through which a matrix is trained."""
        return {}


class LowRank(OfMatrices):
    """Settings of the methods that train a matrix through two low-rank factors."""

    rank: int = Field(
        default=RANK,
        ge=1,
        description="Rank of the two factors through which a matrix is trained; at most the "
        "matrix's smaller dimension.",
    )

    def _low_rank(self) -> dict[str, Any]:
        return {"rank": self.rank}


class Scaled(LowRank):
    """Settings of the low-rank methods that scale a matrix's change."""

    alpha: float = Field(
        default=ALPHA, gt=0, description="The change of a matrix is scaled by alpha / rank."
    )

    def _low_rank(self) -> dict[str, Any]:
        return {**super()._low_rank(), "alpha": self.alpha}


class Branching(Scaled):
    """Settings of the methods that train a branch beside a matrix."""

    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a branch's inputs that is dropped in training.",
    )

    def _low_rank(self) -> dict[str, Any]:
        return {**super()._low_rank(), "dropout": self.dropout}


class Full(OfMatrices):
    """Train all weights that the masks keep."""

    method: Literal["full"] = Field(description=_METHOD)


class Biases(Retraining):
    """Train only the biases of linear layers (PERP)."""

    method: Literal["biases"] = Field(description=_METHOD)


class Norms(Retraining):
    """Train only the norms (PERP)."""

    method: Literal["norms"] = Field(description=_METHOD)


class BiasesNorms(Retraining):
    """Train only the biases and the norms (PERP)."""

    method: Literal["biases_norms"] = Field(description=_METHOD)


class Lora(Branching):
    """LoRA; the merged model is dense."""

    method: Literal["lora"] = Field(description=_METHOD)


class LoraPrune(Branching):
    """LoRA whose update is pruned when it is merged."""

    method: Literal["lora_prune"] = Field(description=_METHOD)


class MaskLora(Scaled):
    """LoRA whose update is masked during training (PERP)."""

    method: Literal["masklora"] = Field(description=_METHOD)


class ScaleLora(LowRank):
    """Multiply the weights by a trained low-rank matrix (PERP)."""

    method: Literal["scalelora"] = Field(description=_METHOD)


class Spp(Scaled):
    """Multiply the weights by a trained structured low-rank matrix (arXiv 2405.16057)."""

    method: Literal["spp"] = Field(description=_METHOD)


RETRAINING: dict[str, type[Settings]] = {
    FULL: Full,
    BIASES: Biases,
    NORMS: Norms,
    BIASES_NORMS: BiasesNorms,
    "lora": Lora,
    "lora_prune": LoraPrune,
    "masklora": MaskLora,
    "scalelora": ScaleLora,
    "spp": Spp,
}
AdaptationEntry = chosen_by(
    "method",
    "adaptations",
    {RECONSTRUCTION: Reconstruction, LEAST_SQUARES: LeastSquares, **RETRAINING},
)


def read_adaptation(settings: Mapping[str, Any]) -> Any:
    """Return an adaptation's settings from JSON, with defaults, as one of the classes above."""
    return reader(AdaptationEntry)(settings)
