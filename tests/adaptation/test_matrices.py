"""What is trained of a matrix, against the plain formulas, finite differences and PEFT."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from freelunch.adaptation.training.optimisation import make_optimiser, stepping_in_backward
from freelunch.adaptation.training.parameters import TrainedParameters, other_parameters
from freelunch.study.methods import FULL, LOW_RANK, METHODS, Trained, matrix_parameters
from refusals import refused

ROWS, COLUMNS, RANK, ALPHA = 7, 5, 3, 6.0
SEED = 3


class Net(nn.Module):
    """Two linear layers, a norm and a bias."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first = nn.Linear(COLUMNS, ROWS, bias=False)
        self.norm = nn.LayerNorm(ROWS)
        self.second = nn.Linear(ROWS, COLUMNS)
        generator = torch.Generator().manual_seed(SEED)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.to(dtype).requires_grad_(False)
        self.keep = {
            name: torch.rand(getattr(self, name).weight.shape, generator=generator) > 0.4
            for name in ("first", "second")
        }
        for name, keep in self.keep.items():
            getattr(self, name).weight.data *= keep

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(inputs))))

    def train_(self, method: str, **settings: Any) -> TrainedParameters:
        trained = Trained.by(method, **{"rank": RANK, "alpha": ALPHA, **settings})
        masked = [(name, getattr(self, name), keep) for name, keep in self.keep.items()]
        return TrainedParameters(masked, other_parameters([self], trained), trained, SEED)


INPUTS = torch.randn(20, COLUMNS, generator=torch.Generator().manual_seed(1)).double()
TARGETS = torch.randn(20, COLUMNS, generator=torch.Generator().manual_seed(2)).double()


def loss(net: nn.Module) -> Tensor:
    return (net(INPUTS) - TARGETS).square().mean()


