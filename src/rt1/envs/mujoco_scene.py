"""What a picture of a MuJoCo simulation depends on, to draw it later than it was simulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scene = Mapping[str, NDArray[np.generic]]
_ARRAYS = (
    *("xpos", "xmat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir"),
    *("ten_wrapadr", "ten_wrapnum", "wrap_obj", "wrap_xpos"),
)
"""All arrays of a simulation's data that its picture depends on."""


def copy_scene(data: Any) -> Scene:
    """Return a copy of what the picture of an ``mjData`` depends on."""
    return {name: getattr(data, name).copy() for name in _ARRAYS}


def restore_scene(data: Any, scene: Scene) -> None:
    """Write a scene into an ``mjData`` of the same model, which is then drawn."""
    for name, values in scene.items():
        getattr(data, name)[:] = values
