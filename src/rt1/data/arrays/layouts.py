"""The HDF5 files of known projects: the settings under which each of them is read, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

LayoutName = Literal["aloha", "robomimic", "libero", "robotwin", "robomind", "v-d4rl", "minari"]

LAYOUTS: Mapping[LayoutName, Mapping[str, Any]] = {
    # A file an episode, one array of images per camera, as pixels or as JPEG rows padded with zeros. No instruction.
    "aloha": {"image_key": "observations/images/cam_high", "action_keys": ("action",)},
    # No instruction, except RoboCasa's files, where an attribute of the episode holds JSON with one.
    "robomimic": {
        "group": "data",
        "image_key": "obs/agentview_image",
        "action_keys": ("actions",),
        "instruction_key": "ep_meta",
    },
    # An attribute of the group "data" holds JSON with the instruction.
    "libero": {
        "group": "data",
        "image_key": "obs/agentview_rgb",
        "action_keys": ("actions",),
        "instruction_key": "problem_info",
    },
    # The recorder gives RGB pixels to OpenCV, which takes them for BGR. The array of the action holds the joints of the
    # same step: those of the next step are the action. A JSON file next to the folder has about 100 sentences.
    "robotwin": {
        "image_key": "observation/head_camera/rgb",
        "action_keys": ("joint_action/vector",),
        "action_is_previous": True,
        "bgr": True,
        "instruction_file": "../instructions/{stem}.json",
        "instruction_key": "seen",
    },
    # Robots without a leading arm have puppet/joint_position only: --action-keys with --action-leads-here.
    "robomind": {
        "image_key": "observations/rgb_images/camera_top",
        "action_keys": ("master/joint_position",),
        "instruction_key": "language_raw",
    },
    # The files of 84 pixels: rows of several episodes, step_type 0 is a first row.
    "v-d4rl": {
        "image_key": "observation",
        "action_keys": ("action",),
        "channels_first": True,
        "action_is_previous": True,
        "start_key": "step_type",
        "start_value": 0,
    },
    # The file's own groups are the episodes. Each has one more image than actions.
    "minari": {"group": "/", "image_key": "observations", "action_keys": ("actions",)},
}
"""Layout -> fields of :class:`rt1.data.arrays.hdf5.HDF5Layout` that differ from the defaults."""
