"""Initialization from another network: what is loaded, what is new, and the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rt1.actions import ActionSpec, Continuous
from rt1.checkpoint import CheckpointInfo, load_info, load_model, save_checkpoint
from rt1.data.sources.base import CORRECTIONS, EpisodeSource, has_corrections
from rt1.errors import CheckpointError, TrainingError
from rt1.evaluate.metrics import read_metrics
from rt1.model.rt1 import RT1, RT1Config
from rt1.presets import preset
from rt1.pretrained.imagenet import METADATA_KEY
from rt1.text.encoder import TextEncoderIdentity
from rt1.train.averaging import AverageSettings
from rt1.train.config import TrainConfig
from rt1.train.loop import train
from rt1.train.optim import OptimizerSettings
from rt1.train.param_groups import component
from rt1.train.run import begin
from rt1.train.warm_start import start_from

ENCODER = TextEncoderIdentity(name="one", sha256="1" * 64, width=8)
OTHER = TextEncoderIdentity(name="other", sha256="2" * 64, width=8)


def _spec(dimensions: int = 3, *, high: float = 1.0, bins: int = 16) -> ActionSpec:
    return ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * dimensions, high=(high,) * dimensions),), bins=bins)


def _network(seed: int, **changes: Any) -> RT1:
    """A network whose every parameter is random."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"action_tokens": 3, "bins": 16, "text_width": 8, "window": 3, **changes}
    model = RT1(dataclasses.replace(preset("debug").model, **sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of three dimensions, three steps, and the encoder ``one``."""
    return _saved(tmp_path / "old", _network(1))


def _saved(folder: Path, model: RT1, *, encoder: TextEncoderIdentity | None = ENCODER) -> Path:
    spec = _spec(model.config.action_tokens, bins=model.config.bins)
    return save_checkpoint(
        folder, model=model, info=CheckpointInfo(model=model.config, action_spec=spec, text_encoder=encoder)
    )


def _logits(model: RT1, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 4, 48, 48, 3, generator=generator)[:, :steps]
    with torch.inference_mode():
        return model.predict(images, torch.rand(2, 8, generator=generator))


def test_the_same_network_for_the_same_actions_is_taken_over_whole(checkpoint: Path) -> None:
    model = _network(2)
    start = start_from(model, checkpoint, action_spec=_spec(), text_encoder=ENCODER)
    assert torch.equal(_logits(model, 3), _logits(_network(1), 3))
    assert (set(start.loaded), start.reinitialized, start.notes) == (set(model.state_dict()), {}, ())


@pytest.mark.parametrize("spec", [_spec(high=2.0), _spec(bins=32), _spec(2)])
def test_another_action_spec_gets_a_new_head_and_it_is_said(checkpoint: Path, spec: ActionSpec) -> None:
    sizes = {"action_tokens": spec.size, "bins": spec.bins}
    model, untouched, old = _network(2, **sizes), _network(2, **sizes).state_dict(), _network(1).state_dict()
    start = start_from(model, checkpoint, action_spec=spec, text_encoder=ENCODER)
    head = ("transformer.output.weight", "transformer.output.bias")
    assert start.reinitialized == {"the action spec is another one: its tokens mean other actions": head}
    now = model.state_dict()
    assert all(torch.equal(now[name], untouched[name]) for name in head)
    kept = now.keys() - {*head, "transformer.position_LD"}
    assert all(torch.equal(now[name], old[name]) for name in kept)
    assert "new: transformer.output.weight, transformer.output.bias (the action spec is another one" in "".join(
        start.lines()
    )


def test_a_shorter_window_gives_what_the_longer_one_gave_of_its_first_steps(checkpoint: Path) -> None:
    model = _network(2, window=2)
    start = start_from(model, checkpoint, action_spec=_spec(), text_encoder=ENCODER)
    torch.testing.assert_close(_logits(model, 2), _logits(_network(1), 3)[:, :2])
    assert start.notes == ("window of 3 steps then, 2 now: positions of the first 2 steps",)


def test_a_longer_window_gives_the_same_of_as_many_steps_and_begins_the_others_with_the_last(checkpoint: Path) -> None:
    model = _network(2, window=4)
    start = start_from(model, checkpoint, action_spec=_spec(), text_encoder=ENCODER)
    torch.testing.assert_close(_logits(model, 3), _logits(_network(1), 3))
    third, fourth = model.transformer.position_LD.detach().unflatten(0, (4, -1))[2:]
    assert torch.equal(third, fourth)
    assert start.notes == ("window of 3 steps then, 4 now: the others begin with the last one's positions",)


@pytest.mark.parametrize(
    ("name", "then", "now"), [("action_tokens", 3, 5), ("action_tokens", 3, 2), ("image_tokens", 4, 6)]
)
def test_positions_of_the_tokens_that_both_have_are_taken_over(
    checkpoint: Path, name: str, then: int, now: int
) -> None:
    model, untouched = _network(2, **{name: now}), _network(2, **{name: now})
    start = start_from(model, checkpoint, action_spec=_spec(model.config.action_tokens), text_encoder=ENCODER)
    kept = min(then, now)
    was = _network(1).transformer.position_LD.detach().unflatten(0, (3, 7))
    table, before = (m.transformer.position_LD.detach().unflatten(0, (3, -1)) for m in (model, untouched))
    images = model.config.image_tokens
    assert torch.equal(table[:, :4], was[:, :4])
    shared = min(3, model.config.action_tokens)
    assert torch.equal(table[:, images : images + shared], was[:, 4 : 4 + shared])
    first = kept if name == "image_tokens" else images + kept
    assert torch.equal(table[:, first:images], before[:, first:images])
    assert torch.equal(table[:, images + shared :], before[:, images + shared :])
    words = name.replace("_", " ")
    assert f"{then} {words} then, {now} now: positions of the first {kept} of each step" in start.notes
    if name == "image_tokens":
        assert start.reinitialized["another shape in the checkpoint"] == (
            "token_learner.maps.weight",
            "token_learner.maps.bias",
        )


def test_another_text_encoder_is_refused_with_the_cures(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"old cannot be loaded .*'other'.*'one'.* is needed.*--init-new-text"):
        start_from(_network(2), checkpoint, action_spec=_spec(), text_encoder=OTHER)


def test_the_text_starts_anew_where_that_is_wished(checkpoint: Path) -> None:
    model, old = _network(2, text_width=5), _network(1).state_dict()
    untouched = _network(2, text_width=5).state_dict()
    other = dataclasses.replace(OTHER, width=5)
    start = start_from(model, checkpoint, action_spec=_spec(), text_encoder=other, new_text=True)
    now = model.state_dict()
    (names,) = start.reinitialized.values()
    assert set(names) == {n for n in now if "film" in n and n.endswith("weight")}
    assert all(torch.equal(now[n], untouched[n] if n in names else old[n]) for n in now)


def test_an_unknown_text_encoder_is_noted_and_its_width_must_fit(tmp_path: Path) -> None:
    old = _saved(tmp_path / "old", _network(1), encoder=None)
    start = start_from(_network(2), old, action_spec=_spec(), text_encoder=ENCODER)
    assert start.notes == (
        "whether the text embeddings are of the checkpoint's text encoder is not known. They must be",
    )
    with pytest.raises(
        ValueError, match=r"takes text embeddings of 8 entries, the data's have 5. Name that text encoder"
    ):
        start_from(_network(2, text_width=5), old, action_spec=_spec(), text_encoder=None)


def test_settings_that_change_what_the_weights_do_are_noted(checkpoint: Path) -> None:
    start = start_from(_network(2, mask="rt1x"), checkpoint, action_spec=_spec(), text_encoder=ENCODER)
    assert start.notes == ("settings of the network that are not the checkpoint's: mask: rt1 then, rt1x now",)


def test_shapes_that_do_not_fit_start_anew(checkpoint: Path) -> None:
    wider = dataclasses.replace(preset("debug").model.transformer, width=24)
    start = start_from(_network(2, transformer=wider), checkpoint, action_spec=_spec(), text_encoder=ENCODER)
    names = start.reinitialized["another shape in the checkpoint"]
    assert "transformer.position_LD" in names
    assert all(name.startswith("transformer.") for name in names)
    assert "backbone.stem.weight" in start.loaded


def test_a_checkpoint_of_which_nothing_fits_is_refused(checkpoint: Path) -> None:
    base = preset("debug").model
    changes = {
        "token_width": 24,
        "token_learner_hidden": 12,
        "image_tokens": 3,
        "bins": 8,
        "efficientnet": dataclasses.replace(base.efficientnet, width=3.0),
        "transformer": dataclasses.replace(base.transformer, width=24, head_width=16, hidden=24),
    }
    with pytest.raises(ValueError, match=r"nothing of .*old fits this network. Give its network's settings"):
        start_from(_network(2, **changes), checkpoint, action_spec=_spec(bins=8), text_encoder=ENCODER)


def _imagenet(path: Path, config: RT1Config) -> dict[str, Tensor]:
    """Write the file of a backbone as ``rt1 convert imagenet`` does."""
    tensors = {
        name.removeprefix("backbone."): tensor.contiguous()
        for name, tensor in _network(5).state_dict().items()
        if name.startswith("backbone.") and "film" not in name and "tracked" not in name
        if not name.startswith("backbone.output")
    }
    assert config.backbone == "efficientnet"
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps({"configuration": "EfficientNet-B3"})})
    return tensors


def test_an_imagenet_file_fills_the_backbone_and_nothing_else(tmp_path: Path) -> None:
    model, untouched = _network(2), _network(2).state_dict()
    tensors = _imagenet(tmp_path / "b3.safetensors", model.config)
    start = start_from(model, tmp_path / "b3.safetensors", action_spec=_spec(), text_encoder=None)
    assert {name.removeprefix("backbone.") for name in start.loaded} == tensors.keys()
    for name, tensor in model.state_dict().items():
        own = tensors.get(name.removeprefix("backbone.")) if name in start.loaded else untouched[name]
        assert own is not None
        assert torch.equal(tensor, own), name
    assert (
        f"initialized from {tmp_path / 'b3.safetensors'}: {len(tensors)} of {len(untouched)} tensors"
        in start.lines()[0]
    )


def test_the_account_survives_json(checkpoint: Path) -> None:
    start = start_from(_network(2, bins=8), checkpoint, action_spec=_spec(bins=8), text_encoder=ENCODER)
    data: dict[str, Any] = start.to_json()
    assert data["loaded"] == len(start.loaded) > 50
    assert [*data["new"].values()] == [("transformer.output.weight", "transformer.output.bias")]


def test_a_policy_that_starts_from_a_corrected_one_stays_corrected(checkpoint: Path, tmp_path: Path) -> None:
    def corrected(facts: dict[str, Any]) -> bool:
        info = dataclasses.replace(load_info(checkpoint), provenance=facts)
        folder = save_checkpoint(tmp_path / "next", model=load_model(checkpoint), info=info)
        start = start_from(_network(2), folder, action_spec=_spec(), text_encoder=ENCODER)
        return has_corrections({"init": start.to_json()})

    assert not corrected({})
    assert corrected({CORRECTIONS: True})
    assert corrected({"init": {CORRECTIONS: True}})  # and the one after it


LENGTHS = (6, 5, 4, 7, 4, 5)


def test_a_run_starts_from_another_one_and_says_so(
    make_source: Callable[..., EpisodeSource],
    short: Callable[..., TrainConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = make_source(*LENGTHS)
    train(source, short(updates=4), tmp_path / "first")
    config = short(updates=2, init=str(tmp_path / "first"), average=AverageSettings(decay=0.9))
    train(source, config, tmp_path / "second")
    assert f"initialized from {tmp_path / 'first'}: 81 of 81 tensors loaded" in capsys.readouterr().err
    assert load_info(tmp_path / "second").provenance["init"]["source"] == str(tmp_path / "first")
    first, second = (read_metrics(tmp_path / run) for run in ("first", "second"))
    assert second[0]["loss"] < first[0]["loss"] - 0.2


def test_a_run_that_goes_on_needs_its_start_no_more_and_refuses_another(
    make_source: Callable[..., EpisodeSource], short: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    source = make_source(*LENGTHS)
    train(source, short(updates=2), tmp_path / "first")
    config, run = short(updates=4, init=str(tmp_path / "first")), tmp_path / "second"
    begin(source, config, run)
    (tmp_path / "first").rename(tmp_path / "gone")
    train(source, config, run)
    assert load_info(run).provenance["init"]["loaded"] == 81
    with pytest.raises(TrainingError, match=r"init: .*first then, .*gone now"):
        train(source, dataclasses.replace(config, init=str(tmp_path / "gone")), run)


def test_frozen_parts_keep_what_they_started_from(
    make_source: Callable[..., EpisodeSource], short: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    source = make_source(*LENGTHS)
    train(source, short(updates=2), tmp_path / "first")
    frozen = OptimizerSettings(freeze=("backbone", "text"))
    train(source, short(updates=3, init=str(tmp_path / "first"), optimizer=frozen, seed=5), tmp_path / "second")
    before, after = (load_model(tmp_path / run).state_dict() for run in ("first", "second"))
    same = {name for name in before if before[name].equal(after[name])}
    assert {name for name in before if component(name) in ("backbone", "text")} <= same
    assert "transformer.output.weight" not in same


def test_a_network_with_weights_that_are_not_finite_is_no_start(tmp_path: Path) -> None:
    broken = _network(1)
    broken.transformer.output.bias.data[2] = float("nan")
    old = _saved(tmp_path / "old", broken)
    with pytest.raises(CheckpointError, match=r"transformer\.output\.bias holds a value that is not finite"):
        start_from(_network(2), old, action_spec=_spec(), text_encoder=ENCODER)
    backbone = tmp_path / "backbone.safetensors"
    tensors = {name.removeprefix("backbone."): t for name, t in broken.state_dict().items() if "backbone." in name}
    tensors = {name: t for name, t in tensors.items() if "film" not in name and "output" not in name and t.ndim}
    tensors["stem.weight"] = tensors["stem.weight"].fill_(float("inf"))
    save_file(tensors, backbone, metadata={METADATA_KEY: json.dumps({"configuration": "EfficientNet-B3"})})
    with pytest.raises(CheckpointError, match=r"stem\.weight holds a value that is not finite"):
        start_from(_network(2), backbone, action_spec=_spec(), text_encoder=None)
