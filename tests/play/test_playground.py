"""The playground: what each request does to scene, policy and run, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.actions import FloatArray
from rt1.envs.base import Image
from rt1.play.playground import Playground
from rt1.policy.policy import Policy
from rt1.simulate.rollout import PolicyController, rollout
from rt1.simulate.seeds import trial_seed


@pytest.fixture
def opened(playground: Playground) -> Playground:
    playground.choose_task("near")
    return playground


def _image(playground: Playground) -> Image:
    image = playground.view.image
    assert image is not None
    return image


def _steps(playground: Playground, count: int) -> None:
    for _ in range(count):
        playground.step()


def test_an_opened_task_shows_its_first_start_and_stands_still(opened: Playground, world: Any) -> None:
    view = opened.view
    assert (view.phase, view.step, view.start, view.remembered, view.decision) == ("stopped", 0, 0, 0, None)
    assert (view.task, view.instruction, view.control_rate, view.max_steps) == ("near", "open the drawer", 10.0, 12)
    np.testing.assert_array_equal(_image(opened), world.make_env().reset(trial_seed(0, 0)).image)


def test_an_episode_on_the_page_takes_the_actions_of_a_trial(opened: Playground, world: Any) -> None:
    opened.run()
    _steps(opened, 4)
    opened.stop()
    opened.run()  # a stop in between changes nothing
    while opened.view.phase == "running":
        opened.step()
    played = np.stack(world.opened[0].executed)
    policy = opened.policy.new_session()
    trial = rollout(world.make_env(), PolicyController(policy), seed=trial_seed(0, 0), instruction="open the drawer")
    np.testing.assert_array_equal(played, trial.actions)
    assert (opened.view.phase, opened.view.success) == ("over", trial.success)


def test_a_view_shows_the_decision_with_the_image_it_was_made_from(opened: Playground) -> None:
    before = opened.view.image
    opened.step()
    view = opened.view
    assert view.decision is not None
    assert view.image is not None
    assert view.decision.image is before
    assert not np.array_equal(view.image, view.decision.image)
    spec = opened.policy.action_spec
    np.testing.assert_array_equal(view.decision.bins, view.decision.probabilities.argmax(axis=-1))
    np.testing.assert_array_equal(view.decision.action, spec.decode(view.decision.bins))
    np.testing.assert_allclose(view.decision.probabilities.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(view.decision.attention.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert len(view.latencies) == 1
    assert view.latencies[0] > 0


def test_another_instruction_empties_the_memory_and_leaves_the_scene(opened: Playground) -> None:
    opened.run()
    _steps(opened, 3)
    before = copy.copy(opened.view)
    opened.set_instruction("  close the drawer ")
    after = opened.view
    assert (before.remembered, after.remembered) == (3, 0)
    assert (after.instruction, after.phase, after.step, after.decision) == ("close the drawer", "running", 3, None)
    assert after.image is before.image


def test_a_reset_goes_back_to_a_start_with_the_same_instruction(opened: Playground) -> None:
    opened.set_instruction("close the drawer")
    opened.run()
    _steps(opened, 2)
    opened.reset(5)
    view = opened.view
    assert (view.phase, view.step, view.start, view.remembered) == ("stopped", 0, 5, 0)
    assert view.instruction == "close the drawer"
    first = _image(opened)
    opened.reset(6)
    assert not np.array_equal(_image(opened), first)
    opened.reset(5)
    np.testing.assert_array_equal(_image(opened), first)


def test_starting_after_the_end_takes_the_next_start(opened: Playground) -> None:
    opened.reset(3)
    opened.run()
    while opened.view.phase == "running":
        opened.step()
    opened.run()
    assert (opened.view.phase, opened.view.start, opened.view.step) == ("running", 4, 0)


def test_another_task_closes_the_environment_before_it_opens_the_next(opened: Playground, world: Any) -> None:
    seen = []
    opened.on_opening = lambda: seen.append((opened.view.phase, opened.view.image))
    opened.choose_task("far")
    assert [env.closed for env in world.opened] == [True, False]
    assert seen == [("opening", None)]
    assert opened.view.instruction == "close the drawer"


def test_a_refused_instruction_leaves_the_run_as_it_is(opened: Playground) -> None:
    opened.run()
    _steps(opened, 2)
    for sentence, message in (("do a dance", "do a dance"), ("  ", "0 characters"), ("x" * 501, "501 characters")):
        with pytest.raises(ValueError, match=message):
            opened.set_instruction(sentence)
    view = opened.view
    assert (view.instruction, view.remembered, view.phase) == ("open the drawer", 2, "running")


def test_a_task_with_an_instruction_unknown_to_the_text_table_waits_for_another_one(opened: Playground) -> None:
    with pytest.raises(ValueError, match="say nothing"):
        opened.choose_task("mute")
    assert (opened.view.phase, opened.view.instruction, opened.view.remembered) == ("stopped", None, 0)
    with pytest.raises(ValueError, match="Type one first"):
        opened.run()
    opened.set_instruction("open the drawer")
    opened.run()
    opened.step()
    assert opened.view.step == 1


def test_an_environment_that_fails_is_closed_and_opened_anew_by_a_reset(opened: Playground, world: Any) -> None:
    def fail(_action: FloatArray) -> None:
        raise RuntimeError("the arm broke")

    world.opened[0].step = fail
    opened.run()
    with pytest.raises(RuntimeError, match="the arm broke"):
        opened.step()
    assert (opened.view.phase, opened.view.image, world.opened[0].closed) == ("failed", None, True)
    with pytest.raises(ValueError, match="Press Reset"):
        opened.run()
    opened.reset(0)
    assert (opened.view.phase, len(world.opened)) == ("stopped", 2)


def test_logits_that_are_not_finite_end_the_run(opened: Playground) -> None:
    broken, old = copy.deepcopy(opened.policy.model), opened.policy
    broken.transformer.output.bias.data[:] = float("nan")
    opened.policy = Policy(broken, old.action_spec, encode_text=lambda _: np.ones(8, np.float32))
    opened.policy.reset("open the drawer")
    opened.run()
    with pytest.raises(ValueError, match="not finite"):
        opened.step()
    assert opened.view.phase == "failed"


def test_a_policy_with_other_actions_than_the_environment_is_refused(playground: Playground, world: Any) -> None:
    class Other:
        dimension_names = ("left", "right")

    def make_other(**choices: Any) -> Any:
        env = original(**choices)
        env.action_spec = Other()
        return env

    original, world.make_env = world.make_env, make_other
    with pytest.raises(ValueError, match="acts in move_0, move_1, move_2, the environment takes left, right"):
        playground.choose_task("near")
    assert (playground.view.phase, world.opened[0].closed) == ("failed", True)


@pytest.mark.parametrize("speed", [0.0, -1.0, 21.0, float("nan"), float("inf")])
def test_a_speed_out_of_range_is_refused(opened: Playground, speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        opened.set_speed(speed)
    assert opened.view.speed == 1.0


def test_the_pace_is_the_control_rate_times_the_speed(opened: Playground) -> None:
    opened.set_speed(0.5)
    assert opened.period == pytest.approx(0.2)


@pytest.mark.parametrize("start", [-1, 1_000_000])
def test_a_start_out_of_range_is_refused(opened: Playground, start: int) -> None:
    with pytest.raises(ValueError, match="trial"):
        opened.reset(start)
    assert opened.view.phase == "stopped"


def test_a_task_that_is_not_offered_is_refused(opened: Playground) -> None:
    with pytest.raises(ValueError, match="did you mean 'near'"):
        opened.choose_task("nearr")
    assert opened.view.task == "near"


def test_the_policy_follows_an_environment_that_changes_its_instruction_unless_the_user_told_another(
    opened: Playground, world: Any
) -> None:
    world.task_sentences = {**world.task_sentences, "near": ()}
    (env,) = world.opened
    opened.reset(0)
    assert opened.view.instruction == "open the drawer"
    env.instruction = "close the drawer"
    opened.step()
    assert (opened.view.instruction, opened.view.remembered) == ("close the drawer", 0)
    env.instruction = "open the drawer"
    opened.reset(1)
    assert opened.view.instruction == "open the drawer"
    opened.set_instruction("press the handle down")
    env.instruction = "close the drawer"
    opened.step()
    opened.reset(2)
    assert opened.view.instruction == "press the handle down"


def test_a_picture_for_people_follows_the_scene_and_never_reaches_the_policy(
    make_env: Any, make_suite: Callable[..., Any], playground: Playground
) -> None:
    class Pictured(make_env):  # type: ignore[misc]
        draws_later = True

        def snapshot(self) -> int:
            return len(self.executed)

        def picture(self, snapshot: int, size: int) -> Image:
            return np.full((size, size, 3), snapshot, np.uint8)

    suite = make_suite(make_env=Pictured, task_sentences={"near": ("open the drawer",)})
    watched = Playground(playground.policy, suite, ("near",))
    watched.choose_task("near")
    for step in range(3):
        assert watched.view.picture is not None
        assert watched.view.picture.shape == (480, 480, 3)
        assert (watched.view.picture == step).all()
        watched.step()
        assert watched.view.decision is not None
        assert watched.view.decision.image.shape == (16, 16, 3)
    watched.close()
    assert watched.view.picture is None
