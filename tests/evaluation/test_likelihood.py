"""Log-likelihoods of packed requests against transformers' own model, one request at a time."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from freelunch.evaluation import likelihood
from freelunch.evaluation.likelihood import PADDING, Batch, LikelihoodRequest, batches, pack
from freelunch.model.checkpoint import StreamedModel
from measuring import likelihoods_of
from tiny_models import FAMILIES, VARIANTS, tiny_checkpoint

# Longer than the tiny models' sliding windows; with and without choices that begin alike, of one
# token and of several; and with a context that others begin with.
CONTEXT = list(range(20, 29))
REQUESTS = [
    LikelihoodRequest(CONTEXT, [1, 2, 3]),
    LikelihoodRequest(CONTEXT, [1, 2, 4, 5]),
    LikelihoodRequest(CONTEXT, [7]),
    LikelihoodRequest(CONTEXT, [8]),
    LikelihoodRequest([*CONTEXT, 1, 2], [3, 9, 10, 11, 12]),
    LikelihoodRequest([40], [41]),
    LikelihoodRequest([50, 51, 52, 53, 54, 55], [56, 57, 58]),
    LikelihoodRequest([50, 51, 52, 60, 54, 55], [56, 57, 58]),
    LikelihoodRequest(CONTEXT, [7]),
]
ids = st.integers(0, 3)
some_requests = st.lists(
    st.builds(
        LikelihoodRequest,
        st.lists(ids, min_size=1, max_size=6),
        st.lists(ids, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@torch.no_grad()
def slowly(folder: Path, requests: Sequence[LikelihoodRequest]) -> list[tuple[float, bool]]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for request in requests:
        tokens = torch.tensor([[*request.context, *request.continuation]])
        scores = model(input_ids=tokens, use_cache=False).logits[0].double().log_softmax(-1)
        total, first = 0.0, True
        for place in range(len(request.context), tokens.shape[1]):
            token = int(tokens[0, place])
            total += float(scores[place - 1, token])
            first &= int(scores[place - 1].argmax()) == token
        found.append((total, first))
    return found


@pytest.mark.parametrize(
    ("family", "changes", "batch_tokens"),
    [
        *((family, {}, tokens) for family in FAMILIES for tokens in (1, 40, 4096)),
        *((family, changes, 40) for family, changes in VARIANTS.values()),
    ],
    ids=str,
)
def test_equal_transformers_on_one_request_at_a_time(
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
    batch_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", batch_tokens)
    monkeypatch.setattr(likelihood, "HEAD_PLACES", 5)
    checkpoint, scratch = tiny_checkpoint(tmp_path, family, **changes), tmp_path / "scratch"
    scratch.mkdir()
    found = likelihoods_of(StreamedModel(checkpoint.folder), REQUESTS, scratch).values
    expected = slowly(checkpoint.folder, REQUESTS)
    for (value, first), (wanted, wanted_first) in zip(found, expected, strict=True):
        assert value == pytest.approx(wanted, abs=1e-4)
        assert first == wanted_first


@pytest.mark.parametrize(
    ("family", "changes", "packs"),
    [("falcon", {}, True), VARIANTS["falcon in sequence"] + (False,), ("bloom", {}, False)],
    ids=str,
)
def test_positions_that_are_not_arguments_keep_requests_apart(
    family: str, changes: dict[str, Any], packs: bool, tmp_path: Path
) -> None:
    """ALiBi takes the order of tokens for their positions."""
    model = StreamedModel(tiny_checkpoint(tmp_path, family, **changes).folder)
    found = likelihoods_of(model, REQUESTS, tmp_path)
    assert found.sequences == (len(pack(REQUESTS)) if packs else len(REQUESTS))


@given(some_requests)
def test_a_packed_sequence_holds_each_request_once(requests: list[LikelihoodRequest]) -> None:
    packed = pack(requests)
    assert sorted(itertools.chain(*(each.requests for each in packed))) == [*range(len(requests))]
    assert [len(each) for each in packed] == sorted(map(len, packed), reverse=True)
    for each in packed:
        for part, index in enumerate(each.requests, 1):
            mine = [at for at, owner in enumerate(each.parts) if owner in (0, part)]
            assert [each.tokens[at] for at in mine] == requests[index].inputs
            assert [each.positions[at] for at in mine] == [*range(len(mine))]
            places = each.places[part - 1]
            assert list(places) == mine[-len(requests[index].continuation) :]


@given(some_requests)
def test_packing_never_costs_a_token(requests: list[LikelihoodRequest]) -> None:
    assert sum(map(len, pack(requests))) <= sum(len(each.inputs) for each in requests)


@given(some_requests, st.sampled_from([None, 1, 2, 3]))
@settings(max_examples=50)
def test_a_token_sees_its_own_request_up_to_itself(
    requests: list[LikelihoodRequest], window: int | None
) -> None:
    for batch in batches(pack(requests), 16):
        seen = batch.seen(window)
        for row, packed in enumerate(batch.rows):
            for i, j in itertools.product(range(batch.tokens.shape[1]), repeat=2):
                parts = batch.parts[row].tolist()
                if PADDING in (parts[i], parts[j]):
                    assert bool(seen[row, i, j]) == (i == j)
                    continue
                back = packed.positions[i] - packed.positions[j]
                mine = parts[j] in (0, parts[i]) and (parts[i] != 0 or parts[j] == 0)
                near = window is None or back < window
                assert bool(seen[row, i, j]) == (mine and back >= 0 and near)


def test_the_choices_of_a_question_pass_its_context_once() -> None:
    choices = [LikelihoodRequest(CONTEXT, [token, 60, 61]) for token in range(4)]
    (packed,) = pack(choices)
    assert len(packed) == len(CONTEXT) + 4 * 2
    (of_one_token,) = pack([LikelihoodRequest(CONTEXT, [token]) for token in range(4)])
    assert len(of_one_token) == len(CONTEXT)


def test_a_request_that_is_too_long_loses_the_beginning_of_its_context() -> None:
    request = LikelihoodRequest([*range(10)], [90, 91])
    assert request.truncated(11) == request
    assert len(request.truncated(8).inputs) == 8
    assert request.truncated(8) == LikelihoodRequest([*range(3, 10)], [90, 91])
    assert Batch.of(pack([request])).tokens.shape == (1, 11)


def test_what_passed_is_counted(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path, "llama")
    found = likelihoods_of(StreamedModel(checkpoint.folder), REQUESTS, tmp_path)
    packed = pack(REQUESTS)
    assert found.sequences == len(packed)
    assert found.passed_tokens == sum(batch.tokens.numel() for batch in batches(packed, 2048))
    # One token of a context predicts the first token of all its continuations.
    assert len(CONTEXT) < found.predicted_tokens < sum(len(each.continuation) for each in REQUESTS)
