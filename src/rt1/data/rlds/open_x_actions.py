"""From the actions of the Open X-Embodiment data sets to RT-1's action: one small pure function per data set.

Each takes the raw action of a whole episode by key, float32 (S, n), a one-hot key as the number of its choice (S, 1),
and returns float32 (S, 11) in the order of :func:`rt1.actions.rt1_action_spec`: mode (0 terminate, 1 arm, 2 base),
world_vector, rotation_delta, gripper_closedness_action (+1 close, -1 open, 0 leave), base rotation, base xy.

RT-1-X was trained on displacements stretched so that every set fills world_vector's -2..2 and rotation_delta's
-pi/2..pi/2. The factors here are those of its public training example unless a docstring says otherwise. A policy
trained on such actions gives stretched ones: divide by the factor before the robot gets them. Values are not clipped
unless stated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from rt1.actions import FloatArray

RawActions = Mapping[str, FloatArray]
"""Raw action of an episode by action key, each float32 (S, n)."""
ActionMapping = Callable[[RawActions], FloatArray]
"""Raw action of an episode to float32 (S, A), one row a step."""

TERMINATE, ARM, BASE = 0.0, 1.0, 2.0
_MODE, _WORLD, _ROTATION = "action/terminate_episode", "action/world_vector", "action/rotation_delta"
_GRIPPER, _OPEN = "action/gripper_closedness_action", "action/open_gripper"
_BASE_ROTATION, _BASE_VECTOR = "action/base_displacement_vertical_rotation", "action/base_displacement_vector"
_BRIDGE_MARGIN = 0.01


def rt1_action(
    *,
    mode: FloatArray,
    world: FloatArray,
    rotation: FloatArray | None = None,
    gripper: FloatArray | None = None,
    base_rotation: FloatArray | None = None,
    base_vector: FloatArray | None = None,
) -> FloatArray:
    """Return RT-1's action of its parts, for the mapping of your own data set too.

    Args:
        mode: (S, 1) 0 terminate, 1 arm, 2 base. See :func:`mode_of_flag`.
        world: (S, 3) displacement of the gripper.
        rotation: (S, 3) rotation about x, y, z, radians. None for none.
        gripper: (S, 1) +1 close, -1 open, 0 leave. None for a set without gripper.
        base_rotation: (S, 1) rotation of the base, radians. None for a fixed base.
        base_vector: (S, 2) displacement of the base. None for a fixed base.

    Returns:
        float32 (S, 11).
    """
    parts = ((mode, 1), (world, 3), (rotation, 3), (gripper, 1), (base_rotation, 1), (base_vector, 2))
    columns = [np.zeros((len(mode), width)) if part is None else part for part, width in parts]
    return np.concatenate(columns, axis=1).astype(np.float32)


def mode_of_flag(flag: FloatArray) -> FloatArray:
    """Return the mode (S, 1) of a flag (S, 1) that is 1 where the episode ends: terminate there, else the arm."""
    return np.where(flag == 1.0, TERMINATE, ARM).astype(np.float32)


def mode_of_choice(choice: FloatArray) -> FloatArray:
    """Return the mode (S, 1) of a stored choice (S, 1), -1 where the one-hot row is all zero.

    RLDS stores a last step whose action was never run, in fractal a row of zeros: that one terminates. A row of
    zeros anywhere else says nothing, and the arm goes on.
    """
    mode = np.where(choice < 0, ARM, choice)
    if choice[-1, 0] < 0:
        mode[-1] = TERMINATE
    return mode.astype(np.float32)


def _closedness(raw: RawActions) -> FloatArray | None:
    """Return the gripper (S, 1), +1 close, of the key that a set has. None for a set without."""
    return 1.0 - 2.0 * raw[_OPEN] if _OPEN in raw else raw.get(_GRIPPER)


def _stretched(raw: RawActions, *, world: float = 1.0, rotation: float = 1.0) -> FloatArray:
    """Return the action of a set with ``world_vector`` and ``rotation_delta``, each times a factor."""
    return rt1_action(
        mode=mode_of_flag(raw[_MODE]),
        world=raw[_WORLD] * world,
        rotation=raw[_ROTATION] * rotation,
        gripper=_closedness(raw),
    )


def fractal(raw: RawActions) -> FloatArray:
    """Return fractal20220817_data's action, which is RT-1's: displacements as stored, relative, 3 Hz.

    The gripper is relative: +1 closes, -1 opens, 0 leaves it. kuka (QT-Opt) stores the same parts.
    """
    return rt1_action(
        mode=mode_of_choice(raw[_MODE]),
        world=raw[_WORLD],
        rotation=raw[_ROTATION],
        gripper=raw[_GRIPPER],
        base_rotation=raw[_BASE_ROTATION],
        base_vector=raw[_BASE_VECTOR],
    )


def bridge(raw: RawActions) -> FloatArray:
    """Return the action of ``bridge``, Google's copy of BridgeData V2: metres and radians, relative.

    Stretched by RT-1-X so that 0.05 m becomes 1.75 and 0.25 rad becomes 1.4, then clipped 0.01 inside these.
    ``open_gripper`` is absolute, True is open.
    """
    return _bridge(mode_of_flag(raw[_MODE]), raw[_WORLD], raw[_ROTATION], _closedness(raw))


def bridge_dataset(raw: RawActions) -> FloatArray:
    """Return the action of BridgeData V2 as Berkeley publishes it (``bridge_dataset``, ``bridge_orig``).

    One vector of 7: xyz in metres, roll, pitch, yaw in radians, relative. The gripper is absolute, 1 open, 0 closed,
    with values between while it moves, cut at 0.5. Stretched as in :func:`bridge`. The end comes from ``is_terminal``.
    """
    action = raw["action"]
    return _bridge(mode_of_flag(raw["is_terminal"]), action[:, :3], action[:, 3:6], _cut(action))


def fractal_lerobot(raw: RawActions) -> FloatArray:
    """Return the action of ``fractal20220817_data_lerobot``: fractal after OpenVLA's transforms, one vector of 7.

    xyz, roll, pitch, yaw as fractal stores them, relative. The gripper is absolute, 1 open, 0 closed: each step has
    the last command of fractal's relative gripper. An episode terminates at its last step.
    """
    action = raw["action"]
    return rt1_action(mode=_mode_of_last(action), world=action[:, :3], rotation=action[:, 3:6], gripper=_cut(action))


def bridge_lerobot(raw: RawActions) -> FloatArray:
    """Return the action of ``bridge_orig_lerobot``: :func:`bridge_dataset` without its first step, in the same form.

    An episode terminates at its last step.
    """
    action = raw["action"]
    return _bridge(_mode_of_last(action), action[:, :3], action[:, 3:6], _cut(action))


def taco_play(raw: RawActions) -> FloatArray:
    """Return taco_play's ``rel_actions_world``: relative, in the robot's base frame, as stored.

    Displacements are in the controller's own units, of the order of 1. The gripper is absolute. The set's description
    and RT-1-X take -1 for open. The robot's own controller (robot_io), Octo and OpenVLA take +1 for open, and so does
    this function. RT-1-X used the absolute pose ``actions`` instead, which is not a displacement.
    """
    action = raw["action/rel_actions_world"]
    return rt1_action(
        mode=mode_of_flag(raw[_MODE]), world=action[:, :3], rotation=action[:, 3:6], gripper=-action[:, 6:7]
    )


def jaco_play(raw: RawActions) -> FloatArray:
    """Return jaco_play's action: a displacement, no rotation, a relative gripper (+1 closes, 0 leaves).

    RT-1-X brings the displacement to mean 0 and deviation 1 per axis. To go back, multiply by the deviation and add the
    mean.
    """
    mean = np.array([0.00096585, -0.00580069, -0.00395066], np.float32)
    deviation = np.array([0.12234575, 0.09676983, 0.11155209], np.float32)
    return rt1_action(mode=mode_of_choice(raw[_MODE]), world=(raw[_WORLD] - mean) / deviation, gripper=raw[_GRIPPER])


berkeley_cable_routing: ActionMapping = _stretched
"""berkeley_cable_routing's action as stored: velocity in xyz, angular velocity about z, no gripper."""

