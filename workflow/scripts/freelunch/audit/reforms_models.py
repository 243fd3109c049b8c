"""Answers to modules 5 to 8 of the REFORMS checklist: models, leakage, metrics, generality."""

from collections import Counter

from freelunch.analysis.pairing import ENOUGH_SEEDS
from freelunch.audit.reforms_facts import (
    ANSWERED,
    IN_PART,
    NOT_ANSWERED,
    NOT_APPLICABLE,
    Answer,
    Facts,
    code,
)
from freelunch.audit.scope import measured_text
from freelunch.records.record import adaptation_facts
from freelunch.study import steps
from freelunch.study.cell import NONE

# The settings of an adaptation that say what it is.
_TOLD = ("method", "window", "loss")
_NO_TRAINING = "Models are pruned, and nothing is trained."

# --- 5. Modelling


def models(facts: Facts) -> Answer:
    study = facts.study
    pruned = [cell for cell in study.cells if not cell.is_dense]
    text = f"Decoder language models: {code(study.models)}."
    if pruned:
        criteria, patterns = (
            code(dict.fromkeys(getattr(cell, key) for cell in pruned))
            for key in ("criterion", "pattern")
        )
        text += f" They are pruned by {criteria}; {patterns}."
    if not facts.adaptations:
        return Answer(ANSWERED, f"{text} {_NO_TRAINING}")
    ways = []
    for name in facts.adaptations:
        entry = study.config.adaptations[name].as_json()
        told = ", ".join(f"{key} {entry[key]}" for key in _TOLD if key in entry)
        ways.append(f"`{name}` ({told.replace('_', ' ')})")
    return Answer(
        ANSWERED,
        f"{text} They are adapted by {'; '.join(ways)}. All settings are in "
        "`audit/run/config.yaml`.",
    )


def why_models(facts: Facts) -> Answer:
    if not facts.tested:
        return Answer(NOT_ANSWERED, "The study does not state why it has these methods.")
    return Answer(
        IN_PART,
        f"The claims that are tested ({facts.tested_names}) compare such methods. The study does "
        "not state why it has these and no others.",
    )


def evaluation(facts: Facts) -> Answer:
    study = facts.study
    parts = [measured_text(study)]
    if study.drift:
        parts.append(f"perplexity and drift on held-out sequences of `{study.calibration.text}`")
    if facts.audit["provenance"]["tasks"]:
        parts.append("zero-shot accuracy on tasks")
    text = f"The study measures {'; '.join(parts)}. Cells of one model see the same tokens."
    if study.perplexity.text == study.calibration.text:
        return Answer(
            IN_PART,
            f"{text} The evaluation text is the calibration text, so a window may lie in a "
            "document that a model was adapted on.",
        )
    return Answer(ANSWERED, f"{text} There is no cross-validation.")


def selection(facts: Facts) -> Answer:
    text = f"All {len(facts.records):,} cells are reported; none was selected by its result."
    if facts.searched:
        text += f" Learning rates or epochs were chosen for {code(facts.searched)} (5e)."
    return Answer(ANSWERED, text)


def tuning(facts: Facts) -> Answer:
    if not facts.adaptations:
        return Answer(NOT_APPLICABLE, _NO_TRAINING)
    told = []
    for name in facts.searched:
        choices = [
            choice
            for cell, record in facts.records.items()
            if cell.adaptation == name
            and (choice := adaptation_facts(record)["choice"]) is not None
        ]
        counts = Counter(choice["chosen"].partition(".")[2] for choice in choices)
        chosen = ", ".join(
            f"`{each}` ({count} of {len(choices)} cells)" for each, count in counts.items()
        )
        evaluated = name in facts.chosen_on_evaluation
        on = "the evaluation text" if evaluated else "held-out calibration text"
        of = len(choices[0]["candidates"])
        told.append(f"`{name}` chose among {of} candidates by perplexity on {on}: {chosen}.")
    if facts.fixed:
        told.append(
            f"The settings of {code(facts.fixed)} are fixed in the config. The learning rates in "
            "`config/registry.yaml` were chosen by perplexity on held-out calibration text, in "
            "searches with seed 0 (`docs/results/searches.md`); for others, the study does not "
            "state how they were found."
        )
    return Answer(IN_PART if facts.fixed else ANSWERED, " ".join(told))


def baselines(facts: Facts) -> Answer:
    if not facts.adaptations:
        return Answer(ANSWERED, "Each pruned model is compared with its dense model.")
    unadapted = {(cell.model, cell.pruning) for cell in facts.records if cell.adaptation == NONE}
    pruned = {(cell.model, cell.pruning) for cell in facts.records}
    start = " and with the pruned model that it started from" if pruned == unadapted else ""
    text = (
        f"Each adapted model is compared with its dense model{start}, on the same windows. Tokens, "
        "operations and time of each adaptation are reported."
    )
    if facts.searched != facts.adaptations:
        tuned = code(facts.searched) or "none"
        return Answer(IN_PART, f"{text} Adaptations that this study tuned (5e): {tuned}.")
    return Answer(ANSWERED, text)


