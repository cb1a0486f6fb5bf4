"""Checks of an environment against its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rt1.actions import ActionSpec, FloatArray
from rt1.envs.base import Env, Image, Observation, StepResult
from rt1.envs.custom import as_env
from rt1.testing.common import check_members, check_spec, is_rate, plain, refuse

_ENV_VALUES, _ENV_METHODS = ("action_spec", "instruction", "control_rate", "max_steps"), ("reset", "step", "close")


def check_env(make_env: Callable[[], Any], *, seed: int = 0, one_start: bool = False) -> None:
    """Check an environment against :class:`rt1.envs.base.Env`. It is opened twice, one after the other.

    Checked are the members and their types, a step before the first reset, images (uint8 RGB, one size, each an array
    of its own), actions outside the bounds, the end of an episode, that an episode depends on its seed alone, and that
    other seeds give other starts.

    Args:
        make_env: opens the environment, or a ``gymnasium.Env``, which is adapted.
        seed: seed of the episodes that are run. Give another one to try another start.
        one_start: True for an environment that starts alike under every seed.

    Raises:
        ValueError: something is not as promised. One line with what was found and what is asked for.
    """
    with _opened(make_env) as env:
        _check_env_members(env)
        _check_step_before_reset(env)
        first = _run_episode(env, seed)
        _check_bounds(env, seed)
        other = _run_episode(env, seed + 1)  # whatever this leaves behind must not show in the next one
        if not one_start:
            _check_starts_differ(env, seed, (first[0][0], other[0][0]))
        _check_same(first, _run_episode(env, seed), "again after another episode")
    with _opened(make_env) as env:
        _check_same(first, _run_episode(env, seed), "in a new environment")


@contextmanager
def _opened(make_env: Callable[[], Any]) -> Iterator[Env]:
    env = make_env()
    if hasattr(env, "observation_space"):
        env = as_env(env, type(env).__name__)
    try:
        yield env
    finally:
        if hasattr(env, "close"):
            env.close()


def _check_env_members(env: Env) -> None:
    check_members(env, "Env", _ENV_VALUES, _ENV_METHODS)
    check_spec(env.action_spec)
    instruction, rate, steps = plain(env.instruction), plain(env.control_rate), plain(env.max_steps)
    if not isinstance(instruction, str):
        refuse(f"instruction is {instruction!r}, must be a sentence")
    if not is_rate(rate):
        refuse(f"control_rate is {rate!r}, must be a number of steps per second above 0")
    if not isinstance(steps, int) or steps < 1:
        refuse(f"max_steps is {steps!r}, must be a whole number of at least 1")


def _check_step_before_reset(env: Env) -> None:
    try:
        env.step(_middle(env.action_spec))
    except (RuntimeError, ValueError):
        return
    refuse("step() before the first reset() went through, must raise a RuntimeError that says to call reset(seed)")


def _middle(spec: ActionSpec) -> FloatArray:
    choice = spec.discrete_choices > 0
    return np.where(choice, spec.low, (spec.low + spec.high) / 2).astype(np.float32)


def _random_action(spec: ActionSpec, random: np.random.Generator) -> FloatArray:
    choice = spec.discrete_choices > 0
    drawn = random.uniform(spec.low, spec.high)
    return np.clip(np.where(choice, np.round(drawn), drawn), spec.low, spec.high).astype(np.float32)


def _run_episode(env: Env, seed: int) -> list[tuple[Image, bool, bool]]:
    """Run the random actions of a seed to the end. Return image, success and done after the reset and each step."""
    random = np.random.default_rng(seed)
    image = _checked_image(env.reset(seed), "reset()")
    if not str(env.instruction).strip():
        refuse(f"instruction is {env.instruction!r} after reset(), must be a sentence")
    seen = [(image.copy(), False, False)]
    for step in range(1, env.max_steps + 1):
        result = env.step(_random_action(env.action_spec, random))
        success, done = _checked_result(result, step)
        new = _checked_image(result.observation, f"step {step}")
        if new.shape != image.shape:
            refuse(f"the image of step {step} has shape {new.shape}, the first {image.shape}, must keep its size")
        if not np.array_equal(image, seen[-1][0]):
            refuse(f"step {step} changed the image returned before it. Each observation needs an array of its own")
        image = new
        seen.append((image.copy(), success, done))
        if done:
            return seen
    raise ValueError(f"max_steps is {env.max_steps}, but the episode goes on after it. The last step must be done")


def _checked_image(observation: object, where: str) -> Image:
    if not isinstance(observation, Observation):
        refuse(f"{where} returned {type(observation).__name__}, must return an rt1.envs.base.Observation")
    image = plain(observation.image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        refuse(f"the image of {where} is {found}, must be a uint8 RGB array (H, W, 3)")
    if not image.size:
        refuse(f"the image of {where} has shape {image.shape}, must have at least one pixel")
    return image


def _checked_result(result: object, step: int) -> tuple[bool, bool]:
    if not isinstance(result, StepResult):
        refuse(f"step {step} returned {type(result).__name__}, must return an rt1.envs.base.StepResult")
    for name in ("success", "done"):
        if not isinstance(getattr(result, name), bool | np.bool_):
            refuse(f"{name} of step {step} is {getattr(result, name)!r}, must be True or False")
    if result.success and not result.done:
        refuse(f"step {step} reports success but not done. Success ends an episode")
    return bool(result.success), bool(result.done)


def _check_bounds(env: Env, seed: int) -> None:
    spec = env.action_spec
    for dimension, name in enumerate(spec.dimension_names):
        for bound, side in ((spec.low, -1), (spec.high, 1)):
            env.reset(seed)
            action = _middle(spec)
            action[dimension] = bound[dimension] + side * max(1.0, abs(float(bound[dimension])))
            try:
                env.step(action)
            except ValueError:
                continue
            refuse(
                f"step() took {name} = {action[dimension]:g}, outside its bounds {spec.low[dimension]:g}.."
                f"{spec.high[dimension]:g}, must raise a ValueError, since whoever calls clips and counts"
            )


def _check_starts_differ(env: Env, seed: int, images: tuple[Image, Image]) -> None:
    if all(np.array_equal(images[0], image) for image in (*images[1:], env.reset(seed + 2).image)):
        refuse(
            f"the seeds {seed}..{seed + 2} give one start. reset() must hand its seed on. If there is only one start, "
            "check with one_start=True"
        )


def _check_same(first: list[tuple[Image, bool, bool]], again: list[tuple[Image, bool, bool]], when: str) -> None:
    for step, (one, other) in enumerate(zip(first, again, strict=False)):
        if not np.array_equal(one[0], other[0]) or one[1:] != other[1:]:
            if step == 0:
                refuse(f"reset() gave another image for the same seed {when}, must hand its seed on")
            what = "the image" if one[1:] == other[1:] else "success or done"
            refuse(f"with the same seed and actions, {what} of step {step} differs {when}. A seed must fix everything")
