"""Methods that train a matrix through two small ones.

Each method is one module of this package with one class, a class of settings in
`freelunch.study.retraining`, and an entry in this table. `LowRankMatrix` is the class to derive
from; its methods say what may differ.
"""

from freelunch.adaptation.methods.lora import LoraMatrix
from freelunch.adaptation.methods.lora_prune import LoraPruneMatrix
from freelunch.adaptation.methods.masklora import MaskLoraMatrix
from freelunch.adaptation.methods.scalelora import ScaleLoraMatrix
from freelunch.adaptation.methods.spp import SppMatrix
from freelunch.adaptation.training.matrices import LowRankMatrix

# The class of each method in `freelunch.study.methods.LOW_RANK`.
MATRICES: dict[str, type[LowRankMatrix]] = {
    "lora": LoraMatrix,
    "lora_prune": LoraPruneMatrix,
    "masklora": MaskLoraMatrix,
    "scalelora": ScaleLoraMatrix,
    "spp": SppMatrix,
}