# --- 6. Data leakage


def separation(facts: Facts) -> Answer:
    text = f"Masks and training read `{facts.study.calibration.text}` alone."
    if facts.chosen_on_evaluation:
        return Answer(
            IN_PART,
            f"{text} But {code(facts.chosen_on_evaluation)} chose among candidates on "
            "the evaluation text, which is a favour that tables mark.",
        )
    if facts.study.perplexity.text == facts.study.calibration.text:
        return Answer(IN_PART, f"{text} That is the evaluation text, too (6b).")
    return Answer(ANSWERED, f"{text} The evaluation text decides nothing before the evaluation.")


def duplicates(facts: Facts) -> Answer:
    study = facts.study
    text = ""
    if any(map(study.needs_held_out, study.cells)):
        text = (
            "The calibration sample, the text that candidates are compared on and the held-out "
            "text share no document and no 13 tokens in a row. "
        )
    if study.perplexity.text == study.calibration.text:
        text += "The evaluation windows are not kept apart from the calibration sample."
    else:
        text += (
            f"Whether `{study.perplexity.text}` repeats passages of `{study.calibration.text}` was "
            "not examined."
        )
    return Answer(IN_PART, text)


def inputs(facts: Facts) -> Answer:
    return Answer(
        IN_PART,
        "A model sees the tokens before the one that it predicts, and nothing else. Whether these "
        "texts and tasks were in the text that it was first trained on is not known; that would "
        "affect the dense model and every model that was made of it.",
    )


# --- 7. Metrics and uncertainty


def metrics(facts: Facts) -> Answer:
    measured = {name for record in facts.records.values() for name in record["metrics"]}
    names = ["perplexity per token, byte and word"]
    if steps.DRIFT in measured:
        names += ["perplexity on held-out calibration text", "drift of activations"]
    if steps.TASKS in measured:
        names.append("zero-shot accuracy")
    text = (
        f"Metrics: {', '.join(names)}. Perplexity is the exponential of the loss of the next "
        "token, which the models were first trained on."
    )
    if steps.TASKS not in measured:
        text += " Nothing was measured of what a model is used for."
    return Answer(ANSWERED, text)


def uncertainty(facts: Facts) -> Answer:
    text = (
        "Intervals are Student's t intervals (95 %) of differences that are paired by windows. "
        "Documents count as independent; where documents are joined, the variance allows for "
        "correlation between neighbouring windows."
    )
    if facts.fixed:
        text += (
            f" The settings of {code(facts.fixed)} are those of the config in each seed, so that "
            "intervals do not contain what another choice would change."
        )
    if 0 < facts.fewest_seeds < ENOUGH_SEEDS:
        seeds = "one seed" if facts.fewest_seeds == 1 else f"{facts.fewest_seeds} seeds"
        return Answer(
            IN_PART,
            f"{text} Some numbers come from {seeds}, so they say little about other calibration "
            "samples and training orders.",
        )
    return Answer(ANSWERED, f"{text} Calibration samples and training orders vary with the seed.")


def tests(facts: Facts) -> Answer:
    text = (
        "Losses of documents are taken to be independent and their mean to be near a normal "
        "distribution. `tests/analysis/test_intervals.py` simulates how often the intervals "
        "contain the truth."
    )
    if not facts.tested:
        return Answer(ANSWERED, f"No hypothesis is tested; there are intervals. {text}")
    return Answer(
        ANSWERED,
        "Claims are tested against thresholds: one-sided, or for equivalence by two one-sided "
        f"tests; a largest or smallest number is corrected for the choice (Bonferroni). {text}",
    )


# --- 8. Generalisability and limitations


def validity(facts: Facts) -> Answer:
    count = len({cell.model for cell in facts.records})
    data = f"`{facts.study.perplexity.text}`"
    if facts.audit["provenance"]["tasks"]:
        data += " and the tasks"
    text = (
        f"Nothing was measured beyond {'one model' if count == 1 else f'{count} models'}, {data}."
    )
    if not facts.tested:
        return Answer(NOT_ANSWERED, text)
    bearings = "; ".join(f"{claim['id']}: {claim['bearing']}" for claim in facts.tested)
    return Answer(IN_PART, f"{text} What was found says this of the paper's claims: {bearings}.")


def limits(facts: Facts) -> Answer:
    return Answer(
        ANSWERED,
        f"{facts.audit['worth']} Perplexities differ with the text, the tokenizer and the length "
        "of windows. Zeros are stored like other numbers here, so that nothing follows for size or "
        "speed. Safety and bias were not measured.",
    )
