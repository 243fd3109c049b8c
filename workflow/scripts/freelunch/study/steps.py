"""Names that the rules share with the library: rules, kinds of artifacts, measurements, files; and
the batch sizes that computing uses and planning predicts costs from.
"""

from typing import Final

# Rules, in the order of the data.
FETCH_MODEL = "fetch_model"
FETCH_TEXT = "fetch_text"
FETCH_TEXT_FILES = "fetch_text_files"
MIX_TEXT = "mix_text"
FETCH_TASKS = "fetch_tasks"
DECIDE_BOS = "decide_bos"
SAMPLE_CALIBRATION = "sample_calibration"
SAMPLE_HELD_OUT = "sample_held_out"
EXTEND_CALIBRATION = "extend_calibration"
CUT_WINDOWS = "cut_windows"
CAPTURE_DENSE = "capture_dense"
PRUNE_MODEL = "prune_model"
FIND_RATE = "find_rate"
RECONSTRUCT_WINDOW = "reconstruct_window"
RETRAIN_MODEL = "retrain_model"
CHOOSE_CANDIDATE = "choose_candidate"
EVALUATE_CELL = "evaluate_cell"
COLLECT_RECORDS = "collect_records"
BUILD_TABLES = "build_tables"
DRAW_FIGURE = "draw_figure"
AUDIT_STUDY = "audit_study"
RULES = (
    *(FETCH_MODEL, FETCH_TEXT, FETCH_TEXT_FILES, MIX_TEXT, FETCH_TASKS, DECIDE_BOS),
    *(SAMPLE_CALIBRATION, SAMPLE_HELD_OUT, EXTEND_CALIBRATION, CUT_WINDOWS, CAPTURE_DENSE),
    *(PRUNE_MODEL, FIND_RATE, RECONSTRUCT_WINDOW, RETRAIN_MODEL, CHOOSE_CANDIDATE, EVALUATE_CELL),
    *(COLLECT_RECORDS, BUILD_TABLES, DRAW_FIGURE, AUDIT_STUDY),
)
# Not a rule: a record lists the cost of choosing among candidates under this name.
SEARCH = "search"

# Kinds of artifacts, as their manifests name them.
CHECKPOINT = "checkpoint"
TEXT = "text"
READY_TOKENS = "tokens"
TASK = "task"
BOS = "beginning of sequences"
CALIBRATION = "calibration"
TEXT_WINDOWS = "text windows"
DENSE_ACTIVATIONS = "dense activations"
HIDDEN_STATES = "hidden states"
MASKS = "masks"
LEARNING_RATE = "learning rate"
ADAPTED_BLOCKS = "adapted blocks"
METRICS = "metrics"

# What is measured on a cell; `freelunch.evaluation` has a module for each.
IDENTITY = "identity"
PERPLEXITY: Final = "perplexity"
HELD_OUT = "held_out"
DRIFT: Final = "drift"
TASKS: Final = "tasks"

# How the evaluation text is cut into windows: each within a document, or all documents joined.
WITHIN: Final = "documents"
JOINED: Final = "joined"

# Files.
DOCUMENTS = "documents.jsonl"
ANSWERS = "answers.json.gz"
# Beside the shards of a checkpoint; not made by the step that assembles it.
MODEL_CARD = "README.md"


# Tokens in a batch of a forward pass: enough to keep the matrix multiplications busy, few enough
# that an MLP's activations stay small beside its weights.
BATCH_TOKENS = 2048
# Tokens whose logits are computed at a time: with a large vocabulary each token takes a megabyte.
HEAD_PLACES = 256
# Bytes of logits, float32, that training computes at a time: so many that the logits of two short
# sequences and a usual vocabulary stay whole, since parts of a sum round differently.
HEAD_BYTES = 2**28
# Sequences on which a step checks itself (the dense model's perplexity, a window's loss before and
# after reconstruction): a quarter of the default sample, so a check costs little.
CHECK_SEQUENCES = 8
# Windows of calibration text, and their length at most, on which the dense model is measured with
# and without its beginning-of-sequence token, whose effect is largest on the tokens next to it.
BOS_WINDOWS, BOS_LENGTH = 16, 128
# Seconds between two saved states of a retraining.
SAVE_S = 300.0


def metrics_file(measured: str) -> str:
    """Return the name of a measurement's file, e.g. `perplexity.json`."""
    return f"{measured}.json"
