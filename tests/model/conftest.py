"""Fixtures of the model tests: recorded numbers, and the small reference checkpoints converted once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, Discrete, rt1_action_spec
from rt1.model.rt1 import RT1Config
from rt1.pretrained.convert import Conversion, convert_flax, convert_tensorflow
from rt1.pretrained.layout import CONV_AXES, Weight, source_shape

HALF_PI = 1.5707963705062866

TF_SMALL_ACTION = ActionSpec(
    parts=(
        Continuous(name="world_vector", low=(-1.0,) * 3, high=(1.0,) * 3),
        Discrete(name="terminate_episode", choices=2),
        Continuous(name="gripper_closedness_action", low=(-1.0,), high=(1.0,)),
        Continuous(name="rotation_delta", low=(-HALF_PI,) * 3, high=(HALF_PI,) * 3),
    ),
    bins=256,
)
TF_SMALL_MODEL: dict[str, Any] = {
    "window": 3,
    "action_tokens": 8,
    "transformer": {"layers": 2, "width": 64, "heads": 4, "head_width": 32},
}
JAX_SMALL_MODEL: dict[str, Any] = {
    "window": 3,
    "mask": "rt1x",
    "efficientnet": {"padding": "same", "unbiased_moving_variance": False},
    "transformer": {
        "layers": 2,
        "width": 64,
        "heads": 4,
        "head_width": 32,
        "feed_forward": "linear_no_bias",
    },
}


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """The folder of recorded numbers."""
    return shared / "reference"


@pytest.fixture(scope="session")
def checkpoints(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tf_small`` and ``jax_small`` as files in TensorFlow's and flax' own formats."""
    folder = tmp_path_factory.mktemp("reference_checkpoints")
    subprocess.run([sys.executable, reference / "make_checkpoints.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def tf_small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "tf_small.json"
    file.write_text(json.dumps({"model": TF_SMALL_MODEL, "action": TF_SMALL_ACTION.to_json()}))
    return file


@pytest.fixture(scope="session")
def jax_small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "jax_small.json"
    action = rt1_action_spec(invalid="none").to_json()
    file.write_text(json.dumps({"model": JAX_SMALL_MODEL, "action": action}))
    return file


@pytest.fixture(scope="session")
def tf_small(checkpoints: Path, tf_small_config: Path) -> Conversion:
    """The official TensorFlow network of the recordings; tests must not change it."""
    return convert_tensorflow(checkpoints / "tf_small" / "ckpt-1", config=tf_small_config)


@pytest.fixture(scope="session")
def jax_small(checkpoints: Path, jax_small_config: Path) -> Conversion:
    """The JAX network of the recordings; tests must not change it."""
    return convert_flax(checkpoints / "jax_small", config=jax_small_config)


def _to_source(tensor: torch.Tensor, weight: Weight, config: RT1Config) -> NDArray[Any]:
    if weight.third is not None:
        tensor = tensor.chunk(3)[weight.third]
    array = tensor.detach().numpy()
    if weight.kind in CONV_AXES:
        return array.transpose(np.argsort(CONV_AXES[weight.kind]))
    shape = source_shape(weight, array.shape, config)
    turned = weight.kind in ("dense", "dense_1x1", "heads_in", "heads_out")
    return (array.T if turned else array).reshape(shape)


@pytest.fixture(scope="session")
def to_source() -> Callable[[torch.Tensor, Weight, RT1Config], NDArray[Any]]:
    """Bring a tensor of ours to the layout TensorFlow and flax have it in: the inverse of a conversion."""
    return _to_source