def formula(method: str, start: Tensor, keep: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a matrix as a function of A and B, element by element as the papers have it."""
    scale = ALPHA / RANK

    def weight(a: Tensor, b: Tensor) -> Tensor:
        if method == "spp":
            # Row i of A is repeated for the i-th group of rows; B is one column.
            groups = [row * RANK // len(start) for row in range(len(start))]
            return start + scale * start * a[groups] * b
        product = torch.einsum("or,ri->oi", b, a)
        return {
            "lora": start + scale * product,
            "lora_prune": start + scale * product,
            "masklora": start + scale * keep * product,
            "scalelora": start * product,
        }[method]

    return weight


class Plain(nn.Module):
    """A reparametrisation as torch has it: computed anew in each forward pass."""

    def __init__(self, method: str, start: Tensor, keep: Tensor, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
        self.weight = formula(method, start.clone(), keep)

    def forward(self, _: Tensor) -> Tensor:
        return self.weight(self.a, self.b)


@pytest.mark.parametrize("method", LOW_RANK)
@pytest.mark.parametrize("together", [True, False])
def test_training_is_that_of_the_plain_formula(method: str, together: bool) -> None:
    """Ten steps of AdamW move both alike, whether parameters step together or one by one."""
    net, plain = Net(), Net()
    trained = net.train_(method)
    of_matrices = iter(trained.parameters)
    for name, keep in plain.keep.items():
        linear = getattr(plain, name)
        part = Plain(
            method, linear.weight, keep, next(of_matrices).detach(), next(of_matrices).detach()
        )
        parametrize.register_parametrization(linear, "weight", part, unsafe=True)
        linear.parametrizations.weight.original.requires_grad_(False)
    for parameter in (plain.norm.weight, plain.norm.bias, plain.second.bias):
        parameter.requires_grad_(True)
    reference = torch.optim.AdamW(
        [parameter for parameter in plain.parameters() if parameter.requires_grad],
        lr=0.02,
        weight_decay=0.0,
    )
    optimiser = make_optimiser("adamw", trained.parameters)
    for group in optimiser.param_groups:
        group["lr"] = 0.02
    if together:
        for _ in range(10):
            # In two parts: gradients add up.
            (loss(net) / 4).backward()
            (3 * loss(net) / 4).backward()
            trained.mask_gradients_()
            optimiser.step()
            optimiser.zero_grad()
    else:
        with stepping_in_backward(trained, "adamw") as set_rate:
            for _ in range(10):
                set_rate(0.02)
                loss(net).backward()
    for _ in range(10):
        reference.zero_grad()
        loss(plain).backward()
        reference.step()
    assert loss(net).item() == pytest.approx(loss(plain).item(), rel=1e-9)
    assert loss(net).item() < loss(Net()).item()
    trained.merge_()
    for name, keep in net.keep.items():
        found, expected = getattr(net, name).weight, getattr(plain, name).weight
        if method == "lora_prune":
            assert torch.equal(found == 0, ~keep)
            expected = torch.where(keep, expected, 0)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_changes_before_the_first_step(method: str) -> None:
    net, untouched = Net(), Net()
    trained = net.train_(method)
    torch.testing.assert_close(net(INPUTS), untouched(INPUTS), rtol=0, atol=1e-15)
    trained.merge_()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, untouched.state_dict()[name], rtol=1e-15, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_and_how_many_numbers_that_is(method: str) -> None:
    net, untouched = Net(), Net()
    trained = net.train_(method)
    chosen = Trained.by(method, rank=RANK)
    matrices = sum(
        matrix_parameters(chosen, *keep.shape, int(keep.sum())) for keep in net.keep.values()
    )
    biases, norms = COLUMNS, 2 * ROWS
    assert trained.count == matrices + biases * chosen.biases + norms * chosen.norms
    with stepping_in_backward(trained, "sgd") as set_rate:
        # One after another: of B that starts from 0 the first step moves B alone.
        for _ in range(2):
            set_rate(0.1)
            loss(net).backward()
    trained.merge_()
    before = untouched.state_dict()
    moved = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert ("first.weight" in moved) == (chosen.weights is not None)
    assert ("second.bias" in moved) == chosen.biases
    assert ("norm.weight" in moved) == chosen.norms
    for name, keep in net.keep.items():
        zeros = getattr(net, name).weight == 0
        # The merged adapter of plain LoRA is dense: that is what the other methods are for.
        assert torch.equal(zeros, ~keep) == (method != "lora")


def test_lora_is_that_of_peft() -> None:
    """Outputs while it trains, gradients, and the merged weight."""
    net, other = Net(torch.float32), Net(torch.float32)
    trained = net.train_("lora", biases=False, norms=False)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["first", "second"])
    wrapped = peft.inject_adapter_in_model(config, other)
    theirs = [p for _, p in wrapped.named_parameters() if p.requires_grad]
    assert [p.shape for p in theirs] == [p.shape for p in trained.parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for ours, their in zip(trained.parameters, theirs, strict=True):
            ours.copy_(torch.randn(ours.shape, generator=generator))
            their.copy_(ours)
    inputs = INPUTS.float()
    torch.testing.assert_close(net(inputs), wrapped(inputs))
    net(inputs).square().mean().backward()
    wrapped(inputs).square().mean().backward()
    for ours, their in zip(trained.parameters, theirs, strict=True):
        torch.testing.assert_close(ours.grad, their.grad)
    trained.merge_()
    for name in net.keep:
        layer = getattr(wrapped, name)
        layer.merge()
        torch.testing.assert_close(getattr(net, name).weight, layer.base_layer.weight)


def test_each_layer_draws_its_own() -> None:
    """Two alike do not start alike, and the same one starts the same, whatever is beside it."""

    def start(*names: str) -> dict[str, Tensor]:
        layers = [(name, nn.Linear(8, 8), torch.ones(8, 8, dtype=torch.bool)) for name in names]
        trained = TrainedParameters(layers, [], Trained("masklora", False, False, rank=2), SEED)
        return dict(zip(names, trained.parameters[::2], strict=True))

    both = start("one", "two")
    assert not torch.equal(both["one"], both["two"])
    assert torch.equal(start("two")["two"], both["two"])


@pytest.mark.parametrize("method", METHODS)
def test_frozen_weights_stay_in_the_precision_in_which_they_are_stored(method: str) -> None:
    """Passes in float32 equal those of a net that is widened beforehand; so do gradients."""
    narrow, wide = Net(torch.bfloat16), Net(torch.bfloat16).float()
    for net in (narrow, wide):
        net.norm.float()
    inputs = INPUTS.float()
    gradients = []
    for net in (narrow, wide):
        if net.second.bias.dtype != torch.float32:
            net.second.bias.data = net.second.bias.data.float()
        trained = net.train_(method)
        frozen = Trained.by(method).weights != FULL
        assert (net.first.weight.dtype == torch.float32) == (net is wide or not frozen)
        leaf = inputs.clone().requires_grad_()
        net(leaf).square().mean().backward()
        gradients.append([leaf.grad, *(parameter.grad for parameter in trained.parameters)])
    for ours, expected in zip(*gradients, strict=True):
        assert torch.equal(ours, expected)


def test_a_block_is_freed_when_nobody_holds_it() -> None:
    """Its layers and what is trained in them do not keep each other in memory."""
    for method in METHODS:
        net = Net()
        trained = net.train_(method)
        loss(net).backward()
        weight = weakref.ref(net.first.weight)
        gc.disable()
        try:
            del net, trained
            assert weight() is None, method
        finally:
            gc.enable()


@pytest.mark.parametrize("method", LOW_RANK)
def test_a_rank_that_is_too_large(method: str) -> None:
    with refused(found=f"rank: {COLUMNS + 1}", expected=f"at most {COLUMNS}"):
        Net().train_(method, rank=COLUMNS + 1)
