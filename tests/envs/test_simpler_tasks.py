"""The table of SimplerEnv's tasks."""

from __future__ import annotations

from rt1.envs.simpler_actions import POLICY_SETUPS
from rt1.envs.simpler_tasks import SUITES, TASKS


def test_each_robot_has_its_tasks_and_step_limits() -> None:
    limits = {name: task.max_steps for name, task in TASKS.items()}
    assert len(limits) == 25
    assert {limits[f"google_robot_{name}"] for name in ("pick_coke_can", "move_near")} == {80}
    assert limits["google_robot_open_top_drawer"] == limits["google_robot_close_drawer"] == 113
    assert limits["google_robot_place_apple_in_closed_top_drawer"] == 200
    assert limits["widowx_carrot_on_plate"] == 60
    assert limits["widowx_put_eggplant_in_basket"] == 120
    assert {task.policy_setup for task in TASKS.values()} == set(SUITES.values()) == set(POLICY_SETUPS)
