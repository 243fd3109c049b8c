"""What is done after pruning: the settings of reconstruction and of every way of retraining."""

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
_METHOD = "What is done; freelunch.study.methods has the formulas of retraining."
_BIASES = "Adapt the biases of linear layers too."
_NORMS = "Train the norms too, the final one included."


class Budget(Settings):
    """Tokens to be seen, in all epochs together, which decide `samples`: so many, or a multiple of
    what another adaptation sees.
    """

    tokens: Absent[int] = absent(
        "So many, or as many fewer as whole sequences in whole epochs ask for.", ge=1, le=10**12
    )
    times: Absent[float] = absent("So many times what `of` sees.", gt=0, le=10**6)
    of: Absent[str] = absent("An adaptation without alternatives and without such a budget itself.")


def _either(budget: Budget) -> Budget:
    given = {name for name in ("tokens", "times", "of") if getattr(budget, name) is not None}
    if given not in ({"tokens"}, {"times", "of"}):
        raise PydanticCustomError("budget", "expected `tokens`, or `times` and `of`")
    return budget


class Adaptation(Settings):
    """What all ways of adapting a pruned model have.

    Attributes:
        is_retraining: Whether the whole model is trained on text.
        rule: The rule that carries it out.
    """

    is_retraining: ClassVar[bool] = False
    rule: ClassVar[str]

    method: str = Field(description=_METHOD)

    @property
    def is_sequential(self) -> bool:
        """Whether windows need what the windows before them have become."""
        return False

    @property
    def becomes_dense(self) -> bool:
        """Whether what it merges into is not pruned any more."""
        return False

    @property
    def distils(self) -> bool:
        """Whether the dense model's predictions are the targets."""
        return False

    @property
    def label(self) -> str:
        """What a series of adaptations of this kind is called."""
        return self.method

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield settings that do not go together: the key, and what is wrong with it."""
        yield from ()


class Local(Adaptation):
    """What adaptations of one window at a time have."""

    rule: ClassVar[str] = RECONSTRUCT_WINDOW

    inputs: Literal["dense", "sparse"] = Field(
        default="dense",
        description="What a window sees. dense: the dense model's activations, so that windows are "
        "independent of each other. sparse: what the adapted windows before it make of the text; "
        "one job then adapts all windows in turn.",
    )
    targets: Literal["dense", "local"] = Field(
        default="dense",
        description="What a window learns. dense: the dense model's activations. local: what the "
        "window's own dense weights make of its (sparse) inputs.",
    )
    train_biases: bool = Field(default=True, description=_BIASES)

    @property
    def is_sequential(self) -> bool:
        return self.inputs == "sparse"

    @property
    def local_targets(self) -> bool:
        """Whether a window learns what its own dense weights make of its inputs."""
        return self.targets == "local"

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.inputs, self.targets) == ("dense", "local"):
            yield (
                "targets",
                "with dense inputs the outputs of a dense window are the dense activations; "
                "expected dense, or inputs: sparse",
            )


class LeastSquares(Local):
    """Masked least squares, row by row: the optimum of the window `matrix` on its masks."""

    window: ClassVar[Window] = MATRIX

    method: Literal["least_squares"] = Field(description=_METHOD)
    damping: float = Field(
        default=1e-8,
        ge=0,
        description="Share of the Gram matrix's mean diagonal that holds a weight to its pruned "
        "value, for directions that no token excites. More of it is a regularisation.",
    )


class Training(Adaptation):
    """What adaptations that train by gradients have."""

    samples: Absent[int] = absent(
        "Sequences to train on: the calibration sample, and more draws like it. Not given: the "
        "calibration sample.",
        ge=1,
    )
    budget: Absent[Annotated[Budget, AfterValidator(_either)]] = absent(
        "Tokens to be seen, in all epochs together: decides `samples`."
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        default="adamw", description="adamw: PyTorch's betas, no weight decay. sgd: momentum 0.9."
    )
    learning_rate: Searched[Positive] = Field(
        default=0.001,
        description="Peak; restarted in each window. A list is searched (`select_on`). The paper's "
        "grid is 1e-7 ... 5e-4.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear",
        description="Decay to 0 after the warm-up, or none. The paper's is linear.",
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the steps in which the learning rate rises linearly.",
    )
    epochs: Searched[Count] = Field(
        default=1,
        description="Passes over the sample, in each window; the paper's are 1, 5, 10. A list is "
        "searched.",
    )
    batch: int = Field(default=2, ge=1, description="Sequences in an optimiser step.")
    shuffle: bool = Field(
        default=True,
        description="Draw a new order in each epoch. The study's own code keeps a fixed order.",
    )
    precision: Literal["model", "float32", "bfloat16"] = Field(
        default="model",
        description="Of the training passes: the model's dtype, or another one. Trained weights "
        "and their moments are float32 in any case.",
    )
    select_on: Literal["calibration", "evaluation"] = Field(
        default="calibration",
        description="Where candidates are compared, by perplexity. calibration: on documents of "
        "the calibration text that the sample does not touch. evaluation: on the very text the "
        "study is judged by, as the paper does; tables mark it.",
    )

    @property
    def rates(self) -> list[float]:
        """The learning rates among which one is chosen."""
        return self.learning_rate if isinstance(self.learning_rate, list) else [self.learning_rate]

    @property
    def epoch_counts(self) -> list[int]:
        """The numbers of epochs among which one is chosen."""
        return self.epochs if isinstance(self.epochs, list) else [self.epochs]

    @property
    def is_searched(self) -> bool:
        """Whether alternatives are listed."""
        return isinstance(self.learning_rate, list) or isinstance(self.epochs, list)

    @property
    def rate(self) -> float:
        """The learning rate of a run; ValueError if several are listed."""
        (rate,) = self.rates
        return rate

    @property
    def passes(self) -> int:
        """How often a run passes over its sample; ValueError if several numbers are listed."""
        (passes,) = self.epoch_counts
        return passes

    @property
    def trained(self) -> Trained:
        """What is trained."""
        raise NotImplementedError

    @property
    def becomes_dense(self) -> bool:
        return self.trained.becomes_dense


class Reconstruction(Training, Local):
    """Train one window of the pruned model at a time, to match the outputs of the dense model."""

    method: Literal["reconstruction"] = Field(description=_METHOD)
    window: WindowSetting = Field(
        default=1,
        description="What is trained together. A number: so many consecutive decoder blocks, of "
        "which the last window may have fewer. all: every block. attention_mlp: the attention and "
        "the MLP of each block apart. matrix: each linear layer apart, to match its own output. "
        "auto: the largest of these that fits into memory_gb.",
    )
    memory_gb: Absent[float] = absent(
        "For window: auto. Memory that a job may use, in units of 1e9 bytes, as `make plan` "
        "predicts it.",
        gt=0,
    )
    trains: Absent[Method] = absent(
        "What is trained of a window, as by the retraining method of this name. Not given: full."
    )
    rank: Absent[int] = absent(f"For a low-rank `trains`. Not given: {RANK}.", ge=1)
    alpha: Absent[float] = absent(f"For a low-rank `trains`. Not given: {ALPHA}.", gt=0)
    loss: Literal["mean_squared_error", "negative_cosine", "relative_squared_error"] = Field(
        default="mean_squared_error",
        description="Of the residual stream after the window; of its own output for a matrix. "
        "negative_cosine: 1 - cosine, mean over tokens. relative_squared_error: divided by the "
        "target's squared norm, token by token.",
    )
    train_norms: bool = Field(
        default=True,
        description="Train the window's norms as well as the weights that its masks keep. A window "
        "of one matrix has none: keep this equal across windows that are compared.",
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
                ("trains", "other") if trained.weights is None else ("train_norms", "false")
            )
            yield (
                key,
                f"a window of one matrix holds no norm; expected {wanted}, and the same for the "
                "windows it is compared with",
            )
        if self.window == AUTO and self.memory_gb is None:
            yield "memory_gb", "`window: auto` fills a memory budget; expected one, in GB"
        if self.window != AUTO and self.memory_gb is not None:
            yield "memory_gb", "only `window: auto` has a memory budget; expected no such key"
        trains = self.trains or FULL
        for key, having in (("rank", LOW_RANK), ("alpha", SCALED)):
            if getattr(self, key) is not None and trains not in having:
                yield key, f"`trains: {trains}` has none; expected no such key"
        if trained.weights is None and self.window != MATRIX:
            for key, needed in (("train_norms", trained.norms), ("train_biases", trained.biases)):
                if needed and not getattr(self, key):
                    yield key, f"`trains: {trains}` trains them; expected true"


Windowed = Reconstruction | LeastSquares


def with_window(settings: Windowed, window: Window) -> Windowed:
    """Return settings whose window is decided, where they leave it open."""
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
        description="next_token: of the text, as in pre-training. distillation: the targets are "
        "the dense model's predictions, KL(dense || this).",
    )
    micro_batch: Absent[int] = absent(
        "Sequences that are passed together; the gradients of a batch add up. Less memory, the "
        "same steps. Not given: the batch.",
        ge=1,
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Pass each block again in the backward pass instead of keeping what it needs: "
        "less memory, a third more operations.",
    )
    clip: float | None = Field(
        default=1.0, gt=0, description="Largest norm of all gradients together; null: none."
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


class OfMatrices(Retraining):
    """What methods that train matrices have besides."""

    train_norms: bool = Field(default=True, description=_NORMS)
    train_biases: bool = Field(default=True, description=_BIASES)
    train_head: bool = Field(
        default=False,
        description="Train the language-model head too, by the same method; where it is the "
        "embedding, that with it.",
    )
    linears: Absent[Distinct[str]] = absent(
        "Ends of the names of the linear layers whose matrices are trained, such as q_proj. Not "
        "given: all of the blocks."
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
        """Return the settings of the small matrices through which a matrix is trained."""
        return {}


class LowRank(OfMatrices):
    """What methods that train a matrix through two small ones have besides."""

    rank: int = Field(
        default=RANK,
        ge=1,
        description="Of the two small matrices through which a matrix is trained; at most its "
        "smaller side.",
    )

    def _low_rank(self) -> dict[str, Any]:
        return {"rank": self.rank}


class Scaled(LowRank):
    """What low-rank methods that scale a matrix's change have besides."""

    alpha: float = Field(
        default=ALPHA, gt=0, description="The change of a matrix is scaled by alpha / rank."
    )

    def _low_rank(self) -> dict[str, Any]:
        return {**super()._low_rank(), "alpha": self.alpha}


