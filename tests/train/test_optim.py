"""Optimizer: the learning rate's course, what decays, and a state that goes on exactly."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt1.model.rt1 import RT1
from rt1.train.optim import (
    OptimizerSettings,
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_rates,
)
from rt1.train.param_groups import freeze, members

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


def test_a_constant_schedule_stays_at_its_peak_after_the_warm_up() -> None:
    constant = OptimizerSettings(learning_rate=1e-4, schedule="constant", warmup=2)
    assert [learning_rate(constant, update, 10) for update in range(4)] == [0.5e-4, 1e-4, 1e-4, 1e-4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps is 0.0, must be above 0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\), must be at least 0 and below 1"),
        ({"scale": ("backbone",)}, "scale 'backbone' must be NAME=FACTOR"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**changes)


def _one_weight(settings: OptimizerSettings, gradients: list[float], weight: float = 2.0) -> float:
    """Return a 1x1 weight after updates with these gradients."""
    layer = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(layer.weight, weight)
    optimizer = make_optimizer(layer, settings)
    for update, gradient in enumerate(gradients):
        layer.weight.grad = torch.tensor([[gradient]], dtype=torch.float64)
        set_rates(optimizer, settings, update, len(gradients))
        optimizer.step()
    return layer.weight.item()


def test_adamw_shrinks_the_weight_and_adam_adds_the_decay_to_the_gradient() -> None:
    plain = OptimizerSettings(learning_rate=0.1, schedule="constant", warmup=0, weight_decay=0.5, eps=1e-12)
    assert _one_weight(plain, [4.0]) == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1)
    # With a gradient of 4 + 0.5 * 2 the first change is the learning rate, whatever the gradient's size.
    assert _one_weight(dataclasses.replace(plain, kind="adam"), [4.0]) == pytest.approx(2.0 - 0.1)
    assert _one_weight(dataclasses.replace(plain, kind="adam"), [-0.5]) == pytest.approx(2.0 - 0.1)


@pytest.mark.parametrize("gradients", [[3e-7], [3e-7, -1e-7, 2e-6, 5e-8, 1e-7]])
def test_the_keras_form_makes_the_changes_of_keras_adam(gradients: list[float]) -> None:
    rate, (one, two), eps = 1e-4, (0.9, 0.999), 1e-7
    weight, mean, square = 2.0, 0.0, 0.0
    for count, gradient in enumerate(gradients, start=1):
        mean, square = one * mean + (1 - one) * gradient, two * square + (1 - two) * gradient**2
        weight -= rate * math.sqrt(1 - two**count) / (1 - one**count) * mean / (math.sqrt(square) + eps)
    settings = OptimizerSettings(
        kind="adam", learning_rate=rate, schedule="constant", warmup=0, weight_decay=0.0, betas=(one, two), eps=eps
    )
    keras = _one_weight(dataclasses.replace(settings, eps_form="keras"), gradients)
    assert keras - 2.0 == pytest.approx(weight - 2.0, rel=1e-9)
    assert abs(_one_weight(settings, gradients) - weight) > 0.1 * abs(weight - 2.0)


def test_the_keras_form_on_the_divided_loss_is_the_mean_loss_with_a_larger_epsilon() -> None:
    gradients = [0.3, -0.1, 0.05]
    settings = OptimizerSettings(kind="adam", schedule="constant", warmup=0, weight_decay=0.0, eps=1e-7)
    settings = dataclasses.replace(settings, eps_form="keras")
    divided = _one_weight(settings, [gradient / 7296 for gradient in gradients])
    assert divided == pytest.approx(_one_weight(dataclasses.replace(settings, eps=7296e-7), gradients), rel=1e-12)


def test_each_part_learns_at_its_own_rate(make_network: Callable[..., RT1]) -> None:
    settings = dataclasses.replace(SETTINGS, scale=("backbone=0.1", "head=0"))
    model = make_network()
    optimizer = make_optimizer(model, settings)
    set_rates(optimizer, settings, 3, 100)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert rates["backbone.stem.weight"] == rates["backbone.stem_norm.bias"] == pytest.approx(2e-4)
    assert rates["transformer.embed.weight"] == rates["backbone.output_film.add.weight"] == 2e-3
    assert rates["transformer.output.weight"] == 0.0
    before = {name: value.clone() for name, value in model.named_parameters()}
    _update(model, optimizer, 0)
    moved = {name for name, value in model.named_parameters() if not value.equal(before[name])}
    assert "transformer.embed.weight" in moved
    assert not {"transformer.output.weight", "transformer.output.bias"} & moved


def test_frozen_parameters_keep_their_values_and_have_no_state(make_network: Callable[..., RT1]) -> None:
    model = make_network()
    freeze(model, ["backbone", "token_learner"])
    optimizer = make_optimizer(model, SETTINGS)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for seed in range(2):
        _update(model, optimizer, seed)
    kept = {name for name, value in model.named_parameters() if value.equal(before[name])}
    assert kept == {*members(model, "backbone"), *members(model, "token_learner")}
    tensors = optimizer_tensors(model, optimizer)
    assert {name.partition("/")[2] for name in tensors} == before.keys() - kept
    load_optimizer_tensors(model, make_optimizer(model, SETTINGS), tensors)  # what is there is all that is needed


def test_nothing_left_to_learn_is_refused(make_network: Callable[..., RT1]) -> None:
    model, everything = make_network(), ("backbone", "text", "projection", "token_learner", "transformer", "head")
    freeze(model, everything)
    with pytest.raises(ValueError, match=r"all parameters are frozen by backbone text .*. Leave some to learn"):
        make_optimizer(model, dataclasses.replace(SETTINGS, freeze=everything))


def _update(model: RT1, optimizer: torch.optim.Adam, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 2, 48, 48, 3, generator=random)
    model.predict(images, torch.rand(2, 8, generator=random)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_an_optimizer_goes_on_exactly_from_its_tensors(make_network: Callable[..., RT1]) -> None:
    model = make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, SETTINGS)
    assert optimizer_tensors(model, optimizer) == {}
    for seed in range(3):
        _update(model, optimizer, seed)

    copy = make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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


@pytest.mark.parametrize("change", ["lacks", "has the unknown tensor"])
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
    with pytest.raises(ValueError, match=f"the optimizer.s state {change} {name}"):
        load_optimizer_tensors(model, make_optimizer(model, SETTINGS), tensors)


@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_it_is_torchs_fused_optimizer(kind: Any, make_network: Callable[..., RT1]) -> None:
    optimizer = make_optimizer(make_network(), dataclasses.replace(SETTINGS, kind=kind))
    assert type(optimizer) is {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[kind]
    assert optimizer.defaults["fused"]


def test_where_the_fused_step_does_not_run_the_slower_one_is_taken_and_named(
    make_network: Callable[..., RT1], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(torch.optim.AdamW, "step", refuse)
    with pytest.warns(UserWarning, match="slower step on cpu: no kernel"):
        optimizer = make_optimizer(make_network(), dataclasses.replace(SETTINGS, kind="adam"))
    assert not optimizer.defaults["fused"]
