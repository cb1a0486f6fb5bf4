"""Fixtures of the export tests: small checkpoints with the quirks of the released networks, exported once."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, Discrete, FloatArray
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.export.exporter import ExportSettings, export
from rt1.export.formats import EXTRA, PACKAGES
from rt1.model.conditioning import TextConfig
from rt1.model.maxvit import MaxViTConfig
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.exported_manifest import Format
from rt1.presets import preset
from rt1.text.encoder import TableEncoder

SPEC = ActionSpec(
    parts=(
        Continuous(name="move", low=(-1.0, 0.0), high=(1.0, 5.0)),
        Discrete(name="end", choices=3, invalid="none"),
    ),
    bins=16,
)


def _networks() -> dict[str, RT1Config]:
    """Return small networks with the quirks of the released ones, and with what else a network can have."""
    plain = dataclasses.replace(preset("debug").model, window=3, action_tokens=SPEC.size, bins=SPEC.bins, text_width=8)
    backbone = dataclasses.replace(plain.efficientnet, padding="same", unbiased_moving_variance=False)
    return {
        "rt1": plain,
        "rt1x": dataclasses.replace(
            plain,
            mask="rt1x",
            image_tokens=9,
            image_size=(45, 57),
            efficientnet=backbone,
            transformer=dataclasses.replace(plain.transformer, feed_forward="swiglu"),
        ),
        "maxvit": dataclasses.replace(
            plain,
            backbone="maxvit",
            maxvit=MaxViTConfig(stem_channels=8, channels=(8, 16), depths=(1, 1), partition=2, head_width=8),
            text=TextConfig(tokens=2, projection=6),
            conditioning="cross_attention",
            transformer=dataclasses.replace(plain.transformer, condition="cross_attention"),
        ),
        "word pieces": dataclasses.replace(
            plain, text=TextConfig(vocabulary=20, table_width=6), readout="mean_token", mask="rt1"
        ),
    }


@pytest.fixture(scope="session")
def sentences() -> TableEncoder:
    """The text encoder of the checkpoints: two sentences of 8 entries."""
    random = np.random.default_rng(1)
    return TableEncoder({name: random.normal(size=8) for name in ("open the drawer", "close the drawer")}, "table")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, sentences: TableEncoder) -> Callable[[str], Path]:
    """Save a small network of a kind that :func:`_networks` has, no weight of which is zero."""

    def save(kind: str = "rt1") -> Path:
        model_config = _networks()[kind]
        torch.manual_seed(7)
        model = RT1(model_config)
        for parameter in model.parameters():
            if not parameter.any():  # FiLM and biases start at zero: the text would change nothing
                torch.nn.init.normal_(parameter, std=0.5)
        info = CheckpointInfo(model=model_config, action_spec=SPEC, text_encoder=sentences.identity, control_rate=3.0)
        return save_checkpoint(tmp_path_factory.mktemp(kind) / "checkpoint", model=model, info=info)

    return save


def _skip_without(extra: str, *packages: str) -> None:
    for name in packages:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; it comes with the extra {extra}")


@pytest.fixture(scope="session")
def onnx_export(
    checkpoint: Callable[[str], Path],
    sentences: TableEncoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A checkpoint and its ONNX export; tests must not change them."""
    _skip_without("export-onnx", "onnx", "onnxscript", "onnxruntime")
    source, out = checkpoint("rt1"), tmp_path_factory.mktemp("onnx") / "export"
    export(source, out, ExportSettings(to="onnx"), encoder=sentences)
    return source, out


@pytest.fixture(scope="session")
def int8_export(onnx_export: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint's ONNX export in int8; tests must not change it."""
    out = tmp_path_factory.mktemp("int8") / "export"
    export(onnx_export[0], out, ExportSettings(to="onnx", precision="int8"))
    return out


@pytest.fixture
def skip_without() -> Callable[[Format], None]:
    """Skip where the packages of a format are not installed."""
    return lambda to: _skip_without(EXTRA.get(to, ""), *PACKAGES[to])


@pytest.fixture(scope="session")
def torch_export(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its torch export, without a table; tests must not change them."""
    source, out = checkpoint("rt1"), tmp_path_factory.mktemp("torch") / "export"
    export(source, out, ExportSettings(to="torch-export"))
    return source, out


@pytest.fixture(scope="session")
def images() -> list[NDArray[np.uint8]]:
    """Eight images of coarse patches, larger than the network's."""
    coarse = np.random.default_rng(2).integers(0, 256, (8, 8, 10, 3), dtype=np.uint8)
    return list(coarse.repeat(8, axis=1).repeat(8, axis=2))


@pytest.fixture(scope="session")
def embedding() -> FloatArray:
    """A text embedding that is both a vector and ids of word pieces."""
    return np.array([1, 2, 1, 3, 0, 2, 1, 1], dtype=np.float32)
