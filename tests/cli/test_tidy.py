"""What `freelunch tidy` counts; `tests/workflow/test_windows_in_a_study.py` runs it."""

from pathlib import Path

from freelunch.cli.tidy import freed_bytes


def test_a_file_that_is_linked_elsewhere_gives_nothing_back(tmp_path: Path) -> None:
    """As those of the chosen candidate, which the cell shares."""
    one, two, kept = (tmp_path / name for name in ("one", "two", "kept"))
    for folder in (one, two, kept):
        folder.mkdir()
    (one / "alone").write_bytes(bytes(1))
    (one / "both").write_bytes(bytes(10))
    (two / "both").hardlink_to(one / "both")
    (one / "chosen").write_bytes(bytes(100))
    (kept / "chosen").hardlink_to(one / "chosen")
    assert freed_bytes([one]) == 1
    assert freed_bytes([one, two]) == 11
    assert freed_bytes([one, two, kept]) == 111
