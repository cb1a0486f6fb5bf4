"""Optimizer: the learning rate's course, what decays, and a state that goes on exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from rt1.model.rt1 import RT1
from rt1.train.config import OptimizerSettings
from rt1.train.optim import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from rt1.train.run import channels_last

SETTINGS = OptimizerSettings(learning_rate=2e-3, final_fraction=0.1, warmup=4)


def test_the_learning_rate_rises_linearly_to_its_peak() -> None:
    rates = [learning_rate(SETTINGS, update, 100) for update in range(4)]
    assert rates == pytest.approx([0.5e-3, 1e-3, 1.5e-3, 2e-3])


def test_the_learning_rate_falls_along_a_cosine_to_its_final_fraction() -> None:
    rates = [learning_rate(SETTINGS, update, 104) for update in range(4, 105)]
    assert rates[0] == pytest.approx(2e-3)
    assert rates[50] == pytest.approx((2e-3 + 2e-4) / 2)  # half way
    assert rates[100] == pytest.approx(2e-4)
    assert all(after < before for before, after in itertools.pairwise(rates))


def test_without_warm_up_and_decay_the_learning_rate_is_constant() -> None:
    constant = OptimizerSettings(learning_rate=1e-4, final_fraction=1.0, warmup=0)
    assert {learning_rate(constant, update, 10) for update in range(10)} == {1e-4}


def test_only_matrices_and_kernels_decay(make_network: Callable[..., RT1]) -> None:
    model = make_network()
    decayed, others = make_optimizer(model, OptimizerSettings(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(parameter)] for parameter in others["params"]}
    assert {"transformer.position_LD", "transformer.output.bias", "backbone.stem_norm.weight"} <= kept
    assert all(".bias" in name or "norm" in name or "position" in name for name in kept)
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def _update(model: RT1, optimizer: torch.optim.Optimizer, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 2, 48, 48, 3, generator=random)
    model(images, torch.rand(2, 8, generator=random)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_an_optimizer_goes_on_exactly_from_its_tensors(make_network: Callable[..., RT1]) -> None:
    model = channels_last(make_network())
    optimizer = make_optimizer(model, SETTINGS)
    assert optimizer_tensors(model, optimizer) == {}
    for seed in range(3):
        _update(model, optimizer, seed)

    copy = channels_last(make_network())
    copy.load_state_dict(model.state_dict())
    tensors = {name: tensor.clone().contiguous() for name, tensor in optimizer_tensors(model, optimizer).items()}
    other = make_optimizer(copy, SETTINGS)
    load_optimizer_tensors(copy, other, tensors)
    for seed in range(3, 6):
        _update(model, optimizer, seed)
        _update(copy, other, seed)
    for (name, one), two in zip(model.state_dict().items(), copy.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_putting_a_state_back_copies_it(make_network: Callable[..., RT1]) -> None:
    model = make_network()
    optimizer = make_optimizer(model, SETTINGS)
    _update(model, optimizer, 0)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    load_optimizer_tensors(model, optimizer, tensors)
    _update(model, optimizer, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("change", ["lacks", "has too many"])
def test_a_state_of_another_network_is_refused(change: str, make_network: Callable[..., RT1]) -> None:
    model = make_network()
    optimizer = make_optimizer(model, SETTINGS)
    _update(model, optimizer, 0)
    tensors = optimizer_tensors(model, optimizer)
    if change == "lacks":
        del tensors["exp_avg/transformer.output.bias"]
        name = "exp_avg/transformer.output.bias"
    else:
        tensors["step/other"] = torch.zeros(())
        name = "step/other"
    with pytest.raises(ValueError, match=rf"the optimizer's state lacks or has too many: {name} \(1 in all\)"):
        load_optimizer_tensors(model, make_optimizer(model, SETTINGS), tensors)
