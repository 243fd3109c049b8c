"""Planned memory of retraining is within a fifth of what processes of their own need.

The models are wide; a model takes a few hundred megabytes. With short sequences, weights dominate.
"""

import sys
from pathlib import Path

import pytest
import torch
from transformers import OPTConfig

from freelunch.costs.retraining_costs import PlannedRetraining
from freelunch.costs.shapes import Shapes
from freelunch.study.retraining import read_adaptation
from random_models import llama, prune_by_wanda, run_step, write_model

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
SEQUENCES, LENGTH = 4, 16
SIZES = {"hidden_size": 1024, "num_hidden_layers": 6, "vocab_size": 8192}
CONFIGS = {
    "float32": lambda: llama(
        **SIZES, intermediate_size=2816, num_key_value_heads=4, attention_bias=True
    ),
    "bfloat16": lambda: OPTConfig(
        **SIZES, word_embed_proj_dim=1024, ffn_dim=4096, num_attention_heads=16
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, dtype = tmp_path_factory.mktemp(request.param), getattr(torch, request.param)
    config = CONFIGS[request.param]()
    write_model(folder, config, dtype, tokens=SEQUENCES * LENGTH, length=LENGTH)
    prune_by_wanda(folder)
    return folder


# Methods that train matrices themselves, by factors that multiply them and by branches beside them.
@pytest.mark.parametrize(
    ("method", "streamed"),
    [("full", True), ("masklora", True), ("lora", False)],
)
def test_it_is_what_the_plan_says(model: Path, method: str, streamed: bool) -> None:
    settings = read_adaptation({"method": method})
    shapes = Shapes.read(model / "checkpoint" / "config.json")
    planned = PlannedRetraining(shapes, SEQUENCES, LENGTH, settings, streamed).memory_bytes()
    measured = run_step(model, "retrain", settings, streamed=streamed)
    assert 0.8 <= planned / measured <= 1.2, f"planned {planned:,}, measured {measured:,} bytes"
