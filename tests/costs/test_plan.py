"""The plan: shapes against real parameters, jobs against the cells, operations against a count."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from configs import ARCHITECTURE, ASKED, checked, smoke
from freelunch.core.errors import UserError
from freelunch.costs.jobs import Job, evaluation, jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import duration, plan_brief, plan_text, short
from freelunch.costs.reconstruction_work import reconstruction_flops
from freelunch.costs.requests import request
from freelunch.costs.shapes import DTYPE_BYTES, Matrix, Shapes
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import meta_model
from freelunch.study.cell import Cell
from freelunch.study.families import FAMILIES as TABLE
from freelunch.study.families import family_of
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import BATCH_TOKENS, CHECK_SEQUENCES, EVALUATE_CELL, RETRAIN_MODEL
from freelunch.study.study import Study
from repository import ROOT
from tiny_models import BLOCKS, FAMILIES, LENGTH, save_tiny_model, tiny_config, tiny_model

MACHINE = Machine.of(1e12, 1e9, 1e8)


def assert_shapes_fit(shapes: Shapes, config: PreTrainedConfig) -> None:
    """Compare with the parameters of the model that transformers makes of a config."""
    model = meta_model(config)
    blocks = next(
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers
    )
    linears = block_linears(blocks[0]).values()
    assert shapes.block_weights == sum(linear.weight.numel() for linear in linears)
    family = family_of(config.model_type)
    for weights, width, names in zip(
        shapes.weights,
        shapes.inputs,
        (
            {family.query, family.key, family.value},
            {family.attention_output},
            set(family.mlp_inputs),
            {family.mlp_output},
        ),
        strict=True,
    ):
        fed = [blocks[0].get_submodule(name) for name in names]
        assert weights == sum(linear.weight.numel() for linear in fed)
        assert {linear.in_features for linear in fed} == {width}
    embeddings = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    assert shapes.outer_weights == sum(embeddings.values())
    assert shapes.blocks == config.num_hidden_layers
    assert shapes.hidden == config.hidden_size
    assert shapes.vocabulary == config.vocab_size
    # What is left out (norms, biases, OPT's positions) is small in any model but these tiny ones.
    total = sum(parameter.numel() for parameter in model.parameters())
    counted = shapes.blocks * shapes.block_weights + shapes.outer_weights
    assert 0.8 * total < counted <= total


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_parameters(family: str, tie: bool) -> None:
    config = tiny_config(family, tie_word_embeddings=tie)
    assert_shapes_fit(Shapes.of(config.to_dict(), "float32"), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_from_a_config_file_that_leaves_defaults_out(tmp_path: Path, family: str) -> None:
    """As files on the hub do: whether Gemma's and OPT's embeddings are tied is not said there."""
    source = save_tiny_model(tmp_path, family)
    written = json.loads((source / "config.json").read_text())
    written.pop("tie_word_embeddings", None)
    config = tiny_config(family)
    assert len(written) < len(config.to_dict()), "nothing was left out"
    assert_shapes_fit(Shapes.of(written, "float32"), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_named_as_in_the_model(family: str) -> None:
    model = tiny_model(family)
    shapes = Shapes.of(model.config.to_dict(), "float32")
    block = next(it for it in model.modules() if isinstance(it, nn.ModuleList))[0]
    found = {name: linear.weight.shape for name, linear in block_linears(block).items()}
    names = family_of(shapes.model_type).linears
    ours = zip(names, shapes.matrices, strict=True)
    assert {name: (matrix.outputs, matrix.inputs) for name, matrix in ours} == found


def test_outputs_of_a_block_are_counted_not_its_inputs() -> None:
    """In Phi-3-mini, queries, keys and values are one matrix, and so is what leads into the MLP."""
    phi = {
        "model_type": "phi3",
        "num_hidden_layers": 32,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "tie_word_embeddings": False,
    }
    shapes = Shapes.of(phi, "bfloat16")
    assert shapes.matrices == (
        Matrix(group=0, inputs=3072, outputs=9216),
        Matrix(group=1, inputs=3072, outputs=3072),
        Matrix(group=2, inputs=3072, outputs=16384),
        Matrix(group=3, inputs=8192, outputs=3072),
    )
    assert shapes.output_width == 9216 + 3072 + 16384 + 3072 == 31744


def test_full_size_models() -> None:
    """Sizes that are printed on the models' own cards, of linear layers and embeddings."""
    llama = {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    shapes = Shapes.of(llama, "bfloat16")
    assert shapes.model_bytes / 2 == pytest.approx(8.03e9, rel=1e-3)
    opt = {
        "model_type": "opt",
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "ffn_dim": 8192,
        "num_attention_heads": 32,
        "vocab_size": 50272,
    }
    shapes = Shapes.of(opt, "float16")
    assert shapes.model_bytes / 2 == pytest.approx(1.3158e9, rel=5e-3)
    assert shapes.bytes_each == DTYPE_BYTES["float16"] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_a_forward_pass(family: str) -> None:
    """Torch counts every product of the attention, we its lower half: what is needed."""
    changes: dict[str, Any] = {"attn_implementation": "eager"}
    model = tiny_model(family, **changes)
    shapes = Shapes.of(model.config.to_dict(), "float32")
    sequences = 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(sequences, LENGTH, dtype=torch.long), use_cache=False)
    tokens = sequences * LENGTH
    ours = shapes.forward_flops(tokens, LENGTH)
    linear = BLOCKS * 2 * tokens * shapes.block_weights
    attention = ours - linear
    head = shapes.head_flops(tokens)
    counted = {str(key): value for key, value in counter.get_flop_counts()["Global"].items()}
    # BLOOM adds its biases to the scores in one operation.
    products = counted.pop("aten.bmm") + counted.pop("aten.baddbmm", 0)
    assert sum(counted.values()) == linear + head
    least = attention * (1 if shapes.scores else 2)
    assert least <= products <= 1.5 * least


