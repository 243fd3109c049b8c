"""Answers to modules 1 to 4 of the REFORMS checklist: goals, reproducibility, data."""

import yaml

from freelunch.audit.data import REPOSITORY
from freelunch.audit.page_card import computed_text
from freelunch.audit.page_cells import duration, significant
from freelunch.audit.reforms_facts import (
    ANSWERED,
    IN_PART,
    NOT_ANSWERED,
    NOT_APPLICABLE,
    Answer,
    Facts,
    code,
)
from freelunch.reporting.formatting import range_text, with_error
from freelunch.study import steps
from freelunch.study.sources import Tokens

# --- 1. Study goals


def population(facts: Facts) -> Answer:
    text = f"What was found is about these models, texts and seeds: {facts.audit['scope']}"
    if facts.tested:
        text += (
            f" The claims that are tested ({facts.tested_names}) are about these models: "
            f"{facts.setting('models')['paper']}."
        )
    return Answer(ANSWERED, text)


def why_population(facts: Facts) -> Answer:
    if not facts.tested:
        return Answer(NOT_ANSWERED, "A study does not state why it was made, and no claim asks.")
    return Answer(
        IN_PART,
        f"The study tests claims of arXiv 2510.14444 ({facts.tested_names}), which are about "
        "pruned language models. It does not state why it has these models, criteria and patterns "
        "and no others.",
    )


def why_learning(facts: Facts) -> Answer:
    text = "Machine learning is what is studied, and not a means to study something else."
    return Answer(NOT_APPLICABLE, text)


# --- 2. Computational reproducibility


def datasets(facts: Facts) -> Answer:
    text = (
        f"{facts.places('texts', 'tasks')}. Models: {facts.places('models')}. Exact versions and "
        "digests are in `audit.json` under `provenance`."
    )
    if facts.local:
        return Answer(IN_PART, f"{text} Nothing on the web identifies {code(facts.local)}.")
    return Answer(ANSWERED, text)


def program(facts: Facts) -> Answer:
    provenance = facts.audit["provenance"]
    commits = [each for each in provenance["commits"] if each["commit"]]
    settings = "The config is in `audit/run/config.yaml`, the settings of a cell in its record."
    if not commits:
        return Answer(NOT_ANSWERED, f"Records name no commit of the code. {settings}")
    text = f"The records were computed {computed_text(provenance)}. {settings}"
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    address = citation.get("repository-code")
    known = f"is {address}" if address else "has no address in `CITATION.cff`"
    text += f" The repository {known}."
    clean = all(not each["uncommitted_changes"] for each in commits)
    if not clean:
        text += " Uncommitted changes were not kept."
    return Answer(ANSWERED if address and clean else IN_PART, text)


def infrastructure(facts: Facts) -> Answer:
    provenance, costs = facts.audit["provenance"], facts.audit["costs"]
    time = duration(sum(row["wall_s"] for row in costs))
    memory = significant(max((row["peak_bytes"] for row in costs), default=0) / 1e9)
    cost = f"All jobs together took {time}; the largest had {memory} GB of memory."
    if not provenance["machines"]:
        return Answer(NOT_ANSWERED, f"Records name no machine. {cost}")
    keys = ("device_name", "device", "processor", "cores", "platform", "python")
    machines = "; ".join(
        ", ".join(f"{key.replace('_', ' ')} {each[key]}" for key in keys if each.get(key))
        for each in provenance["machines"]
    )
    threads = " or ".join(map(str, provenance["threads"]))
    return Answer(
        IN_PART,
        f"Machines: {machines}; threads in a job: {threads}. {cost} `audit.json` lists the "
        "packages. How much memory and disk the machine has was not recorded.",
    )


def instructions(facts: Facts) -> Answer:
    text = "`README.md` of the repository says how to install the program and to run a study."
    if facts.tested:
        text += " `audit/appendix.md` has a command for each claim, its time and its result."
    return Answer(ANSWERED, text)


def script(facts: Facts) -> Answer:
    text = (
        f"`{facts.study.run_command}` makes the environment, fetches models, texts and tasks, and "
        "runs every step up to this audit."
    )
    if facts.local:
        return Answer(IN_PART, f"{text} It needs local files that others may lack.")
    return Answer(ANSWERED, text)


# --- 3. Data quality


def sources(facts: Facts) -> Answer:
    study = facts.study
    text = (
        f"Masks and training use `{study.calibration.text}`; perplexity is measured on "
        f"`{study.perplexity.text}`: {facts.places('texts')}."
    )
    if facts.audit["provenance"]["tasks"]:
        text += f" Tasks, with their answers: {facts.places('tasks')}."
    text += " When, where and by whom they were collected is for their sources to say."
    return Answer(IN_PART, text)


def sampling(facts: Facts) -> Answer:
    study, perplexity = facts.study, facts.study.perplexity
    calibration = study.calibration
    if isinstance(study.text(calibration.text), Tokens):
        drawn = f"The sequences of `{calibration.text}` were given as token ids."
    else:
        drawn = (
            f"Calibration and held-out sequences are drawn at random from the documents of "
            f"`{calibration.text}` that have more than {study.sequence_text} tokens, with "
            "replacement, by the seed of the cell."
        )
    if perplexity.cut == steps.JOINED:
        drawn += f" The evaluation windows are the start of `{perplexity.text}`, one after another."
    else:
        drawn += (
            " The evaluation windows are drawn at random from the documents of "
            f"`{perplexity.text}` that are long enough, one of each before a second of any."
        )
    if tasks := study.tasks:
        limit = tasks["limit"]
        amount = f"{limit:,} random documents" if limit else "all documents"
        drawn += f" Tasks: {amount} of each."
    return Answer(ANSWERED, drawn)


