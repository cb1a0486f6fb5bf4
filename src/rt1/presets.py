"""Named training runs: the only place with the numbers of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rt1.actions import ActionSpec
from rt1.common.suggest import lookup
from rt1.data.pipeline.augment import AugmentSettings
from rt1.model.conditioning import TextConfig
from rt1.model.efficientnet import EfficientNetConfig, Stage
from rt1.model.maxvit import MaxViTConfig
from rt1.model.rt1 import RT1Config
from rt1.model.transformer import TransformerConfig
from rt1.text.encoder import TextEncoderIdentity
from rt1.train.averaging import AverageSettings
from rt1.train.config import TrainConfig
from rt1.train.data import fitted
from rt1.train.optim import OptimizerSettings


def paper() -> TrainConfig:
    """RT-1 as released: EfficientNet-B3 at 300x300, 35 M parameters, Adam at 1e-4."""
    return TrainConfig(
        name="paper",
        model=RT1Config(),
        optimizer=OptimizerSettings(
            kind="adam",
            learning_rate=1e-4,
            schedule="constant",
            warmup=0,
            weight_decay=0.0,
            betas=(0.9, 0.999),
            eps=1e-7,
            eps_form="keras",
            clip_norm=0.0,
        ),
        updates=400_000,
        batch_size=64,
        activations="selective",
        log_every=50,
        validate_every=5_000,
        save_every=1_000,
        loader_threads=4,
    )


def demo() -> TrainConfig:
    """The network of rt1 demo: RT-1 small enough to learn five simulated tasks in minutes on one core.

    Found by trying, see dev/log.md: small batches learn faster per image than large ones. Spread targets halve
    the action error after the same time. Random crops hurt where the camera never moves. One thread beats two at
    this size, and bf16 gains nothing.
    """
    return TrainConfig(
        name="demo",
        model=RT1Config(
            window=2,
            image_size=(64, 64),
            token_width=128,
            token_learner_hidden=32,
            efficientnet=EfficientNetConfig(
                width=1.0,
                depth=1.0,
                # Three strides of 2 instead of five: an 8x8 grid from 64x64, so that a small handle keeps its place.
                stages=(_stage(2, 1, 16, 1), _stage(2, 4, 32, 2), _stage(1, 4, 48, 2)),
                stem_channels=16,
                top_channels=None,
                drop_connect=0.0,
            ),
            transformer=TransformerConfig(layers=2, width=128, heads=4, head_width=32),
        ),
        optimizer=OptimizerSettings(learning_rate=3e-3, warmup=100),
        updates=7_000,
        batch_size=16,
        held_out=0.03,
        augment=AugmentSettings(crop_share=0.0),
        target_spread=3.0,
        log_every=50,
        validate_every=500,
        save_every=500,
        threads=1,
    )


def mt50() -> TrainConfig:
    """The network of scripts/mt50: one policy for 50 simulated tasks, 1.5 M parameters, 96x96 pixels.

    The demo's recipe with a wider and deeper network, larger images, and a moving average of the weights.
    """
    small = demo()
    model = replace(
        small.model,
        image_size=(96, 96),
        token_width=192,
        token_learner_hidden=64,
        efficientnet=replace(
            small.model.efficientnet,
            stages=(_stage(2, 1, 24, 1), _stage(2, 4, 48, 3), _stage(1, 4, 96, 3)),
            stem_channels=24,
        ),
        transformer=TransformerConfig(layers=3, width=192, heads=6, head_width=32),
    )
    return replace(
        small,
        name="mt50",
        model=model,
        temperature=0.5,
        optimizer=replace(small.optimizer, learning_rate=2e-3, warmup=500),
        average=AverageSettings(decay=0.999),
        updates=21_000,
        batch_size=32,
        windows_per_clip=2,
        validate_every=1_000,
    )


def sentence() -> TrainConfig:
    """RT-1 with a sentence encoder: no top convolution, 9x9 positions by pooling, 48 tokens.

    After the PyTorch variant that users of sentence-transformers know: vectors of 384 entries brought to 512 by a
    learned layer, TokenLearner with sigmoid weights, GELU feed-forward, one linear layer per action dimension. All
    steps of a window are supervised, where the original supervised the last one only: an episode starts with the
    first image at the first place, whose action would never be learned.
    """
    return replace(
        paper(),
        name="sentence",
        model=RT1Config(
            text=TextConfig(projection=512),
            efficientnet=EfficientNetConfig(padding="same", top_channels=None, pool=(9, 9), output_condition=False),
            position_weights="sigmoid",
            readout="last_token",
            transformer=TransformerConfig(head_width=64, feed_forward="gelu", hidden=1024),
        ),
    )


def maxvit() -> TrainConfig:
    """RT-1 with MaxViT-T at 224x224, conditioned by FiLM in every block."""
    return replace(paper(), name="maxvit", model=RT1Config(backbone="maxvit", image_size=(224, 224)))


def robocat() -> TrainConfig:
    """The RT-1 of RoboCAT: MaxViT and transformer attend to the text's tokens, guidance, actions read at the mean.

    It wants an encoder of tokens: ``--text-encoder minilm:tokens=32``, ``hf:NAME:tokens=32`` or ``word-pieces``.
    """
    return replace(
        paper(),
        name="robocat",
        model=RT1Config(
            backbone="maxvit",
            image_size=(224, 224),
            conditioning="cross_attention",
            text=TextConfig(drop=0.2),
            mask="step",
            readout="mean_token",
            transformer=TransformerConfig(
                layers=6, head_width=64, feed_forward="gelu", hidden=2048, condition="cross_attention"
            ),
        ),
    )


def demo_sentence() -> TrainConfig:
    """The demo with a small network like that of the preset sentence."""
    small = demo().model
    model = replace(
        small,
        text=TextConfig(projection=small.token_width),
        efficientnet=replace(small.efficientnet, padding="same", pool=(8, 8), output_condition=False),
        position_weights="sigmoid",
        readout="last_token",
        transformer=replace(small.transformer, feed_forward="gelu", hidden=2 * small.token_width),
    )
    return replace(demo(), name="demo-sentence", model=model)


def demo_maxvit() -> TrainConfig:
    """The demo with a small MaxViT instead of the EfficientNet."""
    blocks = MaxViTConfig(
        stem_channels=16, channels=(32, 48), depths=(1, 1), partition=4, head_width=16, expand=2, drop_connect=0.0
    )
    return replace(demo(), name="demo-maxvit", model=replace(demo().model, backbone="maxvit", maxvit=blocks))


def demo_attention() -> TrainConfig:
    """The demo with a small MaxViT that attends to the instruction's word pieces."""
    return replace(
        demo_maxvit(), name="demo-attention", model=replace(demo_maxvit().model, conditioning="cross_attention")
    )


