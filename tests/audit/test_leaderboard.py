"""Records in one table: ours, those of others, and those that belong in none."""

import json
import shutil
from pathlib import Path

import pytest

from freelunch.audit.leaderboard import ELSEWHERE, TABLES, read_folders, tables_text
from freelunch.core.digest import sealed
from freelunch.core.files import write_json
from refusals import refused
from repository import ROOT

DOCS = ROOT / "docs"
PRUNED, ADAPTED = (
    f"smollm2-135m__wanda-u50__{name}__seed0.json" for name in ("none", "recon_block")
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Return a folder with three records of ours."""
    records = tmp_path / "laptop" / "records"
    records.mkdir(parents=True)
    for name in ("smollm2-135m__dense__none__seed0.json", PRUNED, ADAPTED):
        for path in (DOCS / "laptop" / "records").glob(f"{name.removesuffix('.json')}.*"):
            shutil.copy(path, records)
    return tmp_path


def join(docs: Path, name: str, **changes: object) -> Path:
    """Put the record of a reconstruction of ours into the folder for those of others, changed."""
    record = json.loads((docs / "laptop" / "records" / ADAPTED).read_text())
    record |= {"cell": name.removesuffix(".json").replace("__", "/")}
    record["spec"]["cell"] = record["cell"]
    digests = record["provenance"]["digests"]
    for key, value in changes.items():
        (digests if key in digests else record["metrics"]["perplexity"])[key] = value
    del record["sha256"]
    path = docs / TABLES.parent / ELSEWHERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, sealed(record))
    return path


def rows(docs: Path) -> list[list[str]]:
    lines = [
        line for line in tables_text(read_folders(docs)).splitlines() if "unstructured" in line
    ]
    return [[each.strip() for each in line.split("|")] for line in lines]


def test_the_kept_tables_are_those_of_the_records() -> None:
    assert (DOCS / TABLES).read_text() == tables_text(read_folders(DOCS)), "run `make kept`"


def test_a_record_from_elsewhere_stands_among_ours_and_says_so(docs: Path) -> None:
    before = rows(docs)
    join(docs, "smollm2-135m__mine-u50__better__seed0.json")
    assert [row[-2] for row in before] == ["laptop", "laptop"]
    (row,) = [row for row in rows(docs) if row not in before]
    assert row[1:4] == ["mine", "50 % unstructured", "better"]
    # Its pruned model is not there to compare with.
    assert row[5] == "-" and row[-2] == "elsewhere, not ours"


@pytest.mark.parametrize("name", ["notes", "smollm2-135m__wanda-banana__mine__seed0"])
def test_a_file_that_is_no_record_is_refused(docs: Path, name: str) -> None:
    path = join(docs, "smollm2-135m__mine-u50__better__seed0.json").with_name(f"{name}.json")
    path.write_text("{}")
    with refused(where=path, expected="__seed0.json", todo="name"):
        read_folders(docs)


@pytest.mark.parametrize("found", [1.5, None])
def test_a_perplexity_that_its_windows_do_not_have_is_refused(
    docs: Path, found: float | None
) -> None:
    """Whoever seals a record again may have changed it."""
    path = join(docs, "smollm2-135m__mine-u50__better__seed0.json")
    record = json.loads(path.read_text())
    record["metrics"]["perplexity"]["perplexity"] = found
    del record["sha256"]
    write_json(path, sealed(record))
    with refused(where=path, found="1.5" if found else "nan"):
        read_folders(docs)


def test_a_model_of_another_name_is_the_same_model(docs: Path) -> None:
    join(docs, "mine__mine-u50__better__seed0.json")
    join(docs, "mine__mine-u50__none__seed0.json")
    assert [row[5] for row in rows(docs) if row[3] == "better"] == ["0 % (0 to 0)"]


def test_a_record_that_was_altered_is_refused(docs: Path) -> None:
    path = join(docs, "smollm2-135m__mine-u50__better__seed0.json")
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    with refused(where=path):
        read_folders(docs)


@pytest.mark.parametrize(
    ("key", "value"), [("model", "0" * 64), ("token_ids_sha256", "0" * 64), ("length", 128)]
)
def test_a_record_of_another_model_or_text_is_refused(docs: Path, key: str, value: object) -> None:
    path = join(docs, "smollm2-135m__mine-u50__better__seed0.json", **{key: value})
    with refused(where=path, found=str(value)[:12], todo="kept study"):
        read_folders(docs)