def why_data(facts: Facts) -> Answer:
    if not facts.tested:
        return Answer(NOT_ANSWERED, "The study does not state why it uses these texts.")
    calibration, evaluation = map(facts.setting, ("calibration_text", "evaluation_text"))
    return Answer(
        IN_PART,
        f"The paper calibrates on {calibration['paper']} (this study: {calibration['status']}) and "
        f"evaluates on {evaluation['paper']} (this study: {evaluation['status']}). The study does "
        "not state why it uses its texts.",
    )


def outcome(facts: Facts) -> Answer:
    levels = "; ".join(
        f"`{cell.model}` " + with_error(found["perplexity"], found["perplexity_standard_error"])
        for cell, record in facts.records.items()
        if cell.is_dense
        for found in [record["metrics"][steps.PERPLEXITY]]
    )
    text = (
        f"The outcome is the next token of a text, and its loss is the negative logarithm of its "
        f"probability. Perplexity of the dense models (± one standard error): {levels}."
    )
    if facts.audit["provenance"]["tasks"]:
        text += " In a task, the outcome is which of the choices is right."
    return Answer(ANSWERED, text)


def amounts(facts: Facts) -> Answer:
    calibration, records = facts.study.calibration, facts.records.values()
    adapted = [record["adaptation"] for record in records if record["adaptation"]]
    found = [record["metrics"][steps.PERPLEXITY] for record in records]
    sequences = [calibration.samples, *map(facts.study.samples, facts.adaptations)]
    parts = [
        f"Calibration and training: {range_text(sequences, ',')} sequences of "
        f"{facts.study.sequence_text} tokens"
    ]
    if distinct := [each["distinct_tokens"] for each in adapted]:
        parts[0] += f", of which {range_text(distinct, ',')} tokens are distinct"
    evaluated = f"evaluation: {range_text([each['windows'] for each in found], ',')} windows of "
    evaluated += f"{range_text([each['length'] for each in found], ',')} tokens"
    if documents := [len({*each["documents"]}) for each in found if "documents" in each]:
        evaluated += f" in {range_text(documents, ',')} documents"
    parts.append(evaluated)
    held_out = [each["metrics"][steps.DRIFT] for each in records if steps.DRIFT in each["metrics"]]
    if held_out:
        windows = range_text([each["windows"] for each in held_out], ",")
        parts.append(f"held-out calibration text: {windows} sequences")
    tasks = {
        name: f"`{name}`: {task['documents']:,} of {task['documents_in_all']:,} documents"
        for record in records
        for name, task in record["metrics"].get(steps.TASKS, {}).get("tasks", {}).items()
    }
    return Answer(ANSWERED, "; ".join([*parts, *tasks.values()]) + ".")


def missing(facts: Facts) -> Answer:
    lacking = [
        str(cell)
        for cell, record in facts.records.items()
        if record["metrics"][steps.PERPLEXITY]["perplexity"] is None
    ]
    cells = f"All {len(facts.records):,} cells have a record; without one there is no audit."
    text = f"Texts have no missing values. {cells}"
    if lacking:
        text += f" The perplexity is not finite in {len(lacking)}: {code(lacking)}."
    return Answer(ANSWERED, text)


def representative(facts: Facts) -> Answer:
    if facts.study.perplexity.cut == steps.JOINED:
        text = "The windows are the start of the text, and not a sample of it."
    else:
        text = "The windows are a random sample of the documents that are long enough."
    return Answer(
        IN_PART,
        f"{text} Nothing shows that the texts and models stand for others. {facts.audit['worth']}",
    )


# --- 4. Data preprocessing


def excluded(facts: Facts) -> Answer:
    return Answer(
        ANSWERED,
        "Blank documents are dropped when a text is fetched, and so are all but the first of equal "
        "documents, except for rows of a Parquet file. Documents that are too short for a sequence "
        "or a window are skipped. The manifest of a text in `resources/texts` counts its documents "
        "and the equal ones.",
    )


def corrupt(facts: Facts) -> Answer:
    return Answer(
        ANSWERED,
        "Downloads are compared with the digest or the revision that the config states, files with "
        "the digest that was noted when they were made, and records with their own digest. A "
        "damaged file stops the study. So does a dense perplexity above "
        f"{facts.study.block.dense_limit:g}, since the model, its tokenizer or the text must then "
        "be wrong.",
    )


def transformations(facts: Facts) -> Answer:
    text = (
        "A file is split into documents, line ends become LF, and documents are tokenised by the "
        "tokenizer of the model and cut into sequences or windows."
    )
    if facts.audit["provenance"]["tasks"]:
        text += " Tasks have the prompts of lm-eval, without examples."
    return Answer(ANSWERED, f"{text} Nothing of this is learned from data.")