class Branching(Scaled):
    """What methods that train a branch beside a matrix have besides."""

    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of an adapter's inputs that is dropped in training.",
    )

    def _low_rank(self) -> dict[str, Any]:
        return {**super()._low_rank(), "dropout": self.dropout}


class Full(OfMatrices):
    """All weights that the masks keep."""

    method: Literal["full"] = Field(description=_METHOD)


class Biases(Retraining):
    """The biases of linear layers alone (PERP)."""

    method: Literal["biases"] = Field(description=_METHOD)


class Norms(Retraining):
    """The norms alone (PERP)."""

    method: Literal["norms"] = Field(description=_METHOD)


class BiasesNorms(Retraining):
    """Biases and norms (PERP)."""

    method: Literal["biases_norms"] = Field(description=_METHOD)


class Lora(Branching):
    """LoRA: merged, the model is dense."""

    method: Literal["lora"] = Field(description=_METHOD)


class LoraPrune(Branching):
    """LoRA whose change is pruned when it is merged."""

    method: Literal["lora_prune"] = Field(description=_METHOD)


class MaskLora(Scaled):
    """LoRA whose change is masked while it trains (PERP)."""

    method: Literal["masklora"] = Field(description=_METHOD)


class ScaleLora(LowRank):
    """Weights that are multiplied by a low-rank matrix (PERP)."""

    method: Literal["scalelora"] = Field(description=_METHOD)


class Spp(Scaled):
    """Weights that are multiplied by a structured low-rank matrix (arXiv 2405.16057)."""

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
    """Return settings that are written as JSON, with defaults: one of the classes above."""
    return reader(AdaptationEntry)(settings)
