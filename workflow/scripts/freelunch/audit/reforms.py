"""The REFORMS checklist, each of its items answered from what a study recorded.

REFORMS has 32 items in eight modules for science that uses machine learning (Kapoor et al.,
Science Advances 2024, doi 10.1126/sciadv.adk3452, table 1). The numbers are the checklist's; the
items are in our words, since it is not under our licence. An item that a study cannot answer says
so.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.audit import reforms_data as data
from freelunch.audit import reforms_models as models
from freelunch.audit.reforms_facts import Answer, Facts
from freelunch.study.study import Study

CHECKLIST = (
    "REFORMS is a checklist for science that uses machine learning: Kapoor et al., Science "
    "Advances 10, eadk3452 (2024), doi 10.1126/sciadv.adk3452. The items are given in short; the "
    "paper has their words and explains them. The answers come from the records and the config of "
    "the study."
)
Items = tuple[tuple[str, str, Callable[[Facts], Answer]], ...]
MODULES: dict[str, Items] = {
    "Study goals": (
        ("1a", "What the claims are about", data.population),
        ("1b", "Why that was chosen", data.why_population),
        ("1c", "Why machine learning is used", data.why_learning),
    ),
    "Computational reproducibility": (
        ("2a", "Datasets and models, with links", data.datasets),
        ("2b", "Code and its version", data.program),
        ("2c", "Computing infrastructure", data.infrastructure),
        ("2d", "Instructions", data.instructions),
        ("2e", "A script that reproduces all results", data.script),
    ),
    "Data quality": (
        ("3a", "Sources of the data", data.sources),
        ("3b", "What samples were drawn from", data.sampling),
        ("3c", "Why the data suit the task", data.why_data),
        ("3d", "The outcome, with descriptive statistics", data.outcome),
        ("3e", "Number of samples", data.amounts),
        ("3f", "Missing data", data.missing),
        ("3g", "Whether the data represent what the claims are about", data.representative),
    ),
    "Data preprocessing": (
        ("4a", "Excluded samples, and why", data.excluded),
        ("4b", "Impossible or corrupt samples", data.corrupt),
        ("4c", "Transformations of the data", data.transformations),
    ),
    "Modeling": (
        ("5a", "All models that were trained", models.models),
        ("5b", "Why these types of models", models.why_models),
        ("5c", "How models were evaluated", models.evaluation),
        ("5d", "How the reported models were selected", models.selection),
        ("5e", "How hyperparameters were tuned", models.tuning),
        ("5f", "Whether baselines are appropriate", models.baselines),
    ),
    "Data leakage": (
        ("6a", "Whether only training data were used before the evaluation", models.separation),
        ("6b", "Dependencies and duplicates between training and test data", models.duplicates),
        ("6c", "Whether each input is legitimate", models.inputs),
    ),
    "Metrics and uncertainty": (
        ("7a", "Metrics, and why they suit", models.metrics),
        ("7b", "Uncertainty, and how it was calculated", models.uncertainty),
        ("7c", "Statistical tests and their assumptions", models.tests),
    ),
    "Generalizability and limitations": (
        ("8a", "Evidence of external validity", models.validity),
        ("8b", "Where the findings are not expected to hold", models.limits),
    ),
}


def gather_reforms(
    study: Study, records: Records, audit: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return each item with its answer, in the order of the checklist.

    Args:
        study: The study.
        records: The record of each of its cells.
        audit: The rest of the study's audit.
    """
    facts = Facts(study, records, audit)
    return [
        {"id": name, "module": module, "asks": asks, **answer(facts)._asdict()}
        for module, items in MODULES.items()
        for name, asks, answer in items
    ]


def reforms_text(audit: Mapping[str, Any]) -> str:
    """Return the answered checklist of an audit as Markdown."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Mapping[str, Any]) -> Iterator[str]:
    yield f"# REFORMS checklist of the study `{audit['study']}`"
    yield from ("", CHECKLIST)
    module = None
    for item in audit["reforms"]:
        if item["module"] != module:
            module = item["module"]
            yield from ("", f"## {module}", "")
            yield from ("| item | asks for | status | answer |", "|---|---|---|---|")
        # A bar would end the field of the table.
        fields = (item[key].replace("|", "\\|") for key in ("id", "asks", "status", "text"))
        yield f"| {' | '.join(fields)} |"
