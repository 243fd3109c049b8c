"""What all tests share."""

import torch
import transformers
from hypothesis import settings

# Tiny tensors are fastest on one thread, and other jobs share the machine.
torch.set_num_threads(1)
# And so no example may be judged by how long it takes.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
# The report of every tensor that a model without blocks does not load is of no use here.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
