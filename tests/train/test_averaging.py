"""The average of the weights: its course, the exchange with the network, and going on from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rt1.model.rt1 import RT1
from rt1.train.averaging import AverageSettings, WeightAverage


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _number(value: float) -> nn.Module:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, value)
    return layer


def _averaged(average: WeightAverage, model: nn.Module) -> dict[str, Tensor]:
    with average.averaged(model):
        return _weights(model)


def test_the_average_keeps_its_share_at_each_update() -> None:
    model = _number(1.0)
    average = WeightAverage(model, AverageSettings(decay=0.75, warmup=False))
    for update, value in enumerate((2.0, 4.0), start=1):
        nn.init.constant_(model.weight, value)  # type: ignore[arg-type]
        average.add(model, update)
    # 0.75 * 1 + 0.25 * 2 = 1.25, then 0.75 * 1.25 + 0.25 * 4
    assert _averaged(average, model)["weight"].item() == pytest.approx(1.9375)


def test_the_decay_rises_to_its_value_with_the_updates() -> None:
    settings = AverageSettings(decay=0.9)
    assert [settings.decay_at(n) for n in (1, 8, 80, 10_000)] == pytest.approx([2 / 11, 0.5, 0.9, 0.9])
    assert AverageSettings(decay=0.9, warmup=False).decay_at(1) == 0.9


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_keeps_nothing_or_all_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay is {decay}, must be at least 0 and below 1"):
        AverageSettings(decay=decay)


def test_statistics_are_averaged_and_counters_taken_over(make_network: Callable[..., RT1]) -> None:
    model = make_network()
    average = WeightAverage(model, AverageSettings(decay=0.5, warmup=False))
    before = _weights(model)
    for name, tensor in model.state_dict().items():
        tensor.add_(2 if "running" in name or "tracked" in name else 0)
    average.add(model, 1)
    averaged = _averaged(average, model)
    assert torch.allclose(averaged["backbone.stem_norm.running_mean"], before["backbone.stem_norm.running_mean"] + 1)
    assert averaged["backbone.stem_norm.num_batches_tracked"] == before["backbone.stem_norm.num_batches_tracked"] + 2


def test_the_network_acts_with_the_average_and_gets_its_own_weights_back(make_network: Callable[..., RT1]) -> None:
    model = make_network()
    start = _weights(model)
    average = WeightAverage(model, AverageSettings(decay=0.9))
    torch.nn.init.normal_(model.transformer.output.weight)
    own = _weights(model)
    with average.averaged(model) as kept:
        _assert_same(_weights(model), start)
        _assert_same(dict(kept), own)
    _assert_same(_weights(model), own)


def test_an_average_goes_on_exactly_from_what_a_checkpoint_holds(make_network: Callable[..., RT1]) -> None:
    model, settings = make_network(), AverageSettings(decay=0.9)
    average = WeightAverage(model, settings)
    torch.nn.init.normal_(model.transformer.output.weight)
    average.add(model, 1)
    with average.averaged(model) as own:
        saved, raw = _weights(model), {name: tensor.clone() for name, tensor in own.items()}
    other = make_network()
    other.load_state_dict(saved)
    restored = WeightAverage(other, settings)
    restored.restore(other, raw)
    _assert_same(_weights(other), _weights(model))
    for each, follower in ((average, model), (restored, other)):
        each.add(follower, 2)
    _assert_same(_averaged(restored, other), _averaged(average, model))


def test_weights_of_another_network_are_refused(make_network: Callable[..., RT1]) -> None:
    model = make_network()
    average = WeightAverage(model, AverageSettings(decay=0.9))
    weights = _weights(model)
    del weights["transformer.output.bias"]
    with pytest.raises(ValueError, match=r"average lacks transformer\.output\.bias"):
        average.restore(model, weights)
    weights["transformer.output.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"transformer\.output\.bias has shape"):
        average.restore(model, weights)
