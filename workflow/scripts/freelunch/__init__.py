"""The library behind the workflow: pruning, local reconstruction, evaluation, records, audit."""

import os

# Progress bars of libraries would run into the one line a job says now and then. tqdm reads this
# when it is first imported, so it is set before anything else.
os.environ.setdefault("TQDM_DISABLE", "1")