@pytest.mark.parametrize("family", FAMILIES)
def test_who_holds_scores_is_what_the_model_says(family: str) -> None:
    """No kernel of torch computes an attention that transformers calls eager."""
    held = TABLE[family].scores is not None
    assert (meta_model(tiny_config(family)).config._attn_implementation == "eager") == held


# With long sequences, scores are most of what a family that holds them keeps.
LONG = [(family, 1024) for family in FAMILIES if TABLE[family].scores]


@pytest.mark.parametrize(("family", "length"), [*((family, 64) for family in FAMILIES), *LONG])
def test_bytes_that_a_backward_pass_needs(family: str, length: int) -> None:
    """What autograd saves of a block, but for small things, such as a norm's one number a token."""
    wide = {"hidden_size": 256, "num_attention_heads": 4, "word_embed_proj_dim": 256}
    width = {"intermediate_size": 384, "ffn_dim": 384, "ffn_hidden_size": 384, "head_dim": 64}
    known = tiny_config(family).to_dict()
    changes = {key: value for key, value in (wide | width).items() if key in (*known, *wide)}
    model = tiny_model(family, **changes)
    block = next(it for it in model.modules() if isinstance(it, nn.ModuleList))[0]
    calls: list[tuple[Any, Any]] = []
    block.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    ((hidden, *more), named) = calls[0]
    # All blocks share one mask.
    given = [it for it in (*more, *named.values()) if isinstance(it, torch.Tensor)]
    own = {it.untyped_storage().data_ptr() for it in (*model.parameters(), *given)}
    saved: dict[int, int] = {}
    kept = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(hidden.clone().requires_grad_(True), *more, **named)
    predicted = Shapes.of(model.config.to_dict(), "float32").saved_bytes(length, length)
    # LayerNorm and ReLU save less than RMSNorm and SiLU; a cut of a fused output saves all of it,
    # and under the mask of a sliding window each query head has its own copy of the keys.
    most = 1.4 if family in ("opt", "bloom", "falcon") else 1.0
    least = 0.8 if family in ("phi3", "mistral", "gemma2", "gemma3_text") else 0.93
    assert least <= predicted / sum(saved.values()) <= most


def test_operations_of_a_reconstruction() -> None:
    shapes = Shapes.of(tiny_config("llama").to_dict(), "float32")
    settings = read_adaptation({"method": "reconstruction", "epochs": 3})
    samples = CHECK_SEQUENCES + 4
    found = reconstruction_flops(shapes, samples, LENGTH, settings, blocks=2)
    once = shapes.forward_flops(LENGTH, LENGTH, blocks=2)
    # A backward pass costs two forward passes; the loss is looked at before and after.
    assert found == once * (3 * 3 * samples + 2 * CHECK_SEQUENCES)


