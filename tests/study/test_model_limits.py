"""Models that are refused: as soon as a study names one, and in words that say why."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from configs import ARCHITECTURE, checked
from freelunch.costs.checks import checked_plan
from freelunch.study.families import FAMILIES
from freelunch.study.model_limits import check_supported
from refusals import refused
from tiny_models import FAMILIES as TINY
from tiny_models import tiny_config

KINDS = {
    "a mixture of experts": "mixtral qwen2_moe qwen3_moe olmoe deepseek_v2 deepseek_v3 gpt_oss "
    "jamba granitemoe phimoe dbrx llama4_text qwen3_next minimax glm4_moe",
    "a state-space or other recurrent model": "mamba mamba2 falcon_mamba rwkv bamba zamba2 "
    "falcon_h1 recurrent_gemma lfm2",
    "an encoder-decoder or encoder": "t5 bart",
    "a model whose blocks hold their matrices outside of linear layers": "gpt2 openai-gpt",
}
KIND_OF = {family: kind for kind, families in KINDS.items() for family in families.split()}


@pytest.mark.parametrize("model_type", KIND_OF)
def test_by_the_name_alone_and_by_the_config(model_type: str) -> None:
    for config in ({"model_type": model_type}, AutoConfig.for_model(model_type).to_dict()):
        with refused(where="models.one", found=f"model_type = {model_type}") as caught:
            check_supported(config, "models.one")
        assert KIND_OF[model_type] in caught.value.problem


@pytest.mark.parametrize(
    "config",
    [
        {"num_experts": 8},
        {"num_local_experts": 8},
        {"n_routed_experts": 64},
        {"ffn_config": {"moe_num_experts": 16}},
        {"text_config": {"num_experts": 2}},
        {"model_type": "llama", "num_local_experts": 4},
        {"model_type": "new", "mamba_d_state": 4},
        {"model_type": "new", "ssm_in_multiplier": 4},
        {"model_type": "new", "linear_conv_kernel_dim": 4},
    ],
    ids=str,
)
def test_a_family_that_has_no_name_here(config: dict[str, Any]) -> None:
    with refused(expected=", ".join(FAMILIES)):
        check_supported(config, "models.one")


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        None,
        {"num_experts": 1},
        {"num_local_experts": 0},
        {"num_experts": None},
        {"model_type": "doge", "is_moe": False, "num_experts": 16384},
        {"model_type": "stablelm"},
        *(tiny_config(family).to_dict() for family in TINY),
    ],
    ids=lambda config: str(config)[:40],
)
def test_dense_models_pass(config: Any) -> None:
    check_supported(config, "models.one")


def test_every_family_in_the_table_is_tested() -> None:
    assert set(TINY) == set(FAMILIES)


def test_the_plan_refuses_what_the_study_announces() -> None:
    study = checked({"models.one.architecture": {**ARCHITECTURE, "model_type": "mixtral"}})
    with refused(where="models.one", found="model_type = mixtral"):
        checked_plan(study)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "opt"])
def test_the_plan_refuses_quirks_that_a_model_cannot_have(tmp_path: Path, model_type: str) -> None:
    """No dropout in its config, or no halves between which the residual stream is lost."""
    config = {**ARCHITECTURE, "model_type": model_type, "attention_dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lost = {"window": "matrix", "train_norms": False, "targets": "behind_sparse"}
    study = checked(
        {
            "models.one": {"source": "path", "path": str(tmp_path), "dtype": "float32"},
            "adaptations.drops": {"method": "reconstruction", "model_dropout": True},
            "adaptations.lost": {"method": "reconstruction", "lost_residual": True, **lost},
            "study.grids.0.criteria": ["magnitude"],
            "study.grids.0.adaptations": ["drops", "lost"],
        }
    )
    if model_type == "opt":
        assert checked_plan(study).shapes["one"].dropout == 0.1
        return
    with refused() as caught:
        checked_plan(study)
    assert f"adaptations.drops: {model_type}: " in str(caught.value)
    assert ("adaptations.lost: " in str(caught.value)) == (model_type == "gpt_neox")
