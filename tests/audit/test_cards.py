"""Model cards: what they say is what records say; `workflow/test_damage.py` damages one."""

import os
import re

import pytest
from huggingface_hub import ModelCard

from freelunch.audit.cards import card_texts
from freelunch.audit.output_files import card_name
from freelunch.reporting.formatting import summary_text
from freelunch.reporting.results import Results
from freelunch.reporting.sections import summary_sections
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study
from repository import ROOT

DENSE, PRUNED, ADAPTED = (
    Cell.parse(f"tiny/{name}/seed0")
    for name in ("dense/none", "wanda-u50/none", "wanda-u50/recon_block")
)
HUB = {"source": "hub", "repository": "someone/something", "revision": "b" * 40}
MEASURE = "perplexity on `evaluation-text`, 32 windows of 512 tokens"


def with_entries(**entries):
    """Return a study with other entries of its registries, by `registry__name`."""
    config = make_study().as_json()
    for key, entry in entries.items():
        registry, name = key.split("__")
        config[registry][name.replace("_", "-")] = entry
    return Study.check(config, "made-up.yaml")


def card_of(cell, study=None, records=None):
    study = study or make_study()
    records = records or make_records(study, PERPLEXITIES)
    return ModelCard(card_texts(study, records)[card_name(study, cell)])


def row(card, start):
    """Return the fields of the only row of a table that starts like this."""
    (line,) = (line for line in card.text.splitlines() if line.startswith(f"| {start}"))
    return [field.strip() for field in line.strip("| ").split("|")]


def test_a_card_says_what_the_record_says():
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    card, record = card_of(ADAPTED, study, records), records[ADAPTED]
    assert {"pruning", "wanda", "u50"} < set(card.data.tags)
    for said in (
        "criterion `wanda`, pattern `u50`: 50 % of the weights become zero",
        "1,024 of 2,048 weights (50.00 %)",
        "1,024 parameters trained, in 4 windows of the model, at most 16 steps each",
        "learning_rate: 0.001",
        "calibration: 32 sequences of 256 tokens",
        "some-package` 1.2.3, `c4.utf8`",
        "not meant for production",
        "neither smaller nor faster",
        "AutoModelForCausalLM.from_pretrained(folder)",
        *(record["sha256"], record["fingerprint"], record["identity"]["checkpoint_sha256"]),
    ):
        assert said in card.text, said
    (page,) = re.findall(r"\]\((\S+after_pruning.md)\)", card.text)
    folder = (ROOT / "results" / study.name / card_name(study, ADAPTED)).parent
    assert os.path.normpath(folder / page) == str(ROOT / "docs" / "guide" / "after_pruning.md")
    lora = make_study({"lora": {"method": "lora"}}, adaptations=["lora"])
    retrained = card_of(Cell.parse("tiny/wanda-u50/lora/seed0"), lora).text
    assert "the whole model at once, at most 16 steps" in retrained
    assert "filled their zeros" in retrained and "filled their zeros" not in card.text


def test_results_stand_beside_those_of_the_unadapted_and_the_dense_model():
    """Held-out text has the dense model's result from beside the pruned one."""
    own, unadapted, dense = row(card_of(ADAPTED), MEASURE)[1:]
    assert [own.split()[0], unadapted.split()[0], dense.split()[0]] == ["39.0", "46.0", "20.50"]
    assert row(card_of(PRUNED), MEASURE)[1] == unadapted
    assert row(card_of(DENSE), MEASURE) == [MEASURE, dense]
    study = make_study(adaptations=["recon_block"])
    records = make_records(study, {str(ADAPTED): None})
    found = {"perplexity": 48.0, "perplexity_standard_error": 4.9}
    beside = {"perplexity": 24.6, "perplexity_standard_error": 3.1}
    records[ADAPTED]["metrics"]["drift"] = {**found, "windows": 4, "length": 256, "dense": beside}
    card = card_of(ADAPTED, study, records)
    assert row(card, MEASURE)[1:3] == ["not finite", "-"], "nothing was run without adaptation"
    held_out = "perplexity on held-out `calibration-text`, 4 windows of 256 tokens"
    assert row(card, held_out) == [held_out, "48.0 ± 4.9", "-", "24.6 ± 3.1"]


@pytest.mark.parametrize(
    ("licence", "name"),
    [("Apache-2.0", "apache-2.0"), ("a licence of ours", "other"), (None, None)],
)
def test_the_licence_in_the_words_of_the_hub(licence, name):
    entry = make_study().as_json()["models"]["tiny"] | ({"licence": licence} if licence else {})
    card = card_of(ADAPTED, with_entries(models__tiny=entry))
    assert card.data.license == name
    assert card.data.get("license_name") == (licence if name == "other" else None)
    assert f"`tiny`: {licence or 'licence not stated'}." in card.text
    assert row(card, "evaluation")[3] == "licence not stated"


def test_the_hub_is_told_of_its_models_and_texts_and_nobody_of_places_on_a_machine(tmp_path):
    place = tmp_path / "mine.txt"
    place.write_text("a text")
    study = with_entries(
        models__tiny=HUB,
        texts__calibration_text={**HUB, "member": "x.jsonl", "format": "jsonl"},
        texts__evaluation_text={"source": "path", "path": str(place), "format": "plain"},
    )
    card = card_of(ADAPTED, study)
    assert (card.data.base_model, card.data.datasets) == (HUB["repository"], [HUB["repository"]])
    assert row(card, "evaluation")[2] == "local, `mine.txt`"
    assert str(tmp_path) not in str(card)


def test_a_licence_or_a_path_puts_nothing_into_the_page(tmp_path):
    place = tmp_path / "a`b\n| <b>c.txt"
    place.write_text("a text")
    evil = "mine\n\n# Trust me | <script>alert(1)</script>"
    text = {"source": "path", "path": str(place), "format": "plain", "licence": evil}
    model = make_study().as_json()["models"]["tiny"] | {"licence": evil}
    study = with_entries(models__tiny=model, texts__evaluation_text=text)
    records = make_records(study, PERPLEXITIES)
    said = (
        card_of(ADAPTED, study, records).text,
        summary_text(summary_sections(Results(study, records, tmp_path))),
    )
    for page in said:
        outside = re.sub(r"`[^`\n]*`", "", page)
        assert "<script" not in outside and "<b>" not in outside
        assert not any(line.startswith("# Trust") for line in page.splitlines())
