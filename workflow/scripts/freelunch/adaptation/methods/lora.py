"""LoRA, whose merged matrix is dense (arXiv 2106.09685)."""

from freelunch.adaptation.training.matrices import Branch


class LoraMatrix(Branch):
    """W + s BA, in training and merged."""
