"""Decide which window of an adaptation fits into its memory budget."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import write_json
from freelunch.core.job import running
from freelunch.costs.reconstruction import decide_window
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import read_adaptation

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        given = snakemake.params
        config = Path(snakemake.input.model).with_name("config.json")
        # In the checkpoint's own precision, because the budget is for what is trained.
        shapes = Shapes.read(config)
        settings = read_adaptation(given.settings)
        window, why = decide_window(shapes, given.samples, given.length, settings)
        write_json(Path(snakemake.output.window), {"window": window, "why": why})
        job.say(str(why))
