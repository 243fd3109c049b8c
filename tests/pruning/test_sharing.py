"""Masks that jobs of a run choose together: the same masks, whoever chooses them."""

import fcntl
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from freelunch.core.artifact import fingerprint
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.core.job_cost import Spent
from freelunch.core.lock import lock_if_free, remove_lock
from freelunch.model.mask_store import masks_file
from freelunch.pruning import sharing
from freelunch.pruning.prune import prune_model, prune_together
from freelunch.pruning.sharing import Pruning, shared
from freelunch.study.criteria import read_criterion
from freelunch.study.patterns import Pattern
from freelunch.study.steps import MASKS
from interrupts import contents, interrupted, stop_at
from tiny_models import Prepared, dense_states, prepare

SWEEP = [
    ({"score": score, **more}, pattern)
    for score, more in (
        ("random", {}),
        ("magnitude", {}),
        ("wanda", {}),
        ("ria", {"swaps": 2}),
        ("sparsegpt", {}),
    )
    for pattern in ("u50", "2of4")
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


def pruning(prepared: Prepared, folder: Path, settings: dict[str, Any], pattern: str) -> Pruning:
    own = folder / "model" / f"{'_'.join(map(str, settings.values()))}-{pattern}" / "seed0"
    return Pruning.of(settings, pattern, 0, own, "code", prepared.model.artifact, prepared.dense)


def sweep(prepared: Prepared, folder: Path) -> list[Pruning]:
    return [pruning(prepared, folder, *each) for each in SWEEP]


def files(each: Pruning) -> dict[str, bytes]:
    """Return the masks, new weights and manifest of a folder."""
    found = contents(each.folder)
    return {name: found[name] for name in found if name.endswith((".safetensors", "manifest.json"))}


@pytest.fixture(scope="module")
def alone(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The files of masks that are each chosen alone."""
    made = sweep(prepared, tmp_path_factory.mktemp("alone"))
    with dense_states(prepared.model, prepared.dense) as states:
        for each in made:
            prune_model(prepared.model, prepared.dense, each, states)
    return [files(each) for each in made]


def test_masks_that_are_chosen_together_are_those_chosen_alone(
    prepared: Prepared, tmp_path: Path, alone: list[dict[str, bytes]]
) -> None:
    together = sweep(prepared, tmp_path)
    spent = prune_together(prepared.model, prepared.dense, together)
    assert spent.wall_s > 0
    own = Spent()
    for each, expected in zip(together, alone, strict=True):
        assert each.is_left and not each.is_finished
        made = each.finish_left(prepared.dense)
        assert made is not None and made.spent.attempts == 0
        assert each.is_finished and not each.is_left
        assert files(each) == expected
        own += made.spent
    assert own.wall_s == pytest.approx(spent.wall_s) and own.cpu_s == pytest.approx(spent.cpu_s)


def test_a_pass_that_is_interrupted_goes_on_where_it_stopped(
    prepared: Prepared, tmp_path: Path, alone: list[dict[str, bytes]]
) -> None:
    together = sweep(prepared, tmp_path)
    stopped = interrupted(
        lambda: prune_together(prepared.model, prepared.dense, together, stop_at(2))
    )
    assert stopped is None
    written = {each.folder: (each.folder / masks_file(0)).stat().st_mtime_ns for each in together}
    assert not any(each.is_left for each in together)
    prune_together(prepared.model, prepared.dense, together)
    for each, expected in zip(together, alone, strict=True):
        assert (each.folder / masks_file(0)).stat().st_mtime_ns == written[each.folder]
        made = each.finish_left(prepared.dense)
        assert made is not None and made.spent.attempts == 1
        assert files(each) == expected


def test_masks_that_cannot_be_chosen_are_left_to_their_own_job(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The pattern does not divide a matrix; a share rounds to no weight; another job is right."""
    wrong = pruning(prepared, tmp_path, {"score": "wanda"}, "1of3")
    nothing = pruning(prepared, tmp_path, {"score": "wanda"}, "u01")
    right = pruning(prepared, tmp_path, {"score": "wanda"}, "u50")
    with caplog.at_level(logging.INFO):
        prune_together(prepared.model, prepared.dense, [wrong, nothing, right])
    assert [each.is_left for each in (wrong, nothing, right)] == [False, False, True]
    assert f"{wrong.folder} is left to its own job" in caplog.text
    assert f"{nothing.folder} is left to its own job" in caplog.text
    with dense_states(prepared.model, prepared.dense) as states:
        for each, said in ((wrong, "does not divide"), (nothing, "prunes no weight")):
            with pytest.raises(UserError, match=said):
                prune_model(prepared.model, prepared.dense, each, states)
    prune_together(prepared.model, prepared.dense, [nothing])
    assert not nothing.is_left


def test_groups_are_those_of_the_run_with_the_own_one_first(
    prepared: Prepared, tmp_path: Path
) -> None:
    mine = pruning(prepared, tmp_path, {"score": "wanda"}, "u50")
    model, dense = prepared.model.artifact, prepared.dense
    assert mine.groups("", model, dense) == []
    wanda = read_criterion({"score": "wanda"}).as_json()
    ria = read_criterion({"score": "ria"}).as_json()
    own = Pruning.of(wanda, "u50", 0, tmp_path / "wanda-u50" / "seed0", "w", model, dense)
    told = json.dumps(
        {
            "criteria": {"wanda": [wanda, "w"], "ria": [ria, "r"]},
            "groups": [["ria-u50", "ria-2of4"], ["wanda-u50", "ria-u60"]],
        }
    )
    first, second = own.groups(told, model, dense)
    assert first[0] == own and first[1].folder == tmp_path / "ria-u60" / "seed0"
    assert [each.pattern.name for each in second] == ["u50", "2of4"]
    assert second[1].fingerprint == fingerprint(
        "r", {"criterion": ria, "pattern": "2of4", "seed": 0}, model, dense
    )


class Jobs:
    """Jobs that share, without a model: masks are one small file."""

    def __init__(self, folder: Path) -> None:
        self.chosen: list[list[str]] = []
        self.all = {
            name: Pruning(
                read_criterion({"score": "wanda"}),
                Pattern.parse("u50"),
                0,
                folder / name / "seed0",
                name,
            )
            for name in ("a-u50", "b-u50", "c-u50", "d-u50")
        }
        a, b, c, d = self.all.values()
        self.groups = [[a, b], [c, d]]

    def choose(self, prunings: Sequence[Pruning]) -> Spent:
        self.chosen.append([each.fingerprint for each in prunings])
        for each in prunings:
            writer = ArtifactWriter(each.folder, MASKS, each.fingerprint)
            writer.add_text("masks", each.fingerprint)
            writer.leave()
        return Spent(wall_s=1.0 * len(prunings))

    def share(self, name: str) -> Spent:
        mine = self.all[name]
        own_first = sorted(self.groups, key=lambda group: mine not in group)
        with shared(mine, own_first, self.choose) as spent:
            return spent


def test_the_first_job_of_a_group_chooses_for_all_of_it(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    assert jobs.share("b-u50").wall_s == 2.0
    assert jobs.chosen == [["a-u50", "b-u50"]]
    # What was spent is counted by whoever chose.
    assert jobs.share("a-u50") == Spent()
    assert jobs.share("c-u50").wall_s == 2.0
    assert jobs.chosen == [["a-u50", "b-u50"], ["c-u50", "d-u50"]]
    assert not list(tmp_path.glob(".*.lock"))


def test_what_is_left_or_finished_is_not_chosen_again(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    jobs.choose([jobs.all["a-u50"]])
    ArtifactWriter(jobs.all["a-u50"].folder, MASKS, "a-u50").finish()
    jobs.share("b-u50")
    assert jobs.chosen[1:] == [["b-u50"]]


def test_a_job_whose_group_is_taken_works_on_another(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    with held_elsewhere(jobs.groups[0]) as release:
        # The other job has chosen these when this one is done with the other group.
        def chosen_meanwhile(prunings: Sequence[Pruning]) -> Spent:
            spent = jobs.choose(prunings)
            jobs.choose(jobs.groups[0])
            release()
            return spent

        with shared(jobs.all["a-u50"], jobs.groups, chosen_meanwhile) as spent:
            pass
    assert jobs.chosen == [["c-u50", "d-u50"], ["a-u50", "b-u50"]]
    assert spent.wall_s == 2.0 and jobs.all["a-u50"].is_left


def test_a_group_that_cannot_be_chosen_is_free_again(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)

    def failing(prunings: Sequence[Pruning]) -> Spent:
        raise ZeroDivisionError

    mine = jobs.all["a-u50"]
    with (
        held_elsewhere(jobs.groups[0]),
        pytest.raises(ZeroDivisionError),
        shared(mine, jobs.groups, failing),
    ):
        pass
    assert is_free(jobs.groups[1])


def test_a_job_waits_for_its_group_if_no_other_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(tmp_path)
    jobs.groups = jobs.groups[:1]
    with held_elsewhere(jobs.groups[0]) as release, caplog.at_level(logging.INFO):
        threading.Timer(0.5, release).start()
        assert jobs.share("a-u50").wall_s == 2.0
    # The other job ended without these masks, so that this one chooses them.
    assert jobs.chosen == [["a-u50", "b-u50"]]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_nobody_tries_again_what_a_job_chooses_alone(tmp_path: Path) -> None:
    """Another job would take the manifest away that this one is about to write."""
    jobs = Jobs(tmp_path)
    mine, group = jobs.all["a-u50"], jobs.groups[0]
    with shared(mine, [group], lambda _: Spent()):
        assert not mine.is_left and not is_free(group)
    assert is_free(group)


def test_masks_are_left_or_finished_at_any_moment(tmp_path: Path) -> None:
    """Otherwise another job would choose them while their own job finishes them."""
    jobs = Jobs(tmp_path)
    jobs.choose([jobs.all["a-u50"]])
    mine = jobs.all["a-u50"]
    writer = ArtifactWriter(mine.folder, MASKS, "a-u50")
    assert mine.is_left
    seen = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(mine.is_left or mine.is_finished)
        found = replace(self, target)
        seen.append(mine.is_left or mine.is_finished)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", watched)
        writer.finish()
    assert len(seen) >= 4 and all(seen)
    assert mine.is_finished and not mine.is_left


def is_free(group: Sequence[Pruning]) -> bool:
    lock = lock_if_free(sharing._lock_file(group))
    if lock is not None:
        remove_lock(lock)
    return lock is not None


@contextmanager
def held_elsewhere(group: Sequence[Pruning]) -> Iterator[Callable[[], None]]:
    """Hold a group's lock as another process does, by a file of its own; give what ends it."""
    path = sharing._lock_file(group)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def release() -> None:
            path.unlink()
            file.close()

        yield release
