"""What all tests share."""

import torch
import transformers

# Tiny tensors are fastest on one thread, and other jobs share the machine.
torch.set_num_threads(1)
# The report of every tensor that a model without blocks does not load is of no use here.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
