"""What a run does beside its jobs."""

import sys
from threading import Event

import pytest

from freelunch.cli.run import EarlyFindings


@pytest.fixture
def follow(tmp_path):
    """Return a function that starts a thread on the records of two findings, the second of which is
    from an earlier run, and gives the lists of what it told and of how often its command ran.
    """
    threads, looks = [], tmp_path / "looks"
    records = [tmp_path / "one.json", tmp_path / "two.json", tmp_path / "three.json"]
    records[1].write_text("old")

    def start(status=0):
        script = (
            f"import sys; open({str(looks)!r}, 'a').write('x'); print('found'); "
            f"print('broken', file=sys.stderr); sys.exit({status})"
        )
        told, has_told = [], Event()

        def tell(text):
            told.append(text)
            has_told.set()

        findings, command = [records[:2], [], records[2:]], [sys.executable, "-c", script]
        threads.append(EarlyFindings(findings, command, tell, look_s=0.05))
        threads[0].start()
        return threads[0], records, told, has_told, looks

    yield start
    for thread in threads:
        thread.end()


@pytest.mark.parametrize(("status", "text"), [(0, "found"), (1, "broken")])
def test_each_finding_is_told_once_and_the_page_is_kept_up_to_date(follow, status, text):
    thread, records, told, has_told, looks = follow(status)
    records[0].write_text("new")
    assert not has_told.wait(0.5), "the other record is from an earlier run"
    records[1].unlink()
    records[1].write_text("new")
    assert has_told.wait(60)
    has_told.clear()
    assert not has_told.wait(0.5) and looks.read_text() == "x", "the second lacks its record"
    records[2].write_text("new")
    assert has_told.wait(60)
    first = len(looks.read_text())
    for _ in range(600):
        if len(looks.read_text()) > first + 1:
            break
        Event().wait(0.1)
    assert len(looks.read_text()) > first + 1 and told == [text, text]
    thread.end()
    ended = looks.read_text()
    Event().wait(0.3)
    assert looks.read_text() == ended and not thread.is_alive()


def test_a_run_that_ends_before_its_first_finding_tells_nothing(follow):
    thread, _, told, _, looks = follow()
    thread.end()
    assert not thread.is_alive() and told == [] and not looks.exists()
