"""Retraining against a plain loop over transformers' own model, and what it may never change."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.adaptation.retraining import trainee, training_run
from freelunch.core.errors import UserError
from freelunch.costs.retraining_costs import PlannedRetraining
from freelunch.costs.shapes import Shapes
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import OUTER
from freelunch.model.mask_store import load_pruned_block
from freelunch.study.cell import derive_seed
from freelunch.study.methods import LOW_RANK, METHODS
from freelunch.study.retraining import Retraining, read_adaptation
from operations import Counter
from tiny_models import BLOCKS, LENGTH, OTHERS, RANK, SEED, SEQUENCES, Prepared


def masks_of(prepared: Prepared) -> list[dict[str, Tensor]]:
    masks = prepared.masks
    return [load_pruned_block(prepared.model, masks, index)[1] for index in range(BLOCKS)]


def linears_of(model: nn.Module, prepared: Prepared) -> list[tuple[nn.Linear, Tensor]]:
    """Return the linear layers of a model's blocks with their masks."""
    blocks = model.get_submodule(prepared.model.sharding.path)
    return [
        (linear, masks[name])
        for block, masks in zip(blocks, masks_of(prepared), strict=True)
        for name, linear in block_linears(block).items()
    ]


def plain_retraining(
    prepared: Prepared, folder: Path, settings: Retraining, teacher: nn.Module | None = None
) -> nn.Module:
    """Train what transformers loads with its own loss; mask weights anew after each step."""
    model = tiny.assembled(prepared, None, folder)
    model.requires_grad_(False)
    masked = linears_of(model, prepared)
    parameters = []
    for linear, _ in masked:
        parameters.append(linear.weight)
    norms = ("norm",)
    for name, parameter in model.named_parameters():
        is_bias = name.endswith("bias") and not any(part in name for part in norms)
        if is_bias or any(part in name for part in norms):
            parameters.append(parameter)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.0)
    input_ids = tiny.random_tokens(SEQUENCES)
    steps = settings.passes * math.ceil(SEQUENCES / settings.batch)
    warm = int(settings.warmup * steps)
    generator = torch.Generator().manual_seed(derive_seed(SEED, "retraining"))
    step = 0
    for _ in range(settings.passes):
        order = torch.randperm(SEQUENCES, generator=generator).tolist()
        for start in range(0, SEQUENCES, settings.batch):
            rows = input_ids[order[start : start + settings.batch]]
            share = (step + 1) / warm if step < warm else (steps - step) / (steps - warm)
            optimiser.param_groups[0]["lr"] = settings.rate * share
            step += 1
            if teacher is None:
                loss = model(input_ids=rows, labels=rows).loss
            else:
                with torch.no_grad():
                    wanted = teacher(input_ids=rows).logits.softmax(-1)
                found = model(input_ids=rows).logits.softmax(-1)
                loss = (wanted * (wanted / found).log()).sum(-1).mean()
            optimiser.zero_grad()
            loss.backward()
            # Gradients of pruned weights are no part of the norm that is clipped.
            for linear, keep in masked:
                linear.weight.grad *= keep
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimiser.step()
            with torch.no_grad():
                for linear, keep in masked:
                    linear.weight *= keep
    return model


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("loss", ["next_token", "distillation"])
def test_full_retraining_is_that_of_a_plain_loop(
    prepared: Prepared, tmp_path: Path, loss: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of few places at a time make the same loss; the last place alone predicts nothing."""
    most = 4 * 2 * prepared.model.config.vocab_size * (LENGTH - 1)
    monkeypatch.setattr(trainee, "HEAD_BYTES", most)
    cross_entropy = nn.functional.cross_entropy

    def watched(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert kwargs["reduction"] == "mean" or 4 * logits.numel() <= most
        return cross_entropy(logits, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "cross_entropy", watched)
    given = tiny.retraining_entry(
        "full", epochs=2, warmup=0.4, learning_rate=0.01, loss=loss, clip=0.5
    )
    teacher = None
    if loss == "distillation":
        teacher = AutoModelForCausalLM.from_pretrained(prepared.model.folder).eval()
    expected = plain_retraining(prepared, tmp_path / "plain", read_adaptation(given), teacher)
    adapted = tiny.retrain(prepared, tmp_path / "adapted", streamed=streamed, **given)
    found = tiny.assembled(prepared, adapted, tmp_path / "checkpoint")
    input_ids = tiny.random_tokens(SEQUENCES)
    torch.testing.assert_close(
        found(input_ids=input_ids).logits,
        expected(input_ids=input_ids).logits,
        rtol=2e-3,
        atol=2e-3,
    )
    start = tiny.assembled(prepared, None, tmp_path / "start")(input_ids=input_ids).logits
    assert not torch.allclose(found(input_ids=input_ids).logits, start, rtol=0.1, atol=0.1)
    assert (
        tiny.retrained_facts(adapted)["loss_after"] < tiny.retrained_facts(adapted)["loss_before"]
    )


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", ["full", "masklora", "lora_prune"])
def test_without_masks_the_dense_model_itself_is_trained(
    llama: Prepared, tmp_path: Path, method: str, streamed: bool
) -> None:
    entry, unmasked = tiny.retraining_entry(method), replace(llama, masks=None)
    adapted = tiny.retrain(unmasked, tmp_path / "adapted", streamed=streamed, **entry)
    dense = AutoModelForCausalLM.from_pretrained(llama.model.folder).eval()
    input_ids = tiny.random_tokens(SEQUENCES)
    loss = dense(input_ids=input_ids, labels=input_ids).loss
    facts = tiny.retrained_facts(adapted)
    assert facts["loss_after"] < facts["loss_before"] == pytest.approx(loss.item(), rel=1e-5)
    for name in adapted.files:
        assert all(value.all() for value in load_file(adapted.path(name)).values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["u50", "2of4", "s50"])
def test_every_method_keeps_the_mask_through_training_and_merge(
    method: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged checkpoint is what was trained: exact zeros, and the adapter model's logits."""
    prepared = tiny.prepare(tmp_path, "opt", sequences=SEQUENCES, pattern=pattern)
    input_ids = tiny.random_tokens(SEQUENCES)
    logits: list[Tensor] = []
    merge_ = training_run.Trainee.merge_

    def noting(trainee: training_run.Trainee) -> None:
        def note(found: Tensor, *_: Any) -> Tensor:
            logits.append(found)
            return found.sum()

        trainee.losses(input_ids, [torch.arange(SEQUENCES)], note)
        merge_(trainee)
        trainee.losses(input_ids, [torch.arange(SEQUENCES)], note)

    monkeypatch.setattr(training_run.Trainee, "merge_", noting)
    adapted = tiny.retrain(
        prepared, tmp_path / "adapted", **tiny.retraining_entry(method, epochs=3)
    )
    model = tiny.assembled(prepared, adapted, tmp_path / "assembled")
    for linear, keep in linears_of(model, prepared):
        assert torch.equal(linear.weight == 0, ~keep) == (method != "lora")
    assert (
        tiny.retrained_facts(adapted)["loss_after"] < tiny.retrained_facts(adapted)["loss_before"]
    )
    found = model(input_ids=input_ids).logits
    trained, merged = logits
    torch.testing.assert_close(found, merged, rtol=1e-4, atol=1e-4)
    # What LoRA-prune trains is not what it merges: the adapter is pruned.
    assert torch.allclose(merged, trained, rtol=1e-4, atol=1e-4) == (method != "lora_prune")


COUNTED: list[dict[str, Any]] = [
    {},
    {"epochs": 3},
    {"batch": 4, "micro_batch": 3},
    {"batch": 4, "micro_batch": 1, "epochs": 2},
    {"gradient_checkpointing": True},
    {"loss": "distillation"},
    {"train_norms": False},
    {"train_norms": False, "gradient_checkpointing": True},
    {"train_head": True},
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("changes", "streamed"),
    [
        *((changes, False) for changes in COUNTED),
        # A streamed block runs again with or without gradient_checkpointing.
        *((each, True) for each in COUNTED if "gradient_checkpointing" not in each),
    ],
)
def test_operations_are_those_that_torch_counts(
    prepare_once: Callable[..., Prepared],
    method: str,
    changes: dict[str, Any],
    streamed: bool,
    tmp_path: Path,
) -> None:
    """One documented formula, to the last operation."""
    no_matrix = method in ("biases", "norms", "biases_norms")
    if no_matrix and changes.keys() & {"train_head", "train_norms"}:
        pytest.skip("no matrix is trained")
    prepared = prepare_once(
        "opt",
        sequences=SEQUENCES,
        length=48,
        hidden_size=64,
        ffn_dim=256,
        word_embed_proj_dim=64,
        tie_word_embeddings=False,
    )
    settings = tiny.retraining_entry(method, **changes)
    with Counter() as counter:
        tiny.retrain(prepared, tmp_path / "adapted", streamed=streamed, **settings)
    shapes = Shapes.of(prepared.model.config.to_dict(), "float32")
    predicted = (
        PlannedRetraining(shapes, SEQUENCES, 48, read_adaptation(settings), streamed).work().total()
    )
    assert predicted == counter.operations


def test_what_is_outside_the_blocks_is_written_where_it_is_trained(
    llama: Prepared, tmp_path: Path
) -> None:
    """The final norm with the norms, the head if asked for; else nothing."""
    dense = load_file(llama.model.folder / OUTER)

    def changed(**settings: Any) -> set[str]:
        name = "-".join(map(str, settings.values()))
        adapted = tiny.retrain(llama, tmp_path / name, **settings)
        if OUTER not in adapted.files:
            return set()
        found = load_file(adapted.path(OUTER))
        assert found.keys() == dense.keys()
        return {name for name in dense if not torch.equal(found[name], dense[name])}

    assert changed(method="full", train_norms=False) == set()
    assert changed(method="norms") == {"model.norm.weight"}
    assert changed(method="full", train_norms=False, train_head=True) == {"lm_head.weight"}
    assert changed(method="lora", rank=RANK, train_head=True) == {
        "lm_head.weight",
        "model.norm.weight",
    }


def test_a_head_that_is_the_embedding_is_trained_as_one(tmp_path: Path) -> None:
    prepared = tiny.prepare(tmp_path, "llama", sequences=SEQUENCES, tie_word_embeddings=True)
    adapted = tiny.retrain(
        prepared, tmp_path / "adapted", "full", train_norms=False, train_head=True
    )
    model = tiny.assembled(prepared, adapted, tmp_path / "assembled")
    dense = load_file(prepared.model.folder / OUTER)["model.embed_tokens.weight"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, dense)
    for method in LOW_RANK:
        with pytest.raises(UserError, match="embedding"):
            tiny.retrain(prepared, tmp_path / method, method, rank=RANK, train_head=True)


@pytest.mark.parametrize(
    ("tied", "method", "head"),
    [
        (False, "full", {"train_head": True}),
        (True, "full", {"train_head": True}),
        (False, "lora", {"train_head": True}),
        (True, "masklora", {}),
    ],
)
def test_the_dense_model_does_not_move_along(
    tied: bool, method: str, head: dict[str, Any], tmp_path: Path
) -> None:
    """It shares its outer part with the one in training, and a distillation learns from it."""
    prepared = tiny.prepare(tmp_path / "m", "llama", sequences=SEQUENCES, tie_word_embeddings=tied)
    outer = prepared.model.outer.module
    before = {name: value.clone() for name, value in outer.named_parameters()}
    settings = tiny.retraining_entry(method, loss="distillation", **head)
    adapted = tiny.retrain(prepared, tmp_path / "adapted", **settings)
    assert OUTER in adapted.files
    for name, value in outer.named_parameters():
        assert torch.equal(value, before[name]), name


def test_micro_batches_and_checkpointing_change_memory_only(
    prepared: Prepared, tmp_path: Path
) -> None:
    # By SGD: Adam makes steps of rounding errors where a gradient is 0 (the bias of OPT's keys).
    base = tiny.retraining_entry("masklora", batch=4, optimiser="sgd", learning_rate=0.1)
    expected = tiny.retrain(prepared, tmp_path / "plain", **base)
    for name, changes in {
        "micro": {"micro_batch": 1},
        # Parts of unequal size.
        "parts": {"micro_batch": 3},
        "checkpointing": {"gradient_checkpointing": True},
    }.items():
        found = tiny.retrain(prepared, tmp_path / name, **base, **changes)
        for index in range(BLOCKS):
            for key, value in tiny.weights(expected, index).items():
                torch.testing.assert_close(
                    tiny.weights(found, index)[key], value, rtol=1e-4, atol=1e-5
                )


PRECISIONS: list[dict[str, Any]] = [
    {"method": "full", "precision": "float32"},
    {"method": "lora", "rank": RANK, "precision": "float32"},
    {"method": "full", "train_head": True, "train_norms": False},
    {"method": "masklora", "rank": RANK, "gradient_checkpointing": True},
    {"method": "norms", "loss": "distillation"},
]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, settings) for settings in PRECISIONS for family in ("opt", "gemma2", "phi3")),
        *((family, PRECISIONS[at % len(PRECISIONS)]) for at, family in enumerate(OTHERS)),
    ],
    ids=str,
)
def test_precisions_of_families(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Each mixes what is stored, what is trained and what is passed in its own way."""
    prepared = tiny.prepare(tmp_path, family, dtype="bfloat16", sequences=SEQUENCES)
    adapted = tiny.retrain(prepared, tmp_path / "adapted", epochs=2, **settings)
    assert (
        tiny.retrained_facts(adapted)["loss_after"] < tiny.retrained_facts(adapted)["loss_before"]
    )
    tensors = [load_file(adapted.path(name)) for name in adapted.files]
    assert {value.dtype for each in tensors for value in each.values()} == {torch.bfloat16}
    model = tiny.assembled(prepared, adapted, tmp_path / "assembled")
    for linear, keep in linears_of(model, prepared):
        assert torch.equal(linear.weight == 0, ~keep) == (settings["method"] != "lora")