def debug() -> TrainConfig:
    """A few thousand parameters that train in seconds, for tests and for a first look at your data."""
    return TrainConfig(
        name="debug",
        model=RT1Config(
            window=2,
            image_size=(48, 48),
            token_width=16,
            image_tokens=4,
            token_learner_hidden=8,
            efficientnet=EfficientNetConfig(
                width=0.5,
                depth=1.0,
                stages=(_stage(2, 1, 16, 1), _stage(2, 2, 24, 1)),
                stem_channels=16,
                top_channels=None,
            ),
            transformer=TransformerConfig(layers=1, width=16, heads=2, head_width=8, hidden=16),
        ),
        optimizer=OptimizerSettings(learning_rate=3e-3, warmup=5),
        updates=20,
        batch_size=4,
        log_every=5,
        validate_every=10,
        save_every=10,
        threads=1,
    )


def _stage(stride: int, expand: int, channels: int, blocks: int) -> Stage:
    return Stage(kernel=3, stride=stride, expand=expand, channels=channels, blocks=blocks)


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "paper": paper,
    "sentence": sentence,
    "maxvit": maxvit,
    "robocat": robocat,
    "demo": demo,
    "mt50": mt50,
    "demo-sentence": demo_sentence,
    "demo-maxvit": demo_maxvit,
    "demo-attention": demo_attention,
    "debug": debug,
}


TEXT_ENCODERS = {"robocat": "minilm:tokens=32", "demo-attention": "minilm:tokens=16"}
"""Text encoders of the presets whose networks look at more than the one vector that recordings carry."""


def preset(name: str) -> TrainConfig:
    """Return a preset. An unknown name raises ``ValueError`` with a suggestion."""
    return lookup("preset", name, PRESETS)()


def network_config(name: str, action_spec: ActionSpec, text_encoder: TextEncoderIdentity) -> RT1Config:
    """Return the network of a preset for an action and a text encoder.

    Args:
        name: name of the preset. An unknown name raises ``ValueError`` with a suggestion.
        action_spec: dimensions and bins of the action.
        text_encoder: identity of the encoder of the instructions, ``encoder.identity``.
    """
    return fitted(preset(name).model, [action_spec], width=text_encoder.width, text_encoder=text_encoder)
