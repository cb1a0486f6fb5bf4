"""SimplerEnv's tasks: the robot, the step limit of its evaluation, and the instruction."""

from __future__ import annotations

from dataclasses import dataclass

SUITES = {"simpler": "google_robot", "simpler_widowx": "widowx_bridge"}
"""Name of a suite -> SimplerEnv's name of its policy setup."""


@dataclass(frozen=True)
class Task:
    """A task of SimplerEnv."""

    policy_setup: str
    """Robot, and what a policy's actions mean."""
    max_steps: int
    """Steps of an episode."""
    instruction: str = ""
    """The sentence, empty where it depends on the initial state or changes within an episode."""


_GOOGLE = {
    "pick_coke_can": (80, "pick coke can"),
    "pick_horizontal_coke_can": (80, "pick coke can"),
    "pick_vertical_coke_can": (80, "pick coke can"),
    "pick_standing_coke_can": (80, "pick coke can"),
    "pick_object": (80, ""),
    "move_near_v0": (80, ""),
    "move_near_v1": (80, ""),
    "move_near": (80, ""),
    "open_drawer": (113, ""),
    "open_top_drawer": (113, "open top drawer"),
    "open_middle_drawer": (113, "open middle drawer"),
    "open_bottom_drawer": (113, "open bottom drawer"),
    "close_drawer": (113, ""),
    "close_top_drawer": (113, "close top drawer"),
    "close_middle_drawer": (113, "close middle drawer"),
    "close_bottom_drawer": (113, "close bottom drawer"),
    "place_in_closed_drawer": (200, ""),
    "place_in_closed_top_drawer": (200, ""),
    "place_in_closed_middle_drawer": (200, ""),
    "place_in_closed_bottom_drawer": (200, ""),
    "place_apple_in_closed_top_drawer": (200, ""),
}
_WIDOWX = {
    "spoon_on_towel": (60, "put the spoon on the towel"),
    "carrot_on_plate": (60, "put carrot on plate"),
    "stack_cube": (60, "stack the green block on the yellow block"),
    "put_eggplant_in_basket": (120, "put eggplant into yellow basket"),
}
TASKS = {f"google_robot_{name}": Task("google_robot", *task) for name, task in _GOOGLE.items()} | {
    f"widowx_{name}": Task("widowx_bridge", *task) for name, task in _WIDOWX.items()
}
"""SimplerEnv's name -> the task."""
