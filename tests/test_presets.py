"""Presets: each builds its network, the paper's has Google's size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rt1 import network_config, rt1_action_spec
from rt1.data.pipeline.augment import AugmentSettings
from rt1.model.heads import parameter_counts
from rt1.model.rt1 import RT1
from rt1.presets import PRESETS, TEXT_ENCODERS, preset
from rt1.text.encoder import TextEncoderIdentity


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_builds_its_network_and_is_called_by_its_name(name: str) -> None:
    config = preset(name)
    assert config.name == name
    model = RT1(config.model).eval()
    height, width = config.model.image_size
    with torch.inference_mode():
        logits = model.predict(torch.zeros(1, 1, height, width, 3), torch.zeros(1, config.model.text_width))
    assert logits.shape == (1, 1, config.model.action_tokens, config.model.bins)
    assert logits.isfinite().all()


def test_the_paper_preset_has_the_parameters_of_googles_network() -> None:
    config = dataclasses.replace(preset("paper").model, action_tokens=11, bins=256, text_width=512)
    with torch.device("meta"):  # shapes only
        model = RT1(config)
    assert parameter_counts(model)["total"] == 35_120_544


def test_the_sentence_preset_reads_eleven_actions_from_48_tokens_of_a_9_by_9_grid() -> None:
    config = preset("sentence").model
    assert (config.sequence_length, config.grid) == (48, (9, 9))
    with torch.device("meta"):
        model = RT1(dataclasses.replace(config, text_width=384))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["text.projection.weight"] == (512, 384)
    assert shapes["backbone.output.weight"] == (512, 384, 1, 1)
    assert shapes["transformer.output.weight"] == (11 * 256, 512)


def test_the_robocat_preset_can_be_guided() -> None:
    with torch.device("meta"):
        assert RT1(preset("robocat").model).text.null_W is not None


def test_the_paper_preset_trains_as_google_does() -> None:
    config = preset("paper")
    adam = config.optimizer
    assert (adam.kind, adam.learning_rate, adam.betas, adam.eps, adam.eps_form) == (
        "adam",
        1e-4,
        (0.9, 0.999),
        1e-7,
        "keras",
    )
    assert (adam.schedule, adam.warmup, adam.weight_decay, adam.clip_norm) == ("constant", 0, 0.0, 0.0)
    assert config.augment == AugmentSettings(crop_share=1.0, crop_per="batch")
    assert (config.target_spread, config.label_smoothing, config.average.decay) == (0.0, 0.0, 0.0)
    assert (config.model.transformer.dropout, config.model.efficientnet.drop_connect) == (0.1, 0.2)


def test_presets_that_attend_to_tokens_name_an_encoder_of_tokens() -> None:
    attending = {name for name, make in PRESETS.items() if make().model.conditioning == "cross_attention"}
    assert set(TEXT_ENCODERS) == attending


def test_a_network_comes_from_preset_action_and_text_encoder_in_one_call() -> None:
    tokens = TextEncoderIdentity(name="tokens", sha256="", width=24, tokens=3)
    config = network_config("demo-attention", rt1_action_spec(bins=512), tokens)
    assert (config.action_tokens, config.bins, config.text_width, config.text.tokens) == (11, 512, 24, 3)
    assert config.image_size == preset("demo-attention").model.image_size


def test_an_unknown_preset_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="unknown preset 'papper', did you mean 'paper'"):
        preset("papper")
