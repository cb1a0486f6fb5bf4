"""A checkpoint as LeRobot's ``pretrained_model`` folder of the policy type ``rt1``, and back. No lerobot.

    config.json                  type rt1, the features, how it acts in its environment, and under the key
                                 ``checkpoint`` all of ``checkpoint.json``
    model.safetensors            the weights, each name behind ``network.``
    policy_preprocessor.json     LeRobot's steps before and after the policy, which change no value
    policy_postprocessor.json
    instructions.safetensors, results.json    of a packaged policy, as they are

The policy itself is ``packages/lerobot_policy_rt1``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rt1.checkpoint import (
    EXTRA_FILES,
    CheckpointInfo,
    build_model,
    info_from_json,
    info_to_json,
    load_info,
    load_model,
    resolve,
)
from rt1.common.files import copy_existing, replacing, write_text
from rt1.common.folders import check_outside
from rt1.common.json_files import read_object
from rt1.envs.registry import lerobot_options
from rt1.errors import CheckpointError
from rt1.model.rt1 import RT1
from rt1.policy.base import recorded_size

POLICY_TYPE = "rt1"
CHECKPOINT_KEY = "checkpoint"
"""Key of LeRobot's ``config.json`` and field of the policy's configuration: the content of ``checkpoint.json``."""
PREFIX = "network."
"""The attribute of the policy that holds the network, in the names of its weights."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PREPROCESSOR_FILE, POSTPROCESSOR_FILE = "policy_preprocessor.json", "policy_postprocessor.json"
LEROBOT_FILES = (CONFIG_FILE, WEIGHTS_FILE, PREPROCESSOR_FILE, POSTPROCESSOR_FILE, *EXTRA_FILES)
IMAGE_KEY = "observation.image"
"""Key of the camera in LeRobot's environments with one camera."""

_CURE = "Give LeRobot's folder pretrained_model of a policy of type rt1"
_NORMALIZATION = {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"}


@dataclass(frozen=True, kw_only=True)
class LeRobotCheckpoint:
    """A network and what its folder says of it."""

    model: RT1
    info: CheckpointInfo


def write_lerobot(
    run: Path | str, folder: Path, *, embodiment: str | None = None, image_key: str = IMAGE_KEY
) -> CheckpointInfo:
    """Write a checkpoint as LeRobot's folder and return what the checkpoint says of itself.

    Args:
        run: checkpoint or run folder.
        folder: folder to write. One that is there is replaced if it is of this kind.
        embodiment: which one, where the network has several.
        image_key: LeRobot's key of the camera.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        PolicyError: it says an image size that is none.
        ValueError: ``image_key`` names no camera.
        SaveError: the folder holds other files or lies in the checkpoint, or the disk is full or read-only.
    """
    if image_key.strip() in ("", "action"):
        raise ValueError(f"image_key is {image_key!r}, must be the key of a camera. Use {IMAGE_KEY}")
    check_outside(folder, resolve(run))
    info, model = load_info(run, embodiment=embodiment), load_model(run, embodiment=embodiment)
    size = recorded_size(info.provenance) or model.config.image_size
    inputs = {image_key: {"type": "VISUAL", "shape": [3, *size]}}
    outputs = {"action": {"type": "ACTION", "shape": [info.action_spec.size]}}
    with replacing(folder, holding=LEROBOT_FILES) as temporary:
        temporary.mkdir()
        tensors = {PREFIX + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {
            "type": POLICY_TYPE,
            "n_obs_steps": model.config.window,
            "input_features": inputs,
            "output_features": outputs,
            "normalization_mapping": _NORMALIZATION,
            "push_to_hub": False,
            **lerobot_options(info.provenance),
            CHECKPOINT_KEY: info_to_json(info),
        }
        for name, content in ((CONFIG_FILE, config), *_processors(inputs, outputs)):
            write_text(temporary / name, json.dumps(content, indent=1))
        copy_existing(resolve(run), temporary, EXTRA_FILES)
    return info


def read_lerobot(folder: Path) -> LeRobotCheckpoint:
    """Read a folder that LeRobot or :func:`write_lerobot` wrote.

    Raises:
        CheckpointError: a missing or damaged file, a policy of another type, or weights that do not fit.
    """
    file = folder / CONFIG_FILE
    config = read_object(file, error=CheckpointError, cure=_CURE)
    if (kind := config.get("type")) != POLICY_TYPE:
        raise CheckpointError(f"{file} describes a LeRobot policy of type {kind!r}, it must be 'rt1'. {_CURE}")
    info = read_description(config.get(CHECKPOINT_KEY), file)
    model = build_model(info.model, file, folder / WEIGHTS_FILE, prefix=PREFIX)
    return LeRobotCheckpoint(model=model, info=info)


def read_description(description: Any, file: Path) -> CheckpointInfo:  # noqa: ANN401 (of a file)
    """Read the value of :data:`CHECKPOINT_KEY`. Anything else raises :class:`CheckpointError`."""
    if not isinstance(description, Mapping):
        raise CheckpointError(f"{file} has no object {CHECKPOINT_KEY!r}, which describes the network. {_CURE}")
    info = info_from_json(description, file)
    if not isinstance(info, CheckpointInfo):
        raise CheckpointError(f"{file} describes a network of several embodiments, it must be one. Convert one of them")
    return info


def _processors(inputs: dict[str, Any], outputs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and content of LeRobot's descriptions of the steps before and after the policy."""

    def step(name: str, **config: object) -> dict[str, Any]:
        return {"registry_name": name, "config": config}

    def normalizer(name: str, features: dict[str, Any]) -> dict[str, Any]:
        return step(name, eps=1e-8, features=features, norm_map=_NORMALIZATION)

    device = step("device_processor", device="cpu", float_dtype=None)
    before = [
        step("rename_observations_processor", rename_map={}),
        step("to_batch_processor"),
        device,
        normalizer("normalizer_processor", {**inputs, **outputs}),
    ]
    after = [normalizer("unnormalizer_processor", outputs), device]
    return [
        (file, {"name": file.removesuffix(".json"), "steps": steps})
        for file, steps in ((PREPROCESSOR_FILE, before), (POSTPROCESSOR_FILE, after))
    ]
