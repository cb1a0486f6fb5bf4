"""SimplerEnv's formulas for RT-1: from a policy's action to the simulator's, and from its image to the policy's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.envs.base import Image
from rt1.errors import ObservationError

IMAGE_SIZE = (256, 320)
"""Height and width of the image that RT-1 gets, pixels."""
PARTS = {"terminate_episode": 3, "world_vector": 3, "rotation_delta": 3, "gripper_closedness_action": 1}
"""Parts of a policy's action that are used -> number of values in the action dict."""
_SMALLEST_GRIPPER = 1e-2
_SMALLEST_ANGLE = 1e-6
_SMALLEST_SINE = 3 * np.finfo(np.float64).eps

NamedAction = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class PolicySetup:
    """How a policy's actions are meant, and the robot that carries them out."""

    is_normalized: bool
    """True: positions and Euler angles are normalized, as in RT-1-X. False: meters and an axis-angle vector."""
    camera: str
    """Name of the robot's camera."""
    control_rate: float
    """Steps per second, Hz."""


POLICY_SETUPS = {
    "google_robot": PolicySetup(is_normalized=False, camera="overhead_camera", control_rate=3.0),
    "widowx_bridge": PolicySetup(is_normalized=True, camera="3rd_view_camera", control_rate=5.0),
}
"""SimplerEnv's name -> the setup."""


def to_simulator(raw: Mapping[str, NDArray[Any]], setup: PolicySetup, scale: float) -> tuple[NamedAction, NamedAction]:
    """Turn a policy's action into the simulator's.

    Args:
        raw: action by part name, float32 in physical units, ``terminate_episode`` one-hot.
        setup: what the numbers mean.
        scale: factor of position and rotation.

    Returns:
        The policy's action as SimplerEnv reports it (small gripper actions set to 0, or de-normalized), and
        ``world_vector`` (3,), ``rot_axangle`` (3,) and ``gripper`` (1,), float64, with ``terminate_episode`` (3,).
    """
    raw = dict(raw)
    gripper = raw["gripper_closedness_action"]
    if setup.is_normalized:
        raw["world_vector"] = _rescaled(raw["world_vector"], 1.75, 0.05)
        raw["rotation_delta"] = _rescaled(raw["rotation_delta"], 1.4, 0.25)
        rotation = _rotation_vector(*raw["rotation_delta"].astype(np.float64))
        closing = 2.0 * (-gripper.astype(np.float64) > 0.0) - 1.0
    else:
        gripper = np.where(np.abs(gripper) < _SMALLEST_GRIPPER, np.zeros_like(gripper), gripper)
        raw["gripper_closedness_action"] = gripper
        rotation = _axis_times_angle(raw["rotation_delta"].astype(np.float64))
        closing = gripper.astype(np.float64)
    return raw, {
        "world_vector": raw["world_vector"].astype(np.float64) * scale,
        "rot_axangle": rotation * scale,
        "gripper": closing,
        "terminate_episode": raw["terminate_episode"],
    }


def _rescaled(values: NDArray[Any], bound: float, new_bound: float) -> NDArray[Any]:
    """Map [-bound, bound] to [-new_bound, new_bound] and clip, in the order of operations of SimplerEnv."""
    scaled = (values - -bound) / (bound - -bound) * (new_bound - -new_bound) + -new_bound
    return np.clip(scaled, -new_bound, new_bound)


def _axis_times_angle(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.linalg.norm(vector)
    axis = vector / angle if angle > _SMALLEST_ANGLE else np.array([0.0, 1.0, 0.0])
    return axis * angle


def _rotation_vector(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Return axis times angle of rotations about the fixed x, y and z axes, by way of the quaternion."""
    (cr, cp, cy), (sr, sp, sy) = (f(np.array([roll, pitch, yaw]) / 2) for f in (np.cos, np.sin))
    w = cr * cp * cy + sr * sp * sy
    xyz = np.array([sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy])
    sine = np.linalg.norm(xyz)
    return np.zeros(3) if sine < _SMALLEST_SINE else xyz / sine * 2 * np.arccos(np.clip(w, -1.0, 1.0))


def resize_with_pad(image: Any, size: tuple[int, int] = IMAGE_SIZE) -> Image:
    """Fit an image into ``size`` (H, W) as TensorFlow's ``resize_with_pad`` does, and truncate it to uint8.

    Args:
        image: uint8 RGB (H, W, 3).
        size: height and width of the result, pixels. The aspect ratio is kept and the rest is black.

    Raises:
        ObservationError: another dtype or shape.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ObservationError(f"the image is {kind}, must be uint8 RGB (H, W, 3). Convert it")
    old, new = np.array(image.shape[:2], dtype=np.float32), np.array(size, dtype=np.float32)
    inner = old / (old / new).max()  # float32, as in TensorFlow
    (height, width), (top, left) = np.floor(inner).astype(int), np.floor((new - inner) / 2).astype(int)
    if min(height, width) < 1:
        raise ObservationError(f"the image has shape {image.shape}, must leave a row and a column in {size}. Crop it")
    result = np.zeros((*size, 3), dtype=np.uint8)
    # The result is truncated: another order of the same operations gives other values.
    result[top : top + height, left : left + width] = _stretched(_stretched(image, width, axis=1), height, axis=0)
    return result


def _stretched(image: NDArray[Any], size: int, axis: int) -> FloatArray:
    """Interpolate linearly along an axis: half-pixel centers, edges repeated, no antialias."""
    length = image.shape[axis]
    scale = np.float32(length) / np.float32(size)
    source = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(source)
    share = (source - first).reshape([-1 if i == axis else 1 for i in range(3)])
    near = image.take(np.maximum(first, 0).astype(int), axis=axis).astype(np.float32)
    far = image.take(np.minimum(np.ceil(source), length - 1).astype(int), axis=axis).astype(np.float32)
    return near + (far - near) * share
