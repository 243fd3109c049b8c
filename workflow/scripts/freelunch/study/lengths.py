"""How many tokens a sequence or a window has, which a model's `max_length` may shorten."""

from collections.abc import Iterable

from freelunch.study.cell import Cell
from freelunch.study.config import Calibration, Config, PerplexitySettings


class Lengths:
    """The calibration sample and the windows of a study, and those of each model."""

    config: Config

    @property
    def cells(self) -> list[Cell]:
        """The cells that are run."""
        raise NotImplementedError

    @property
    def calibration(self) -> Calibration:
        """Settings of the calibration sample."""
        return self.config.study.calibration

    @property
    def perplexity(self) -> PerplexitySettings:
        """Settings of the perplexity by which the study is judged."""
        return self.config.study.evaluation.perplexity

    def calibration_of(self, model: str) -> Calibration:
        """Return the settings of a model's calibration sample."""
        settings = self.calibration
        return settings.model_copy(update={"length": self._at_most(model, settings.length)})

    def perplexity_of(self, model: str) -> PerplexitySettings:
        """Return the settings of a model's perplexity."""
        settings = self.perplexity
        length = self._at_most(model, settings.length)
        stride = None if settings.stride is None else min(settings.stride, length)
        return settings.model_copy(update={"length": length, "stride": stride})

    def _at_most(self, model: str, length: int) -> int:
        most: int | None = self.config.models[model].max_length
        return min(length, most or length)

    @property
    def sequence_text(self) -> str:
        """How many tokens a calibration sequence has, in words."""
        return _in_words(self.calibration_of(cell.model).length for cell in self.cells)

    @property
    def window_text(self) -> str:
        """How many tokens a window of the evaluation text has, in words."""
        return _in_words(self.perplexity_of(cell.model).length for cell in self.cells)


def _in_words(lengths: Iterable[int]) -> str:
    return " or ".join(f"{length:,}" for length in sorted(set(lengths)))
