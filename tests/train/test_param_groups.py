"""Parts of the network: what a name means, and what freezing leaves as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt1.model.conditioning import TextConfig
from rt1.model.layers import BatchNorm
from rt1.model.maxvit import MaxViTConfig
from rt1.model.rt1 import RT1
from rt1.presets import preset
from rt1.train.param_groups import COMPONENTS, component, factors, freeze, members, split_factor, training_mode

MakeNetwork = Callable[..., RT1]


def test_every_parameter_belongs_to_one_component(make_network: MakeNetwork) -> None:
    model = make_network()
    names = [name for name, _ in model.named_parameters()]
    assert {component(name) for name in names} == set(COMPONENTS)
    assert sorted(name for part in COMPONENTS for name in members(model, part)) == sorted(names)
    assert members(model, "head") == ["transformer.output.weight", "transformer.output.bias"]
    assert "backbone.output_film.add.bias" in members(model, "text")
    assert members(model, "projection") == ["backbone.output.weight"]


@pytest.mark.parametrize("changes", [{"conditioning": "cross_attention"}, {"backbone": "maxvit"}])
def test_other_networks_have_the_same_components(changes: dict[str, Any]) -> None:
    base = preset("debug").model
    small = MaxViTConfig(stem_channels=8, channels=(8, 8), depths=(1, 1), partition=3, head_width=4, expand=1)
    transformer = dataclasses.replace(base.transformer, condition=changes.get("conditioning", "film"))
    text = TextConfig(projection=4)
    config = dataclasses.replace(base, text_width=8, maxvit=small, text=text, transformer=transformer, **changes)
    with torch.device("meta"):
        names = [name for name, _ in RT1(config).named_parameters()]
    by_component = {part: [name for name in names if component(name) == part] for part in COMPONENTS}
    assert all(by_component.values())
    assert sum(map(len, by_component.values())) == len(names)
    assert any(name.startswith("transformer.layers.0") for name in by_component["text"])
    assert "text.projection.weight" in by_component["text"]


def test_a_beginning_means_whole_words_of_a_name(make_network: MakeNetwork) -> None:
    model = make_network()
    assert members(model, "backbone.stem") == ["backbone.stem.weight"]  # and not those of stem_norm
    assert members(model, "transformer.layers.0.attention.output.bias") == [
        "transformer.layers.0.attention.output.bias"
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("backbon", "backbone"), ("transformer.layer", "transformer.layers"), ("tokenlearner", "token_learner")],
)
def test_a_name_that_fits_nothing_is_refused_with_what_was_meant(
    make_network: MakeNetwork, name: str, meant: str
) -> None:
    with pytest.raises(ValueError, match=f"unknown part of the network '{name}', did you mean '{meant}'"):
        freeze(make_network(), [name])


def test_of_several_factors_that_fit_the_last_counts(make_network: MakeNetwork) -> None:
    model = make_network()
    found = factors(model, ["transformer=0.5", "backbone=0.1", "transformer.layers.0.attention=0"])
    assert found["transformer.embed.weight"] == 0.5
    assert found["transformer.layers.0.attention.output.weight"] == 0.0
    assert found["backbone.stem.weight"] == 0.1
    assert {found[name] for name in members(model, "head") + members(model, "text")} == {1.0}


@pytest.mark.parametrize("text", ["backbone", "backbone=", "=0.1", "backbone=-1", "backbone=inf", "backbone=nan"])
def test_a_factor_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"scale '{text}' must be NAME=FACTOR"):
        split_factor(text)


def test_freezing_takes_the_gradient_of_the_named_parameters_only(make_network: MakeNetwork) -> None:
    model = make_network()
    freeze(model, ["backbone", "transformer.layers"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {*members(model, "backbone"), *members(model, "transformer.layers")}


def test_the_batch_norm_of_a_frozen_part_keeps_its_statistics(make_network: MakeNetwork) -> None:
    model = make_network()
    freeze(model, ["backbone.stem", "backbone.stem_norm"])
    training_mode(model)
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model.predict(torch.rand(2, 2, 48, 48, 3), torch.rand(2, 8))
    changed = {name for name, value in model.named_buffers() if "running" in name and not value.equal(before[name])}
    assert changed == before.keys() - {"backbone.stem_norm.running_mean", "backbone.stem_norm.running_var"}


def test_nothing_frozen_is_plain_training_mode(make_network: MakeNetwork) -> None:
    model = make_network()
    training_mode(model)
    assert all(module.training for module in model.modules())
    assert any(isinstance(module, BatchNorm) for module in model.modules())
