"""What published tables say of the claims: numbers computed here by hand from the tables' own."""

import math
from dataclasses import replace
from typing import Any

import pytest

from freelunch.audit.audit import json_of
from freelunch.audit.claims import Claim, load_claims
from freelunch.audit.published import Published, load_meaning, load_published
from freelunch.audit.published_claims import NO_NUMBERS, audit_published_claims
from freelunch.audit.verdicts import HOLDS, IN_PART, UNTESTED
from measures_for_tests import make_claim

# Shin et al., EMNLP 2024: perplexity of LLaMA-7B and OPT-125M at 50 %: only pruned, with one block
# and global propagation, and with two overlapping blocks.
DENSE_7B = 5.68
LARGE = {
    "magnitude": (17.29, 6.88, 6.98),
    "wanda": (7.25, 6.68, 6.79),
    "sparsegpt": (7.24, 6.72, 6.83),
}
SMALL = {
    "magnitude": (193.36, 35.56, 33.76),
    "wanda": (39.0, 31.18, 30.59),
    "sparsegpt": (36.35, 31.57, 30.86),
}


def asked(published: list[Published] | None = None) -> dict[str, dict[str, Any]]:
    found = audit_published_claims(load_claims(), published or load_published(), load_meaning())
    return {claim.id: json_of(claim) for claim in found}


@pytest.fixture(scope="module")
def claims() -> dict[str, dict[str, Any]]:
    return asked()


