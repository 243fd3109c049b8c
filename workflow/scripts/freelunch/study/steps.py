"""Names that the rules share with what plans, computes and records: rules, kinds, files."""

RECONSTRUCT_WINDOW = "reconstruct_window"
RETRAIN_MODEL = "retrain_model"
