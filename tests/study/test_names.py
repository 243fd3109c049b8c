"""Names in a config become names of folders and files: what they may be."""

import pytest

from configs import changed, config, refusal
from freelunch.study.study import Study


def renamed(name: str) -> dict[str, object]:
    """Return a config whose study has a name."""
    return changed({"study.name": name})


@pytest.mark.parametrize(
    "name",
    [
        "tests\n",
        "tests ",
        "../tests",
        "a/b",
        "",
        ".",
        "-tests",
        "tests\0",
        "Tests",
        "tésts",
        "a..b",
    ],
)
def test_a_name_ends_where_it_ends(name: str) -> None:
    assert "study.name" in refusal(renamed(name))


def test_a_name_has_a_length() -> None:
    Study.check(renamed("x" * 50), "config.yaml")
    assert "expected at most 50 characters" in refusal(renamed("x" * 51))
    long = changed({"criteria": {**config()["criteria"], "x" * 51: {"score": "wanda"}}})
    assert "expected at most 50 characters" in refusal(long)


@pytest.mark.parametrize("name", ["con", "nul", "aux.1", "com1", "lpt9"])
def test_a_name_that_some_systems_reserve(name: str) -> None:
    assert "some systems reserve this one" in refusal(renamed(name))


@pytest.mark.parametrize("repository", ["../x", "a/..", "a/b/c", "-a/b", "a/b\n", "a b/c"])
def test_a_repository_is_owner_and_name(repository: str) -> None:
    hub = {"source": "hub", "repository": repository, "revision": "0" * 40}
    assert "models.hub.repository" in refusal(
        changed({"models": {**config()["models"], "hub": hub}})
    )


@pytest.mark.parametrize(
    "member", ["/etc/passwd", "a/../../b", "a\\b", "a\0b", "a\nb", "", "x" * 501]
)
def test_a_member_is_a_path_inside(member: str) -> None:
    wheel = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64}
    entry = {**wheel, "member": member, "format": "plain"}
    assert "texts.speeches.member" in refusal(changed({"texts.speeches": entry}))
