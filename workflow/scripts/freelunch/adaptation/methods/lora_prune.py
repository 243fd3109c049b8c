"""LoRA whose update is pruned when it is merged (PERP, arXiv 2312.15230)."""

from freelunch.adaptation.methods.masklora import MaskedChange
from freelunch.adaptation.training.matrices import Branch


class LoraPruneMatrix(MaskedChange, Branch):
    """W + s BA in training, W + s M . BA when merged."""
