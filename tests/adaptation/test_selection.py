"""The choice among candidates."""

from pathlib import Path

import pytest

from freelunch.adaptation.selection import Candidate, choose_candidate
from freelunch.core.artifact import Artifact
from freelunch.model.checkpoint import block_shard
from freelunch.study.adaptations import Training
from freelunch.study.search import candidates_of
from refusals import refused
from tiny_models import BLOCKS, SEED, Prepared, prepare, reconstruct, reconstruction

RATES = [0.001, 0.003, 0.01]
SEARCH = reconstruction(learning_rate=RATES, epochs=[1])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapted(llama: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Artifact]]:
    """Each candidate, by two jobs."""
    base = tmp_path_factory.mktemp("adapted")
    windows = [range(index, index + 1) for index in range(BLOCKS)]
    return {
        name: [
            reconstruct(llama, base / f"{name}-{part}", share, **settings.as_json())
            for part, share in enumerate((windows[:1], windows[1:]))
        ]
        for name, settings in candidates_of("recon", SEARCH).items()
    }


def candidates(
    adapted: dict[str, list[Artifact]],
    losses: list[float | None],
    search: Training = SEARCH,
) -> list[Candidate]:
    return [
        Candidate(
            name,
            candidates_of("recon", search)[name],
            parts,
            {"loss": loss, "perplexity": loss, "perplexity_standard_error": 1.0},
        )
        for (name, parts), loss in zip(adapted.items(), losses, strict=True)
    ]


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 2.0, 2.5], 1), ([None, 9.0, None], 1), ([2.0, 2.0, 2.0], 0)],
    ids=["the lowest", "the only finite one", "the first of equals"],
)
def test_the_best_is_linked(
    adapted: dict[str, list[Artifact]], tmp_path: Path, losses: list[float | None], best: int
) -> None:
    given = candidates(adapted, losses)
    made = choose_candidate(given, SEARCH, SEED, tmp_path / "chosen", "test")
    assert sorted(made.files) == [block_shard(index) for index in range(BLOCKS)]
    for part in given[best].parts:
        for shard, entry in part.files.items():
            assert made.path(shard).stat().st_ino == part.path(shard).stat().st_ino
            assert made.files[shard]["windows"] == entry["windows"]
    choice = made.facts["choice"]
    assert choice["chosen"] == given[best].name and choice["selected_on"] == "calibration"
    rates = [found["learning_rate"] for found in choice["candidates"].values()]
    assert rates == RATES
    assert made.facts["settings"] == {"adaptation": SEARCH.as_json(), "seed": SEED}


def test_what_is_no_choice(adapted: dict[str, list[Artifact]], tmp_path: Path) -> None:
    given = candidates(adapted, [None, None, None])
    with refused(where="chosen", found=f"{given[2].name}: loss None", todo="learning rates"):
        choose_candidate(given, SEARCH, SEED, tmp_path / "chosen", "test")
    other = reconstruction(learning_rate=RATES, epochs=[1], warmup=0.5)
    with refused(found="'warmup': 0.3", expected="'warmup': 0.5", todo="reconstruct_window"):
        choose_candidate(candidates(adapted, [1.0] * 3, other), other, SEED, tmp_path / "c", "test")


def test_one_that_diverged_is_not_chosen(
    llama: Prepared, adapted: dict[str, list[Artifact]], tmp_path: Path
) -> None:
    """Its windows are as they were pruned, and may well be the best."""
    search = reconstruction(learning_rate=[0.001, 1e30], epochs=[1])
    (lower, moderate), (diverging, wild) = candidates_of("recon", search).items()
    parts = [reconstruct(llama, tmp_path / "wild", stop_at_divergence=False, **wild.as_json())]
    metrics = {"perplexity": 2.0, "perplexity_standard_error": 1.0}
    given = [
        Candidate(lower, moderate, adapted[lower], {"loss": 3.0, **metrics}),
        Candidate(diverging, wild, parts, {"loss": 2.0, **metrics}),
    ]
    choice = choose_candidate(given, search, SEED, tmp_path / "chosen", "test").facts["choice"]
    assert choice["chosen"] == lower
    diverged = {name: found["windows_diverged"] for name, found in choice["candidates"].items()}
    assert diverged == {lower: 0, diverging: BLOCKS}
    only = reconstruction(learning_rate=[1e30], epochs=[1])
    with refused(found=f"{BLOCKS} windows diverged"):
        choose_candidate(given[1:], only, SEED, tmp_path / "none", "test")
