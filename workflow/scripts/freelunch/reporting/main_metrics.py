"""Write the main perplexities of a finished study, for tools that compare runs, such as DVC.

    python -m freelunch.reporting.main_metrics config.yaml

writes `perplexity.json` into the folder of the study's results. It reads every record, and refuses
one that was made with other settings than the config asks for.
"""

import math
import sys
from pathlib import Path

from freelunch.analysis.pairing import by_adaptation, perplexity_over_seeds, pruned_models
from freelunch.core.errors import UserError
from freelunch.core.files import json_text, write_atomically
from freelunch.records.read import load_records
from freelunch.records.record import Records
from freelunch.reporting.formatting import NOT_FINITE
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.pins import with_pins
from freelunch.study.study import Study

FILE = "perplexity.json"


def main_perplexities(study: Study, records: Records) -> dict[str, float | str]:
    """Return perplexities of the pruned model with the most adaptations, averaged over seeds.

    There are four, by adaptation: that of the dense model, and those of the pruned model without
    adaptation, after the reconstruction that retraining is compared with, and after the first
    retraining of the config. Adaptations that the study lacks are left out. A perplexity that is
    not finite is written in words, since DVC leaves null out of its tables.
    """
    adapted = max(map(by_adaptation, pruned_models(records)), key=len, default=None)
    if adapted is None:
        return {}
    retrainings = study.comparisons.retrainings
    one, *_ = adapted[next(iter(adapted))].values()
    cells = {DENSE: [Cell.dense(one.model)]}
    for names in ([NONE], study.comparisons.references, retrainings):
        for name in [name for name in names if name in adapted][:1]:
            cells[name] = list(adapted[name].values())
    means = {name: perplexity_over_seeds(its, records)[0] for name, its in cells.items()}
    return {name: mean if math.isfinite(mean) else NOT_FINITE for name, mean in means.items()}


if __name__ == "__main__":
    try:
        study = with_pins(Study.load(Path(sys.argv[1])))
        perplexities = main_perplexities(study, load_records(study))
        write_atomically(study.paths.root / FILE, json_text(perplexities))
    except UserError as error:
        sys.exit(f"error: {error}")
