"""A scene that is copied can be drawn later: what it holds is what a picture depends on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from rt1.envs import mujoco_scene
from rt1.envs.mujoco_scene import copy_scene, restore_scene


def test_a_copied_scene_is_restored_after_the_simulation_went_on() -> None:
    data, other = (
        SimpleNamespace(**{name: np.full((2, 3), number) for name in mujoco_scene._ARRAYS}) for number in (1.0, 2.0)
    )
    scene = copy_scene(data)
    data.xpos[:] = 9.0
    restore_scene(other, scene)
    assert all((getattr(other, name) == 1.0).all() for name in mujoco_scene._ARRAYS)
