"""Adaptations of made-up studies, for tests of what measures ask of them."""

from pathlib import Path
from typing import Any

NOWHERE = Path("nowhere")
# A window of one matrix has no norms, so no window trains them.
BLOCK: dict[str, Any] = {"method": "reconstruction", "train_norms": False}
ON_TEST: dict[str, Any] = {"learning_rate": [0.001, 0.01], "select_on": "evaluation"}
ENTRIES: dict[str, dict[str, Any]] = {
    "recon_halves": {**BLOCK, "window": "attention_mlp"},
    "recon_all": {**BLOCK, "window": "all"},
    "recon_all_cosine": {**BLOCK, "window": "all", "loss": "negative_cosine"},
    "recon_all_again": {**BLOCK, "window": "all", "samples": 4, "epochs": 8},
    "recon_matrix": {**BLOCK, "window": "matrix"},
    "recon_exact": {"method": "least_squares"},
    "full_half": {"method": "full", "budget": {"times": 0.5, "of": "recon_block"}},
    "full": {"method": "full", "budget": {"times": 1, "of": "recon_block"}},
    "full_3": {"method": "full", "budget": {"times": 3, "of": "recon_block"}},
    "full_20": {"method": "full", "budget": {"times": 20, "of": "recon_block"}},
    "norms_half": {"method": "norms", "budget": {"times": 0.5, "of": "recon_block"}},
    "norms_20": {"method": "norms", "budget": {"times": 20, "of": "recon_block"}},
    "distilled": {"method": "full", "loss": "distillation"},
    "full_fast": {"method": "full", "learning_rate": 0.01},
    "recon_fast": {**BLOCK, "learning_rate": 0.01},
    "recon_on_test": {**BLOCK, **ON_TEST},
    "on_test_half": {"method": "full", **ON_TEST, "budget": {"times": 0.5, "of": "recon_block"}},
    "on_test_20": {"method": "full", **ON_TEST, "budget": {"times": 20, "of": "recon_block"}},
    "halves_on_test": {**BLOCK, **ON_TEST, "window": "attention_mlp"},
}
