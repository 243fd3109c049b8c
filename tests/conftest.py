"""What all tests share."""

import pytest
import torch
import transformers
from hypothesis import settings

from repository import ROOT

# Files whose tests take minutes, since they run studies or processes of their own; the longest
# first.
LONG = (
    "workflow/test_paper_tiny.py",
    "workflow/test_interruption.py",
    "workflow/test_workflow.py",
    "workflow/test_wide_study.py",
    "workflow/test_warm_python.py",
    "project/test_peak_memory.py",
    "workflow/",
    "project/test_retraining_memory.py",
    "adaptation/test_retraining.py",
    "model/test_devices.py",
)

# Tiny tensors are fastest on one thread, and other jobs share the machine.
torch.set_num_threads(1)
# And so no example may be judged by how long it takes.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
# The report of every tensor that a model without blocks does not load is of no use here.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one at the
    end.
    """

    def place(item: pytest.Item) -> int:
        found = (at for at, part in enumerate(LONG) if part in item.path.as_posix())
        return next(found, len(LONG))

    items.sort(key=place)


@pytest.fixture
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the repository: paths in a config are relative to it."""
    monkeypatch.chdir(ROOT)
