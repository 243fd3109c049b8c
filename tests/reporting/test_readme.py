"""A page's table follows the summary it was made from."""

from pathlib import Path

import pytest

from freelunch.core.errors import UserError
from freelunch.reporting.readme import main, with_block

PAGE = """# Title

<!-- summary: laptop -->
old laptop table
<!-- end -->

between

<!-- summary: full -->
old full table
<!-- end -->

after
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(PAGE)
    return path


@pytest.fixture
def summary(tmp_path: Path) -> Path:
    path = tmp_path / "results" / "full" / "tables" / "summary.md"
    path.parent.mkdir(parents=True)
    path.write_text("| model |\n|---|\n| tiny \\1 ± |\n", encoding="utf-8")
    return path


def test_only_the_block_of_the_study_changes(page: Path, summary: Path) -> None:
    assert main([str(page), str(summary)]) == 0
    table = summary.read_text(encoding="utf-8").strip()
    assert page.read_text(encoding="utf-8") == PAGE.replace("old full table", table)


def test_check_changes_nothing_and_says_what_to_run(
    page: Path, summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", str(page), str(summary)]) == 1
    assert page.read_text() == PAGE
    error = capsys.readouterr().err
    assert "not in step" in error
    assert f"python -m freelunch.reporting.readme {page} {summary}" in error


def test_check_passes_once_in_step(page: Path, summary: Path) -> None:
    main([str(page), str(summary)])
    modified = page.stat().st_mtime_ns
    assert main(["--check", str(page), str(summary)]) == 0
    assert main([str(page), str(summary)]) == 0
    assert page.stat().st_mtime_ns == modified


def test_an_empty_block_is_filled() -> None:
    page = "<!-- summary: full -->\n<!-- end -->\n"
    expected = "<!-- summary: full -->\ntable\n<!-- end -->\n"
    assert with_block(page, "table\n", "summary: full", "page") == expected


@pytest.mark.parametrize(
    "page",
    [
        "nothing here\n",
        "<!-- summary: full -->\nno end\n",
        "<!-- summary: full -->\nno end\n<!-- summary: laptop -->\n<!-- end -->\n",
        "<!-- summary: full -->\n<!-- end -->\n" * 2,
    ],
    ids=["no block", "no end", "end of another block", "two blocks"],
)
def test_a_page_without_exactly_one_block_is_refused(page: str) -> None:
    with pytest.raises(UserError, match="exactly one place"):
        with_block(page, "table", "summary: full", "page")


def test_missing_summary_is_named(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "results" / "full" / "tables" / "summary.md"
    assert main([str(page), str(missing)]) == 1
    assert str(missing) in capsys.readouterr().err
    assert page.read_text() == PAGE