def test_defaults_of_a_family_are_the_plans() -> None:
    """Qwen3's smallest model has heads of 128, which its hidden size does not tell."""
    sizes = {
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    qwen = Shapes.of({**sizes, "model_type": "qwen3"}, "bfloat16")
    assert qwen.model_bytes / 2 == pytest.approx(0.596e9, rel=1e-3)
    assert Shapes.of(sizes, "bfloat16").head == 64


def test_sizes_under_other_names() -> None:
    """As the hub's own config.json of BLOOM-560m and of Falcon-7B and Falcon-40B names them."""
    bloom = {
        "model_type": "bloom",
        "n_embed": 1024,
        "n_layer": 24,
        "num_attention_heads": 16,
        "vocab_size": 250880,
    }
    found = Shapes.of(bloom, "float16")
    assert found.model_bytes / 2 == pytest.approx(0.559e9, rel=1e-3)
    falcon = {
        "model_type": "falcon",
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "vocab_size": 65024,
        "multi_query": True,
        "new_decoder_architecture": False,
    }
    seven = Shapes.of(falcon, "bfloat16")
    assert (seven.key_heads, seven.head) == (1, 64)
    assert seven.model_bytes / 2 == pytest.approx(6.92e9, rel=1e-3)
    larger = {
        "hidden_size": 8192,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
        "num_kv_heads": 8,
        "new_decoder_architecture": True,
    }
    forty = Shapes.of({**falcon, **larger}, "bfloat16")
    assert forty.model_bytes / 2 == pytest.approx(41.3e9, rel=5e-3)


def test_a_gguf_file_of_ones_own_is_planned_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.touch()
    model = {"source": "path", "path": str(path), "architecture": dict(ARCHITECTURE)}
    plan = Plan.of(checked({"models.one": model}))
    assert plan.shapes["one"].bytes_each == 4
    (tmp_path / "other.gguf").touch()
    folder = {**model, "path": str(tmp_path)}
    with pytest.raises(UserError, match="the folder holds several GGUF files"):
        Plan.of(checked({"models.one": folder}))


# --- Of a study


def test_jobs_are_those_of_the_cells() -> None:
    jobs = [rule for rule, *_ in jobs_of(smoke())]
    counts = {rule: jobs.count(rule) for rule in sorted(set(jobs))}
    assert counts == {
        "capture_dense": 1,
        "evaluate_cell": 5,
        "fetch_model": 1,
        "prune_model": 2,
        "reconstruct_window": 2,
    }


def test_tidying_leaves_the_blocks_of_one_candidate() -> None:
    study = Study.load(Path("studies/paper_tiny.yaml"))
    cells = [cell for cell in study.cells if cell.adaptation == "full_rates"]
    count = len(study.candidate_names("full_rates"))
    assert cells and count > 1
    for tidied, adapted, evaluated in (([], count, count + 1), (cells, 1, 1)):
        jobs = jobs_of(study, tidied)
        rules = Counter(job.rule for job in jobs if job.adaptation.startswith("full_rates"))
        expected = {RETRAIN_MODEL: adapted, EVALUATE_CELL: evaluated}
        assert rules == {rule: number * len(cells) for rule, number in expected.items()}
    said = plan_text(Plan.of(study), MACHINE)
    assert "`make tidy STUDY=studies/paper_tiny.yaml` removes the candidates" in said


def test_a_study_without_a_search_has_nothing_to_tidy() -> None:
    assert jobs_of(smoke(), smoke().cells) == jobs_of(smoke())
    assert "make tidy" not in plan_text(Plan.of(smoke()), MACHINE)


def test_every_job_has_a_cost() -> None:
    plan = Plan.of(smoke())
    for job in jobs_of(plan.study):
        cost = plan.step(*job)
        assert cost is not None
        assert cost.memory_bytes > 0 and cost.flops >= 0 and cost.disk_bytes >= 0
    with pytest.raises(ValueError, match="no cost is known"):
        plan.step("draw_figure", "tiny")


def test_more_work_costs_more() -> None:
    small = Plan.of(smoke())
    plan = Plan.of(
        smoke(
            {
                "study.calibration.samples": 16,
                "adaptations.recon_block.epochs": 2,
                "study.evaluation.perplexity.windows": 32,
            }
        )
    )
    for job, factor in (
        (("capture_dense", "tiny"), 2),
        (("evaluate_cell", "tiny"), 2),
        # Three forwards an epoch, and eight sequences that are checked before and after.
        (("reconstruct_window", "tiny", "wanda", "recon_block"), (3 * 2 * 16 + 16) / (3 * 8 + 16)),
    ):
        one, two = small.step(*job), plan.step(*job)
        assert one is not None and two is not None
        assert two.flops == pytest.approx(factor * one.flops)


def test_what_a_criterion_does_is_in_its_cost() -> None:
    criteria = {
        "swapped": {"score": "wanda", "swaps": 5},
        "sparse": {"score": "wanda", "statistics": "sparse"},
        "obs": {"score": "sparsegpt"},
    }
    plan = Plan.of(smoke({f"criteria.{name}": entry for name, entry in criteria.items()}))
    names = ("wanda", "swapped", "sparse", "obs")
    costs = {name: plan.step("prune_model", "tiny", name) for name in names}
    assert costs["wanda"].flops == 0
    shapes = plan.shapes["tiny"]
    pairs = list(zip(shapes.inputs, shapes.weights, strict=True))
    grams = sum(2 * width**3 // 3 for width, _ in pairs)
    assert costs["obs"].flops == shapes.blocks * (grams + sum(c * w for c, w in pairs))
    assert costs["swapped"].flops == shapes.blocks * sum((4 * c + 600) * w for c, w in pairs)
    passed = plan.step("capture_dense", "tiny").flops
    # A forward pass more than the dense pass.
    assert passed < costs["sparse"].flops <= 2 * passed
    for name in names[1:]:
        assert costs[name].memory_bytes > costs["wanda"].memory_bytes
    assert costs["obs"].disk_bytes > costs["swapped"].disk_bytes == costs["wanda"].disk_bytes


def test_drift_passes_the_dense_model_once_or_with_each_cell() -> None:
    """What all cells are measured against stays on disk if hidden states do."""
    drift = {"study.evaluation.drift": {"samples": 4}}
    kept = Plan.of(smoke(drift))
    remade = Plan.of(smoke({**drift, "study.keep_hidden_states": "none"}))
    shapes, tokens = kept.shapes["tiny"], 4 * 32
    jobs = [job for job in jobs_of(kept.study) if job.rule == "capture_reference"]
    assert len(jobs) == 1
    disk = [plan.step(*jobs[0]).disk_bytes for plan in (kept, remade)]
    widths = shapes.output_width + shapes.hidden
    assert disk == [tokens * 4 * (shapes.hidden + shapes.blocks * widths), 0]
    cell = Cell.parse("tiny/wanda-u50/recon_block/seed0")
    one, other = (plan.step(*evaluation(cell)) for plan in (kept, remade))
    assert other.flops - one.flops == shapes.forward_flops(tokens, 32)
    # A second model and its next block are in memory, or outputs that are read ahead.
    model = shapes.outer_bytes + 2 * shapes.block_bytes
    outputs = BATCH_TOKENS * 4 * shapes.output_width
    assert other.memory_bytes - one.memory_bytes == model - outputs


def test_an_evaluation_takes_what_its_measurements_take() -> None:
    plan = Plan.of(smoke())
    cell, candidate = (Cell("tiny", "wanda", "u50", name, 0) for name in ("none", "recon_block"))
    written, linked = (plan.step(*evaluation(each)) for each in (cell, candidate))
    assert written.flops == linked.flops > 0
    assert written.disk_bytes > linked.disk_bytes == 0


def test_the_text_of_a_plan() -> None:
    text = plan_text(Plan.of(smoke()), MACHINE)
    assert "The study `smoke`" in text and "5 cells" in text
    assert "tiny/wanda-u50/recon_block/seed0" in text
    for rule in ("fetch_model", "capture_dense", "reconstruct_window", "total"):
        assert any(line.split()[:1] == [rule] for line in text.splitlines()), rule


def test_the_plan_of_a_tiny_model_is_in_small_units() -> None:
    """In TFLOP and GB, it would be a table of zeros."""
    plan = Plan.of(smoke())
    text = plan_text(plan, MACHINE)
    head, *_ = (line for line in text.splitlines() if line.startswith("  step "))
    total, *_ = (line for line in text.splitlines() if line.startswith("  total "))
    assert "GFLOP" in head.split()
    number = total.split()[2]
    assert float(number) > 0 and total.split().count("MB") == 3, total
    assert f"From scratch: {number} GFLOP, about " in plan_brief(plan, MACHINE, 1)


def test_a_model_whose_shapes_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan is made without them, and says so."""
    config = Study.load(ROOT / "config.yaml").as_json()
    del config["models"]["smollm2-135m"]["architecture"]
    monkeypatch.chdir(tmp_path)
    plan = Plan.of(Study.check(config, "config.yaml"))
    assert plan.shapes == {}
    assert plan.step("capture_dense", "smollm2-135m") is None
    assert "Cost is unknown until the model is fetched: smollm2-135m" in plan_text(plan)


def test_announced_shapes_serve_before_the_model_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.load(ROOT / "config.yaml")
    monkeypatch.chdir(tmp_path)
    shapes = Plan.of(study).shapes["smollm2-135m"]
    assert shapes.blocks * shapes.block_weights + shapes.outer_weights == pytest.approx(
        134.5e6, rel=1e-3
    )


@pytest.mark.parametrize(
    "text",
    [
        # As Gemma 3 with images has it, with defaults left out.
        '{"model_type": "gemma3", "text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}',
        '{"hidden_size": 8}',
        "no JSON",
    ],
)
def test_a_config_file_that_says_too_little(tmp_path: Path, text: str) -> None:
    """No traceback from a plan: the cost is not known before transformers has read the model."""
    (tmp_path / "config.json").write_text(text)
    plan = Plan.of(smoke({"models.tiny.path": str(tmp_path)}))
    assert isinstance(plan_text(plan, MACHINE), str)
    assert request(plan, MACHINE, Job("capture_dense", "tiny")).mem_mb > 0


def test_hidden_states_of_another_sample_are_made_again() -> None:
    """The dense pass left only those of the calibration sample."""
    more = {"adaptations.recon_block.samples": 16}
    of = [
        Plan.of(smoke(it)).step("reconstruct_window", "tiny", "wanda", "recon_block")
        for it in ({"study.calibration.samples": 16}, more)
    ]
    assert of[1].flops > of[0].flops and of[1].scratch_bytes > of[0].scratch_bytes == 0


def test_a_limit_of_documents_is_what_a_plan_counts() -> None:
    ours = {**ASKED, "models.one.architecture": ARCHITECTURE}
    few, every = (
        Plan.of(checked({**ours, "study.evaluation.tasks": {"names": ["rte"], "limit": limit}}))
        for limit in (3, None)
    )
    asked = ("evaluate_cell", "one")
    assert few.step(*asked).flops < every.step(*asked).flops


def test_a_part_of_a_mixture_that_is_too_short_is_seen_in_the_plan(tmp_path: Path) -> None:
    for name in ("long", "short"):
        (tmp_path / name).write_text("x" * (10**6 if name == "long" else 100))
    texts = {
        f"texts.{name}": {"source": "path", "path": str(tmp_path / name), "format": "lines"}
        for name in ("long", "short")
    }
    mixed = {"source": "mixture", "parts": {"long": 0.5, "short": 0.5}}
    changes = {**texts, "texts.mixed": mixed, "study.calibration.text": "mixed"}
    # Eight sequences of 32 tokens, half of them of 300 at most; and then 40.
    Plan.of(smoke(changes))
    with pytest.raises(
        UserError, match=r"texts\.mixed\.parts\.short: 0\.5 of 1,280 tokens"
    ) as error:
        Plan.of(smoke({**changes, "study.calibration.samples": 40}))
    assert "parts.long" not in str(error.value)


@pytest.mark.parametrize(
    ("seconds", "words", "brief"),
    [
        (89, "89 seconds", "89 s"),
        (90, "2 minutes", "2 min"),
        (5400, "1.5 hours", "1.5 h"),
        (72 * 3600, "3 days", "3 d"),
        (3649 * 86400, "3,649 days", "3,649 d"),
        (642_454 * 86400, "1,759 years", "1,759 y"),
    ],
)
def test_times_in_words(seconds: float, words: str, brief: str) -> None:
    assert (duration(seconds), short(seconds)) == (words, brief)
