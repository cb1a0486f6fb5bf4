"""Runs over several embodiments: one trunk, a head for each, and a checkpoint that each acts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rt1.checkpoint import SharedInfo, load_info, load_model, load_whole_info, load_whole_model
from rt1.data.open_mixture import WeightedSource
from rt1.data.pipeline.augment import AugmentSettings
from rt1.data.sources.images import decode_image
from rt1.errors import CheckpointError
from rt1.evaluate.metrics import read_metrics
from rt1.policy.policy import Policy
from rt1.report.dataset_terminal import checkpoint_text
from rt1.train.config import TrainConfig
from rt1.train.loop import train
from rt1.train.optim import OptimizerSettings
from rt1.train.run import begin
from rt1.train.update import do_update

MakeSource = Callable[..., Any]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def data(make_source: MakeSource) -> list[WeightedSource]:
    """An arm of 3 dimensions and a hand of 5."""
    arm, hand = make_source(6, 5, 4, 7, 5, name="arm"), make_source(5, 6, 3, 6, 4, dimensions=5, name="hand")
    return [WeightedSource(source=arm, embodiment="arm"), WeightedSource(source=hand, embodiment="hand")]


def test_one_trunk_learns_the_actions_of_both_by_heart_and_each_acts_by_its_name(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    arm, hand = make_source(3, name="arm"), make_source(3, dimensions=5, name="hand")
    both = [WeightedSource(source=arm, embodiment="arm"), WeightedSource(source=hand, embodiment="hand")]
    optimizer = OptimizerSettings(learning_rate=1e-2, warmup=5, weight_decay=0.0)
    # Frozen: the network acts as it trained, not by moving statistics of a few updates.
    config = short(updates=120, log_every=20, held_out=0.0, optimizer=optimizer, batch_norm="frozen")
    steady = dataclasses.replace(
        config.model,
        transformer=dataclasses.replace(config.model.transformer, dropout=0.0),
        efficientnet=dataclasses.replace(config.model.efficientnet, drop_connect=0.0),
    )
    train(both, dataclasses.replace(config, model=steady, augment=AugmentSettings(crop_share=0.0)), tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-1]["accuracy"] > 0.98
    for source in (arm, hand):
        policy = Policy.from_checkpoint(tmp_path / "run", embodiment=source.name)
        assert policy.action_spec == source.action_spec
        policy.reset(source.text_embedding(0))
        acted = np.stack([policy.logits(decode_image(data)).argmax(-1) for data in source.images[0]])
        assert (acted == source.action_spec.encode(source.moves[0])).mean() > 0.9


def test_an_update_of_one_embodiment_leaves_the_others_head_without_gradient(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    settings = {"target_spread": 1.0, "optimizer": OptimizerSettings(weight_decay=0.0)}
    run = begin(data, short(**settings), tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    loader = run.data.train
    own = np.flatnonzero(loader.embodiments.heads[loader._windows.places(np.arange(20)).episodes] == 0)[:4]
    do_update(run, loader.take(own))
    moved = {name for name, tensor in run.model.state_dict().items() if not tensor.equal(before[name])}
    assert {"transformer.output.0.weight", "transformer.position_LD"} <= moved
    assert not {"transformer.output.1.weight", "transformer.output.1.bias"} & moved
    step_tokens, images = run.model.config.step_tokens, run.model.config.image_tokens
    positions = run.model.transformer.position_LD.detach().unflatten(0, (-1, step_tokens))
    earlier = before["transformer.position_LD"].unflatten(0, (-1, step_tokens))
    assert positions[:, images + 3 :].equal(earlier[:, images + 3 :])


def test_validation_has_the_numbers_of_each_embodiment(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    train(data, short(updates=4), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert {"heldout_loss", "heldout_loss/arm", "heldout_loss/hand", "heldout_l1/hand/move_4"} <= last.keys()
    assert not {"heldout_loss/move_0", "heldout_loss/arm/move_3"} & last.keys()
    low, high = sorted((last["heldout_loss/arm"], last["heldout_loss/hand"]))
    assert low <= last["heldout_loss"] <= high


def test_a_stopped_run_of_several_embodiments_goes_on_as_if_it_had_not_stopped(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    config = short(updates=4, validate_every=2, save_every=2)
    train(data, config, tmp_path / "whole")
    run = begin(data, config, tmp_path / "parts")
    for number in range(2):
        do_update(run, run.data.train.batch(number))
    run.save("last")
    train(data, config, tmp_path / "parts")
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_several_embodiments_names_them_and_gives_the_network_of_each(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(data, short(updates=1), folder)
    info = load_whole_info(folder)
    assert isinstance(info, SharedInfo)
    assert [*info.embodiments] == ["arm", "hand"]
    assert load_whole_model(folder).config.embodiments == (3, 5)
    for name, size in (("arm", 3), ("hand", 5)):
        own = load_info(folder, embodiment=name)
        assert own.action_spec.size == own.model.action_tokens == size
        assert own.statistics is not None
        assert own.statistics.names == own.action_spec.dimension_names
        assert (own.provenance["source"], own.provenance["episodes"], own.provenance["embodiment"]) == (name, 5, name)
        assert len(own.provenance["held_out_episodes"]) == 1
        assert load_model(folder, embodiment=name).config == own.model
    assert "embodiment hand: action, 16 bins" in checkpoint_text(folder)
    for load in (load_info, load_model, Policy.from_checkpoint):
        with pytest.raises(CheckpointError, match="has several embodiments: arm, hand; name one with embodiment"):
            load(folder)
        with pytest.raises(CheckpointError, match="unknown embodiment 'hands'; did you mean 'hand'"):
            load(folder, embodiment="hands")
    with pytest.raises(ValueError, match="this network has 2 embodiments; load the network of one"):
        Policy(load_whole_model(folder), data[0].source.action_spec)


def test_trials_need_one_embodiment_with_an_environment(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    config = short()
    trials = dataclasses.replace(config.closed_loop, every=4)
    with pytest.raises(ValueError, match="need one embodiment with an environment; of arm, hand there are 0"):
        train(data, dataclasses.replace(config, closed_loop=trials), tmp_path / "run")


def test_a_run_starts_from_the_heads_of_the_same_name_and_back_from_one_of_several(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    one = begin(data[0].source, short(), tmp_path / "one")
    both = begin(data, short(init=str(tmp_path / "one")), tmp_path / "both")
    assert both.model.transformer.output[0].weight.equal(one.model.transformer.output.weight)
    assert sorted(both.info.provenance["init"]["new"].values()) == [
        ("transformer.output.1.weight", "transformer.output.1.bias")
    ]
    swapped = begin(data[::-1], short(init=str(tmp_path / "both"), seed=5), tmp_path / "swapped")
    assert swapped.model.transformer.output[1].weight.equal(one.model.transformer.output.weight)
    assert swapped.info.provenance["init"]["new"] == {}
    back = begin(data[0].source, short(init=str(tmp_path / "swapped"), seed=6), tmp_path / "back")
    assert back.model.transformer.output.weight.equal(one.model.transformer.output.weight)
    assert back.model.backbone.stem.weight.equal(one.model.backbone.stem.weight)
