"""Model cards: what they say is what records say, and a damaged one is found."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from damage import DAMAGES
from freelunch.audit.cards import card_texts
from freelunch.audit.output_checks import made_from_records
from freelunch.audit.output_files import audit_files, card_name, seal_audit
from freelunch.audit.texts import audit_texts
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.records.made import Made, problem_of
from freelunch.records.read import load_records
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study, write_records

DENSE, PRUNED, ADAPTED = (
    Cell.parse(f"tiny/{name}/seed0")
    for name in ("dense/none", "wanda-u50/none", "wanda-u50/recon_block")
)
HUB = {"source": "hub", "repository": "someone/something", "revision": "b" * 40}


def with_model(**model: Any) -> Study:
    config = make_study().as_json()
    config["models"]["tiny"] |= model
    return Study.check(config, "made-up.yaml")


def card_of(
    cell: Cell, study: Study | None = None, records: dict[Cell, dict[str, Any]] | None = None
) -> ModelCard:
    study = study or make_study()
    records = records or make_records(study, PERPLEXITIES)
    return ModelCard(card_texts(study, records)[card_name(study, cell)])


def row(card: ModelCard, start: str) -> list[str]:
    """Return the fields of the only row of a table that starts like this."""
    (line,) = (line for line in card.text.splitlines() if line.startswith(f"| {start}"))
    return [field.strip() for field in line.strip("| ").split("|")]


def test_a_card_says_what_the_record_says() -> None:
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    card, record = card_of(ADAPTED, study, records), records[ADAPTED]
    (result,) = card.data.eval_results
    assert result.metric_value == record["metrics"]["perplexity"]["perplexity"]
    assert (result.metric_type, result.dataset_name) == ("perplexity", "evaluation-text")
    assert card.data.model_name == str(ADAPTED)
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


def test_a_retraining_that_fills_the_zeros_says_so() -> None:
    study = make_study({"lora": {"method": "lora"}}, adaptations=["lora"])
    text = card_of(Cell.parse("tiny/wanda-u50/lora/seed0"), study).text
    assert "the whole model at once, at most 16 steps" in text
    assert "filled their zeros" in text and "filled their zeros" not in card_of(ADAPTED).text


def test_results_stand_beside_those_of_the_unadapted_and_the_dense_model() -> None:
    measure = "perplexity on `evaluation-text`, 32 windows of 512 tokens"
    own, unadapted, dense = row(card_of(ADAPTED), measure)[1:]
    assert [own.split()[0], unadapted.split()[0], dense.split()[0]] == ["39.0", "46.0", "20.50"]
    assert row(card_of(PRUNED), measure)[1] == unadapted
    assert row(card_of(DENSE), measure) == [measure, dense]


def test_what_was_not_run_is_not_told() -> None:
    study = make_study(adaptations=["recon_block"])
    records = make_records(study, PERPLEXITIES)
    assert row(card_of(ADAPTED, study, records), "perplexity")[2] == "-"


def test_held_out_text_has_the_dense_models_result_from_beside_the_pruned_one() -> None:
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    found = {"perplexity": 48.0, "perplexity_standard_error": 4.9}
    beside = {"perplexity": 24.6, "perplexity_standard_error": 3.1}
    records[ADAPTED]["metrics"]["drift"] = {**found, "windows": 4, "length": 256, "dense": beside}
    assert row(card_of(ADAPTED, study, records), "perplexity on held-out") == [
        "perplexity on held-out `calibration-text`, 4 windows of 256 tokens",
        "48.0 ± 4.9",
        "-",
        "24.6 ± 3.1",
    ]


def test_a_perplexity_that_is_not_finite_is_no_result_of_the_hub() -> None:
    study = make_study()
    card = card_of(ADAPTED, study, make_records(study, {str(ADAPTED): None}))
    assert row(card, "perplexity")[1] == "not finite"
    assert card.data.eval_results is None


@pytest.mark.parametrize(
    ("licence", "name", "other"),
    [("Apache-2.0", "apache-2.0", None), ("a licence of ours", "other", "a licence of ours")],
)
def test_the_licence_in_the_words_of_the_hub(licence: str, name: str, other: str | None) -> None:
    data = card_of(ADAPTED, with_model(licence=licence)).data
    assert (data.license, data.get("license_name")) == (name, other)
    assert f"`tiny`: {licence}." in card_of(ADAPTED, with_model(licence=licence)).text


def test_a_model_without_a_licence() -> None:
    card = card_of(ADAPTED)
    assert card.data.license is None
    assert "`tiny`: licence not stated." in card.text
    assert row(card, "evaluation")[3] == "licence not stated"


def test_a_model_of_the_hub_is_the_base_model() -> None:
    config = make_study().as_json()
    config["models"]["tiny"] = HUB
    config["texts"]["calibration-text"] = {**HUB, "member": "x.jsonl", "format": "jsonl"}
    data = card_of(ADAPTED, Study.check(config, "made-up.yaml")).data
    assert (data.base_model, data.datasets) == ("someone/something", ["someone/something"])


def test_no_place_on_a_machine_is_told(tmp_path: Path) -> None:
    place = tmp_path / "mine.txt"
    place.write_text("a text")
    config = make_study().as_json()
    config["texts"]["evaluation-text"] = {"source": "path", "path": str(place), "format": "plain"}
    card = card_of(ADAPTED, Study.check(config, "made-up.yaml"))
    assert row(card, "evaluation")[2] == "local, `mine.txt`"
    assert str(tmp_path) not in str(card)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the audit of the made-up study is on disk."""
    folder = tmp_path_factory.mktemp("study")
    with contextlib.chdir(folder):
        study = make_study()
        write_records(study, make_records(study, PERPLEXITIES))
        for name in audit_files(study):
            write_atomically(study.paths.root / name, "made by another step")
        for name, text in audit_texts(study, load_records(study)).items():
            write_atomically(study.paths.root / name, text)
        seal_audit(study)
    return folder


@pytest.fixture
def audit(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.chdir(finished)
    *_, made = made_from_records(make_study())
    return made


CARD = Path("results/made-up/checkpoints") / str(ADAPTED) / "README.md"


def test_a_damaged_card_is_found(audit: Made) -> None:
    content = CARD.read_bytes()
    for damage in DAMAGES.values():
        damage(CARD)
        problem = problem_of(audit, anew=False)
        assert problem is not None and str(CARD) in str(problem)
        assert str(problem).endswith("(made by audit_study)")
        CARD.write_bytes(content)
    assert problem_of(audit, anew=True) is None


def test_a_card_is_compared_with_the_record(audit: Made) -> None:
    """Also if its digest is right."""
    content = CARD.read_text()
    CARD.write_text(content.replace("39.0", "29.0"))
    seal_audit(make_study())
    problem = problem_of(audit, anew=True)
    CARD.write_text(content)
    seal_audit(make_study())
    assert problem is not None and str(problem).startswith(f"{CARD}: this file differs")


def test_there_is_no_card_of_an_altered_record(audit: Made) -> None:
    record = make_study().paths.record(ADAPTED)
    content = record.read_text()
    record.write_text(content.replace("38.9", "28.9", 1))
    with pytest.raises(UserError, match="a record is damaged or was altered"):
        audit.check(True)
    record.write_text(content)
