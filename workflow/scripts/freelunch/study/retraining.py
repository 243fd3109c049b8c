"""Settings of the adaptations that retrain the whole model: a class for each method."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from freelunch.study.adaptations import LeastSquares, Reconstruction, Training
from freelunch.study.methods import ALPHA, DISTILLATION, RANK, Trained
from freelunch.study.settings import Absent, Entry, absent, read_entry
from freelunch.study.steps import RETRAIN_MODEL
from freelunch.study.windows import MODEL, Window

# Settings of the low-rank factors through which a matrix is trained, in the classes that have them.
LOW_RANK_SETTINGS = ("rank", "alpha")
_METHOD = "How the model is retrained; freelunch.study.methods has the formulas."


class Retraining(Training):
    """Train the whole pruned model at once, on text."""

    is_retraining: ClassVar[bool] = True
    rule: ClassVar[str] = RETRAIN_MODEL
    window: ClassVar[Window] = MODEL

    loss: Literal["next_token", "distillation"] = "next_token"
    """next_token: the loss on the text, as in pre-training; distillation: KL(dense || this), with
    the dense model's predictions as targets."""
    micro_batch: Absent[int] = absent(ge=1)
    """Sequences that pass through the model together; fewer take less memory and leave the steps
    the same. Default: the batch."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: less memory, a
    third more FLOPs."""
    # Records of before this setting existed stay valid.
    residency: Literal["auto", "model", "streamed"] = Field(
        default="auto", exclude_if=lambda value: value == "auto"
    )
    """What is in memory: the whole model, or one block while the next is read (streamed: each block
    runs once more, with the same results). auto: the model if it fits into `memory_gb`."""
    memory_gb: Absent[float] = absent(gt=0)
    """For `residency: auto`: memory of a job in GB (1e9 bytes), as `make plan` predicts it.
    Default: that of the GPU (`make study DEVICE_MEMORY=80`), or else of this machine."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of all gradients together; null: no clipping."""

    @property
    def distils(self) -> bool:
        return self.loss == DISTILLATION

    @property
    def trained(self) -> Trained:
        return Trained.by(self.method)


class OfMatrices(Retraining):
    """Settings of the methods that train matrices."""

    train_norms: bool = True
    """Also train the norms, including the final one."""
    train_biases: bool = True
    """Also train the biases of linear layers."""
    train_head: bool = False
    """Also train the language-model head, by the same method, and with it the embedding if they
    share weights."""

    @property
    def trained(self) -> Trained:
        return Trained.by(
            self.method,
            biases=self.train_biases,
            norms=self.train_norms,
            head=self.train_head,
            **{key: getattr(self, key) for key in LOW_RANK_SETTINGS if hasattr(self, key)},
        )


class LowRank(OfMatrices):
    """Settings of the methods that train a matrix through two low-rank factors."""

    rank: int = Field(default=RANK, ge=1)
    """Rank of the two factors of a matrix; at most the matrix's smaller dimension."""


class Scaled(LowRank):
    """Settings of the low-rank methods that scale a matrix's change."""

    alpha: float = Field(default=ALPHA, gt=0)
    """The change of a matrix is scaled by alpha / rank."""


class Branching(Scaled):
    """Settings of the methods that train a branch beside a matrix."""

    dropout: float = Field(default=0.0, ge=0, le=0)
    """Share of a branch's inputs that training drops: always 0, as in the paper."""


class Full(OfMatrices):
    """Train all unpruned weights."""

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


_ANY_RETRAINING = (
    Full | Biases | Norms | BiasesNorms | Lora | LoraPrune | MaskLora | ScaleLora | Spp
)
AdaptationEntry = Annotated[
    Reconstruction | LeastSquares | _ANY_RETRAINING, Field(discriminator="method")
]


def read_adaptation(settings: Entry) -> Any:
    """Return an adaptation's settings from JSON, with defaults, as the class of its method."""
    return read_entry(AdaptationEntry, settings)