def values(part: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a part by their subject."""
    return {it["subject"]: it["value"] for it in part["findings"] if it["value"] is not None}


def gap(table: dict[str, tuple[float, ...]], at: int, one: str, *others: str) -> float:
    """Return how much larger the loss of a criterion is than the mean loss of others."""
    rest = sum(math.log(table[it][at]) for it in others) / len(others)
    return math.log(table[one][at]) - rest


def left(table: dict[str, tuple[float, ...]], one: str, *others: str) -> float:
    return gap(table, 1, one, *others) / gap(table, 0, one, *others)


def test_the_gap_to_magnitude_shrinks_and_more_so_in_the_larger_model(
    claims: dict[str, dict[str, Any]],
) -> None:
    """In perplexity it falls from 10 to 0.2 at 7B."""
    to_magnitude, _, by_size, _ = claims["C3"]["parts"]
    large, small = (left(it, "magnitude", "wanda", "sparsegpt") for it in (LARGE, SMALL))
    pair = "recon_block_sparse: Magnitude vs. Wanda/SparseGPT"
    assert values(to_magnitude) == pytest.approx(
        {f"llama-1-7b, u50, {pair}": large, f"opt-125m, u50, {pair}": small}
    )
    assert large == pytest.approx(0.0305, abs=5e-5) and small == pytest.approx(0.0765, abs=5e-5)
    assert to_magnitude["verdict"] == HOLDS
    (difference,) = values(by_size).values()
    assert difference == pytest.approx(large - small) and by_size["verdict"] == HOLDS
    assert by_size["findings"][0]["subject"].startswith(
        "u50: llama-1-7b, u50, recon_block_sparse m"
    )


def test_a_claim_names_the_models_and_the_numbers_that_it_comes_from(
    claims: dict[str, dict[str, Any]],
) -> None:
    finding, *of_others = claims["C3b"]["parts"][0]["findings"]
    assert finding["verdict"] == HOLDS and finding["text"] == "-0.04"
    assert claims["C3b"]["scope"].startswith("llama-1-7b, llama-3.1-8b-base, llama-3.2-3b-base, ")
    assert "arXiv 2406.15524 and OPTIMA" in claims["C3b"]["scope"]
    # OPTIMA (arXiv 2512.13886): three of four such models at 50 %, and none at 60 %.
    near = {it["subject"].split(", ")[0] for it in of_others if it["verdict"] == HOLDS}
    assert {"llama-3.1-8b-base", "qwen2.5-7b-base", "qwen2.5-14b-base"} == near
    assert not any(", u60" in it["subject"] and it["verdict"] == HOLDS for it in of_others)
    numbers = [(it["criterion"], it["value"]) for it in finding["numbers"]]
    assert numbers == [("wanda", 6.68), ("sparsegpt", 6.72)]


def test_reconstruction_recovers_but_no_table_compares_it_with_retraining(
    claims: dict[str, dict[str, Any]],
) -> None:
    recovery, accuracy = claims["C1"]["parts"]
    (tokens,) = claims["C1b"]["parts"]
    recovered = {
        f"llama-1-7b, {name}, u50, recon_block_sparse": math.log(before / after)
        / math.log(before / DENSE_7B)
        for name, (before, after, _) in LARGE.items()
    }
    assert values(recovery) == pytest.approx(recovered)
    # The table has no perplexity of the dense OPT-125M.
    assert [it["verdict"] for it in recovery["findings"]] == [HOLDS] * 3 + [UNTESTED] * 3
    shin = [value for it, value in values(accuracy).items() if it.endswith("recon_block_sparse")]
    assert sorted(shin) == pytest.approx([-0.0055, -0.0042, 0.0016, 0.0055, 0.0198, 0.0772])
    assert accuracy["verdict"] == IN_PART
    assert (tokens["verdict"], tokens["reason"]) == (UNTESTED, NO_NUMBERS)
    assert claims["C1b"]["verdict"] == UNTESTED


def test_no_interval_is_shown_or_used(claims: dict[str, dict[str, Any]]) -> None:
    findings = [
        it for claim in claims.values() for part in claim["parts"] for it in part["findings"]
    ]
    assert all("(95 %" not in (it["text"] or "") for it in findings)
    assert {it["reason"].partition(" is")[0] for it in findings if it["text"]} == {"the number"}


@pytest.mark.parametrize("changes", [{"source": "another"}, {"seqlen": 1024}])
def test_numbers_of_different_tables_are_never_compared(changes: dict[str, Any]) -> None:
    """Not even where each criterion has both of its numbers."""
    rows = [
        replace(row, **changes) if row.criterion == "magnitude" else row for row in load_published()
    ]
    to_magnitude = asked(rows)["C3"]["parts"][0]
    assert to_magnitude["verdict"] == UNTESTED
    assert all("there are no cells of" in it["reason"] for it in to_magnitude["findings"])


def test_tables_without_reconstruction_say_nothing() -> None:
    rows = [row for row in load_published() if not row.adaptation.startswith("recon")]
    for claim in asked(rows).values():
        assert (claim["verdict"], claim["scope"]) == (UNTESTED, None)
        assert not any(part["findings"] for part in claim["parts"])


def test_the_papers_own_rows_count_as_soon_as_they_are_there() -> None:
    """At 70B, which the claim about 72 billion parameters does not ask of tables."""
    one = next(row for row in load_published() if row.source == "wanda README")
    one = replace(one, source="the paper", model="llama-2-70b", pattern="u50")
    rows = [
        replace(one, criterion=criterion, adaptation=adaptation, value=value)
        for criterion, of in {"wanda": (3.98, 3.9), "sparsegpt": (3.98, 3.7)}.items()
        for adaptation, value in zip(("none", "recon_block"), of, strict=True)
    ]
    rows.append(replace(one, criterion="dense", pattern="none", adaptation="none", value=3.12))
    claim = asked([*load_published(), *rows])["C3b"]
    (finding,) = (it for it in claim["parts"][0]["findings"] if it["source"].startswith("the"))
    assert finding["value"] == pytest.approx(0.2) and claim["verdict"] == IN_PART
    assert claim["scope"].endswith(" and the paper, arXiv 2306.11695")


def test_gaps_shrink_in_tables_of_models_by_size_without_what_is_suspect() -> None:
    """OPTIMA's mean gaps in loss, as evidence.md has them: at u50, all 11 models (opt-125m has no
    u60), and at u60 ten.
    """
    rows = load_published()
    gaps: dict[str, list[tuple[float, float]]] = {"u50": [], "u60": []}
    kept = {row.cell: row.value for row in rows if row.source[:6] == "OPTIMA" and not row.tasks}
    for cell, value in kept.items():
        if cell.criterion == "wanda" and cell.adaptation == "none" and cell.pattern in gaps:
            exact = replace(cell, adaptation="recon_matrix_exact_sparse_local")
            others = [replace(it, criterion="sparsegpt") for it in (cell, exact)]
            pairs = zip((value, kept[exact]), (kept[it] for it in others), strict=True)
            before, after = (abs(math.log(one / other)) for one, other in pairs)
            gaps[cell.pattern].append((before, after))
    for pattern, models, means in (("u50", 11, (0.110, 0.036)), ("u60", 10, (0.447, 0.118))):
        assert len(gaps[pattern]) == models
        found = [sum(of) / models for of in zip(*gaps[pattern], strict=True)]
        assert found == pytest.approx(means, abs=5e-4)
    _, sophisticated, *_ = asked()["C3"]["parts"]
    subjects = {it["subject"] for it in sophisticated["findings"] if it["value"] is not None}
    assert any("qwen2.5-14b-base, u60" in subject for subject in subjects)
    # Its dense perplexity is out of line, and all of its numbers with it.
    assert not any("gemma-2-2b" in subject for subject in subjects)


def test_across_papers_each_number_stands_beside_its_own_papers_pruned_model() -> None:
    (part,) = asked()["C2b"]["parts"]
    found = values(part)
    (wanda,) = (value for subject, value in found.items() if "wanda" in subject)
    optima = {
        row.adaptation: row.value
        for row in load_published()
        if row.source[:6] == "OPTIMA" and (row.model, row.criterion) == ("opt-125m", "wanda")
        if row.pattern == "u50" and not row.tasks
    }
    gain = math.log(optima["none"] / optima["recon_matrix_exact_sparse_local"])
    assert wanda == pytest.approx(1 - gain / math.log(39.0 / 31.55)) and part["verdict"] == HOLDS
    assert len(found) == 2 and all(" and " in it["source"] for it in part["findings"])


@pytest.mark.parametrize(
    ("measure", "settings", "expected"),
    [
        ("window_difference", {"beside": 1, "windows": ["attention_mlp"]}, (5.02, 5.0)),
        ("halves_missed", {"windows": [1]}, (5.02, 5.0)),
        ("recovery", {"parameters": 70 * 10**9, "families": 1, "criteria": ["wanda"]}, None),
    ],
)
def test_measures_of_windows_and_of_size_take_a_table(
    measure: str, settings: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    """The paper's own tables are to be taken as data (`published_results.csv`)."""

    def row(adaptation: str, value: float, criterion: str = "wanda") -> Published:
        pattern = "u50" if criterion == "wanda" else "none"
        model, metric = "qwen2.5-72b", "wikitext2_perplexity"
        paper = ("Wagner et al.", "arXiv 2510.14444")
        settings = (model, criterion, pattern, adaptation, metric, 4096, value, "primary", "")
        return Published(*paper, *settings)

    rows = [row("none", 3.9, "dense"), row("none", 6.0), row("recon_block", 5.0)]
    rows.append(row("recon_attention_mlp", 5.02))
    claim = make_claim(measure, metric="perplexity", settings=settings)
    claim["in_tables"] = claim["parts"]
    (found,) = audit_published_claims([Claim.of(claim)], rows, load_meaning())
    (number,) = values(json_of(found)["parts"][0]).values()
    if expected is None:
        assert number == pytest.approx(math.log(6 / 5) / math.log(6 / 3.9))
    else:
        halves, block = map(math.log, expected)
        assert number == pytest.approx((halves - block) / (math.log(6) - block))
