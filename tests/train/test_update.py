"""One update: what the settings of the recipe change about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rt1.data.pipeline.augment import AugmentSettings
from rt1.data.sources.base import EpisodeSource
from rt1.errors import TrainingError
from rt1.train.config import TrainConfig
from rt1.train.optim import OptimizerSettings
from rt1.train.run import Run, begin
from rt1.train.update import do_update
from rt1.train.validation import validate

LENGTHS = (6, 5, 1, 7, 4)

MakeSource = Callable[..., EpisodeSource]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def make_run(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> Callable[..., Run]:
    """Begin a run without dropout and drop-connect."""

    def make(**changes: Any) -> Run:
        config = short(**changes)
        model = dataclasses.replace(
            config.model,
            transformer=dataclasses.replace(config.model.transformer, dropout=0.0),
            efficientnet=dataclasses.replace(config.model.efficientnet, drop_connect=0.0),
        )
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return begin(make_source(*LENGTHS), dataclasses.replace(config, model=model), folder)

    return make


def _update(run: Run) -> dict[str, float]:
    return do_update(run, run.data.train.batch(run.update))


def _state(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_the_google_form_divides_the_gradient_once_more_and_says_the_same_loss(make_run: Callable[..., Run]) -> None:
    mean, google = (_update(make_run(loss=form)) for form in ("mean", "google"))
    assert google["loss"] == mean["loss"]
    batch = make_run().data.train.batch(0)
    steps, step_tokens = batch.valid_BT.size, 4 + 3  # four image tokens and three action dimensions
    factor = batch.valid_BT.sum() / steps / (steps * step_tokens)
    assert google["gradient_norm"] == pytest.approx(factor * mean["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.1},
        {"augment": AugmentSettings(crop_share=0.0)},
        {"augment": AugmentSettings(crop_per="sample")},
        {"augment": AugmentSettings(brightness=0.5)},
    ],
)
def test_a_setting_of_the_recipe_changes_the_first_loss(make_run: Callable[..., Run], changes: dict[str, Any]) -> None:
    plain, changed = _update(make_run())["loss"], _update(make_run(**changes))["loss"]
    assert changed != plain
    assert changed == pytest.approx(plain, rel=0.5)


def test_what_is_frozen_stays_as_it_is_also_after_a_validation(make_run: Callable[..., Run]) -> None:
    run = make_run(optimizer=OptimizerSettings(warmup=0, freeze=("backbone",)))
    before = _state(run)
    for _ in range(2):
        _update(run)
        assert run.data.held_out is not None
        validate(run.model, run.data.held_out)
    changed = {name for name, value in _state(run).items() if not value.equal(before[name])}
    in_backbone = {name for name in changed if name.startswith("backbone.")}
    assert all(".film." in name or name.startswith("backbone.output") for name in in_backbone)
    assert {"transformer.output.weight", "token_learner.maps.weight", "backbone.output.weight"} <= changed


def test_a_part_at_a_lower_rate_changes_less(make_run: Callable[..., Run]) -> None:
    def change(scale: tuple[str, ...]) -> float:
        run = make_run(optimizer=OptimizerSettings(warmup=0, weight_decay=0.0, scale=scale))
        before = run.model.token_learner.hidden.weight.detach().clone()
        _update(run)
        return float((run.model.token_learner.hidden.weight.detach() - before).abs().max())

    assert change(("token_learner=0.01",)) == pytest.approx(0.01 * change(()), rel=0.01)


def test_an_unknown_part_is_refused_before_the_first_update(make_run: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match="unknown part of the network 'backbonee', did you mean 'backbone'"):
        make_run(optimizer=OptimizerSettings(freeze=("backbonee",)))
    with pytest.raises(ValueError, match="unknown part of the network 'heads', did you mean 'head'"):
        make_run(optimizer=OptimizerSettings(scale=("heads=0.1",)))


def test_updates_stay_finite_with_everything_on(make_run: Callable[..., Run]) -> None:
    run = make_run(
        label_smoothing=0.1,
        target_spread=1.0,
        loss="google",
        augment=AugmentSettings(crop_per="sample", brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
        optimizer=OptimizerSettings(kind="adam", eps=1e-7, eps_form="keras", scale=("head=2",), freeze=("text",)),
    )
    losses = [_update(run)["loss"] for _ in range(3)]
    assert torch.tensor(losses).isfinite().all()


def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole(make_run: Callable[..., Run]) -> None:
    whole, parts = (_update(make_run(batch_norm="frozen", accumulation=count)) for count in (1, 4))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_batch_in_parts_drops_what_the_whole_drops(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    config = short(batch_norm="frozen")
    runs = [begin(make_source(*LENGTHS), config, tmp_path / "whole")]
    runs.append(begin(make_source(*LENGTHS), dataclasses.replace(config, accumulation=2), tmp_path / "parts"))
    whole, parts = (_update(run) for run in runs)
    assert config.model.transformer.dropout > 0
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_batch_that_does_not_fit_says_what_halves_it(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.model.backbone.register_forward_hook(lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    before = _state(run)
    with pytest.raises(TrainingError) as caught:
        _update(run)
    for words in (
        "update 0 does not fit",
        "accumulation 2 instead of 1",
        "batch_size 2 instead of 4",
        "activations full",
    ):
        assert words in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