roboturk: ActionMapping = _stretched
"""roboturk's action as stored: relative, an absolute gripper, +1 closed.

The published set never says that an episode ends (its ``terminate_episode`` is always 0), nor does this.
"""

nyu_door_opening: ActionMapping = functools.partial(_stretched, world=20.0, rotation=15.0)
"""nyu_door_opening_surprising_effectiveness' action: velocities within 0.07, world x 20, rotation x 15.

The gripper is relative: +1 closes, -1 opens, 0 leaves it.
"""

viola: ActionMapping = functools.partial(_stretched, world=1.75, rotation=3.0)
"""viola's action: world_vector within 1 times 1.75, rotation_delta within 0.4 times 3, relative.

The gripper is absolute: +1 closed, -1 open, 0 only where the set is padded.
"""

berkeley_autolab_ur5: ActionMapping = functools.partial(_stretched, world=100.0, rotation=15.0)
"""berkeley_autolab_ur5's action: metres within 0.02 times 100, radians (rpy) within 0.07 times 15, relative.

The gripper is relative: +1 closes, -1 opens, 0 leaves it.
"""

toto: ActionMapping = functools.partial(_stretched, world=2.0)
"""toto's action: world_vector within 0.7 times 2, rotation_delta as stored.

``open_gripper`` is absolute, True is open. RT-1-X's example passes it on as closedness unchanged, which inverts the
sign. Here True becomes -1, open.
"""


def language_table(raw: RawActions) -> FloatArray:
    """Return language_table's action: a displacement of the stick in the table's plane, metres within 0.1, times 20.

    No height, rotation or gripper. RT-1-X's example leaves this set out. The factor is ours and fills -2..2 likewise.
    The end comes from ``is_terminal``.
    """
    world = np.pad(raw["action"] * 20.0, ((0, 0), (0, 1)))
    return rt1_action(mode=mode_of_flag(raw["is_terminal"]), world=world)


def _mode_of_last(action: FloatArray) -> FloatArray:
    return mode_of_flag((np.arange(len(action)) == len(action) - 1).astype(np.float32)[:, None])


def _cut(action: FloatArray) -> FloatArray:
    """Return the gripper of a vector of 7 as +1 closed, -1 open. In the vector it is 1 open, 0 closed."""
    return np.where(action[:, 6:7] > 0.5, -1.0, 1.0).astype(np.float32)


def _bridge(mode: FloatArray, world: FloatArray, rotation: FloatArray, gripper: FloatArray | None) -> FloatArray:
    return rt1_action(mode=mode, world=_fill(world, 0.05, 1.75), rotation=_fill(rotation, 0.25, 1.4), gripper=gripper)


def _fill(values: FloatArray, largest: float, bound: float) -> FloatArray:
    """Stretch -largest..largest to -bound..bound and clip a margin inside."""
    inside = bound - _BRIDGE_MARGIN
    return np.clip(values * (bound / largest), -inside, inside)
