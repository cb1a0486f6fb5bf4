"""Checks for your own adapters: does an environment or a source of episodes keep what its protocol promises?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.data.sources.base import EpisodeSource, OptionalMembers, optional_members
from rt1.data.sources.decoding import decoded_images
from rt1.data.sources.images import decode_image
from rt1.envs.base import Env, Image, Observation, StepResult

_ENV_VALUES, _ENV_METHODS = ("action_spec", "instruction", "control_rate", "max_steps"), ("reset", "step", "close")
_COLOR_TOLERANCE = 8.0
"""Largest difference of an image's mean colors that a JPEG is allowed, of 255."""
_SOURCE_VALUES = ("name", "action_spec", "lengths")
_SOURCE_METHODS = ("instruction", "text_embedding", "task", "encoded_images", "actions")


def check_env(make_env: Callable[[], Env], *, seed: int = 0) -> None:
    """Check an environment against :class:`rt1.envs.base.Env`; it is opened twice, one after the other.

    Checked are the members and their types, a step before the first reset, images (uint8 RGB, one size, each an array
    of its own), actions outside the bounds, the end of an episode, and that an episode depends on its seed alone.

    Args:
        make_env: opens the environment.
        seed: seed of the episodes that are run; give another one to try another start.

    Raises:
        ValueError: something is not as promised; one line with what was found and what is asked for.
    """
    with _opened(make_env) as env:
        _check_env_members(env)
        _check_step_before_reset(env)
        first = _run_episode(env, seed)
        _check_bounds(env, seed)
        _run_episode(env, seed + 1)  # whatever this leaves behind must not show in the next one
        _check_same(first, _run_episode(env, seed), "again after another episode")
    with _opened(make_env) as env:
        _check_same(first, _run_episode(env, seed), "in a new environment")


def check_source(source: EpisodeSource, *, episodes: int = 10) -> None:
    """Check a source of episodes against :class:`rt1.data.sources.base.EpisodeSource`.

    Checked are the members and their types, the lengths, and of some episodes the sentence, the text embedding, the
    actions, that every image decodes to one size, and that reading single steps in any order and from several threads
    gives what reading whole episodes gives. Of :class:`rt1.data.sources.base.OptionalMembers` those that are there.

    Args:
        source: the source.
        episodes: how many episodes are read, spread evenly over the source.

    Raises:
        ValueError: something is not as promised; one line with what was found and what is asked for.
    """
    _check_source_members(source)
    _check_optional_members(optional_members(source))
    total = len(source.lengths)
    chosen = np.unique(np.linspace(0, total - 1, min(episodes, total)).round().astype(int)).tolist()
    widths, shapes = set(), set()
    for episode in chosen:
        widths.add(_checked_text(source, episode))
        _check_actions(source, episode)
        shapes |= _checked_images(source, episode)
        _check_decoded_images(source, episode)
        _check_random_access(source, episode)
    if len(widths) > 1:
        _refuse(f"the text embeddings have widths {sorted(map(str, widths))}; all must have one width, or none at all")
    if len(shapes) > 1:
        _refuse(f"the images have shapes {sorted(shapes)}; all images of a source must have one size")
    _check_threads(source, chosen)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _check_members(thing: object, protocol: str, values: tuple[str, ...], methods: tuple[str, ...]) -> None:
    if missing := [name for name in values + methods if not hasattr(thing, name)]:
        wanted = ", ".join([*values, *(f"{name}()" for name in methods)])
        _refuse(f"{type(thing).__name__} has no {', '.join(missing)}; {protocol} asks for {wanted}")
    for name in methods:
        if not callable(getattr(thing, name)):
            _refuse(f"{name} is {getattr(thing, name)!r}; it must be a method of {type(thing).__name__}")


def _check_spec(spec: object) -> None:
    if not isinstance(spec, ActionSpec):
        _refuse(f"action_spec is {spec!r}; it must be an rt1.actions.ActionSpec")


@contextmanager
def _opened(make_env: Callable[[], Env]) -> Iterator[Env]:
    env = make_env()
    try:
        yield env
    finally:
        if hasattr(env, "close"):
            env.close()


def _check_env_members(env: Env) -> None:
    _check_members(env, "Env", _ENV_VALUES, _ENV_METHODS)
    _check_spec(env.action_spec)
    instruction, rate, steps = _plain(env.instruction), _plain(env.control_rate), _plain(env.max_steps)
    if not isinstance(instruction, str) or not instruction.strip():
        _refuse(f"instruction is {instruction!r}; it must be a sentence")
    if not _is_rate(rate):
        _refuse(f"control_rate is {rate!r}; it must be a number of steps per second above 0")
    if not isinstance(steps, int) or steps < 1:
        _refuse(f"max_steps is {steps!r}; it must be a whole number of at least 1")


def _plain(value: object) -> object:
    """Forget the declared type: what an adapter really holds is the question."""
    return value


def _check_step_before_reset(env: Env) -> None:
    try:
        env.step(_middle(env.action_spec))
    except (RuntimeError, ValueError):
        return
    _refuse("step() before the first reset() went through; it must raise a RuntimeError that says to call reset(seed)")


def _middle(spec: ActionSpec) -> FloatArray:
    choice = spec.discrete_choices > 0
    return np.where(choice, spec.low, (spec.low + spec.high) / 2).astype(np.float32)


def _random_action(spec: ActionSpec, random: np.random.Generator) -> FloatArray:
    choice = spec.discrete_choices > 0
    drawn = random.uniform(spec.low, spec.high)
    return np.clip(np.where(choice, np.round(drawn), drawn), spec.low, spec.high).astype(np.float32)


def _run_episode(env: Env, seed: int) -> list[tuple[Image, bool, bool]]:
    """Run the random actions of a seed to the end; return image, success and done after the reset and each step."""
    random = np.random.default_rng(seed)
    image = _checked_image(env.reset(seed), "reset()")
    seen = [(image.copy(), False, False)]
    for step in range(1, env.max_steps + 1):
        result = env.step(_random_action(env.action_spec, random))
        success, done = _checked_result(result, step)
        new = _checked_image(result.observation, f"step {step}")
        if new.shape != image.shape:
            _refuse(f"the image of step {step} has shape {new.shape}, the first {image.shape}; it must keep its size")
        if not np.array_equal(image, seen[-1][0]):
            _refuse(f"step {step} changed the image returned before it; each observation needs an array of its own")
        image = new
        seen.append((image.copy(), success, done))
        if done:
            return seen
    _refuse(f"max_steps is {env.max_steps}, but the episode goes on after it; the last step must be done")


def _checked_image(observation: object, where: str) -> Image:
    if not isinstance(observation, Observation):
        _refuse(f"{where} returned {type(observation).__name__}; it must return an rt1.envs.base.Observation")
    image = _plain(observation.image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        _refuse(f"the image of {where} is {found}; it must be a uint8 RGB array (H, W, 3)")
    if not image.size:
        _refuse(f"the image of {where} has shape {image.shape}; it must have at least one pixel")
    return image


def _checked_result(result: object, step: int) -> tuple[bool, bool]:
    if not isinstance(result, StepResult):
        _refuse(f"step {step} returned {type(result).__name__}; it must return an rt1.envs.base.StepResult")
    for name in ("success", "done"):
        if not isinstance(getattr(result, name), bool | np.bool_):
            _refuse(f"{name} of step {step} is {getattr(result, name)!r}; it must be True or False")
    if result.success and not result.done:
        _refuse(f"step {step} reports success but not done; success ends an episode")
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
            _refuse(
                f"step() took {name} = {action[dimension]:g}, outside its bounds {spec.low[dimension]:g}.."
                f"{spec.high[dimension]:g}; it must raise a ValueError, since whoever calls clips and counts"
            )


def _check_same(first: list[tuple[Image, bool, bool]], again: list[tuple[Image, bool, bool]], when: str) -> None:
    for step, (one, other) in enumerate(zip(first, again, strict=False)):
        if not np.array_equal(one[0], other[0]) or one[1:] != other[1:]:
            what = "the image" if one[1:] == other[1:] else "success or done"
            _refuse(f"with the same seed and actions, {what} of step {step} differs {when}; a seed must fix everything")


def _check_source_members(source: EpisodeSource) -> None:
    _check_members(source, "EpisodeSource", _SOURCE_VALUES, _SOURCE_METHODS)
    _check_spec(source.action_spec)
    name, lengths = _plain(source.name), _plain(source.lengths)
    if not isinstance(name, str) or not name.strip():
        _refuse(f"name is {name!r}; it must be a short text")
    if not isinstance(lengths, np.ndarray) or lengths.dtype != np.int64 or lengths.ndim != 1:
        found = f"{lengths.dtype} {lengths.shape}" if isinstance(lengths, np.ndarray) else type(lengths).__name__
        _refuse(f"lengths is {found}; it must be an int64 array (episodes,)")
    if not len(lengths):
        _refuse("lengths is empty; a source needs at least one episode")
    if lengths.min() < 1:
        episode = int(lengths.argmin())
        _refuse(f"episode {episode} has {lengths[episode]} steps; every episode needs at least 1")


def _check_optional_members(members: OptionalMembers) -> None:
    details, encoder, folder = _plain(members.details), members.text_encoder, _plain(members.cache_folder)
    if not isinstance(_plain(members.bgr), bool | np.bool_):
        _refuse(f"bgr is {members.bgr!r}; it must be True or False")
    if not isinstance(details, Mapping) or not _is_json(details):
        _refuse(f"details is {details!r}; it must be a dict of plain JSON")
    rate = details.get("control_rate")
    if rate is not None and not _is_rate(rate):
        _refuse(f"control_rate in details is {rate!r}; it must be a number of steps per second above 0")
    if not isinstance(details.get("env", {}), Mapping):
        _refuse(f"env in details is {details['env']!r}; it must be what rt1.envs.registry.suite_to_json returns")
    types = {"name": str, "sha256": str, "width": int}
    if encoder is not None and not all(isinstance(encoder.get(key), kind) for key, kind in types.items()):
        _refuse(f"text_encoder is {encoder!r}; it must be None or have name, sha256 and width")
    skipped = _plain(members.skipped)
    if not isinstance(skipped, list | tuple) or not all(isinstance(text, str) for text in skipped):
        _refuse(f"skipped is {skipped!r}; it must be a list or tuple of messages")
    if folder is not None and not isinstance(folder, Path):
        _refuse(f"cache_folder is {folder!r}; it must be a pathlib.Path or None")


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_rate(rate: object) -> bool:
    return isinstance(rate, int | float) and 0.0 < rate < np.inf


def _checked_text(source: EpisodeSource, episode: int) -> int | None:
    """Return the width of the episode's text embedding, None where there is none."""
    instruction, task = _plain(source.instruction(episode)), _plain(source.task(episode))
    if not isinstance(instruction, str) or not instruction.strip():
        _refuse(f"the instruction of episode {episode} is {instruction!r}; it must be a sentence")
    if not isinstance(task, str):
        _refuse(f"the task of episode {episode} is {task!r}; it must be a name, or an empty string")
    embedding = source.text_embedding(episode)
    if embedding is None:
        return None
    if not _is_floats(embedding, 1):
        _refuse(f"the text embedding of episode {episode} is {_words(embedding)}; it must be finite float32 (E,)")
    encoder = optional_members(source).text_encoder
    if encoder is not None and encoder["width"] != len(embedding):
        _refuse(f"text_encoder has width {encoder['width']}, the text embedding {len(embedding)}; they must be equal")
    return len(embedding)


def _is_floats(array: object, dimensions: int) -> bool:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != dimensions or not array.size:
        return False
    return bool(np.isfinite(array).all())


def _words(array: object) -> str:
    if not isinstance(array, np.ndarray):
        return type(array).__name__
    finite = "" if array.dtype.kind != "f" or np.isfinite(array).all() else ", not all finite"
    return f"{array.dtype} {array.shape}{finite}"


def _check_actions(source: EpisodeSource, episode: int) -> None:
    steps, size = int(source.lengths[episode]), source.action_spec.size
    actions = source.actions(episode, 0, steps)
    if not _is_floats(actions, 2) or actions.shape != (steps, size):
        _refuse(
            f"the actions of episode {episode} are {_words(actions)}; they must be finite float32 ({steps}, {size})"
        )
    try:
        source.action_spec.encode(actions)
    except ValueError as error:
        raise ValueError(f"the actions of episode {episode} cannot be encoded: {error}") from error


def _checked_images(source: EpisodeSource, episode: int) -> set[tuple[int, ...]]:
    """Return the shapes of the episode's images."""
    steps = int(source.lengths[episode])
    images = source.encoded_images(episode, 0, steps)
    if len(images) != steps:
        _refuse(f"episode {episode} gave {len(images)} images for {steps} steps; it must give one per step")
    shapes = set()
    for step, data in enumerate(images):
        try:
            shapes.add(_decoded(data).shape)
        except ValueError as error:
            raise ValueError(f"the image of episode {episode}, step {step}: {error}") from error
    return shapes


def _check_decoded_images(source: EpisodeSource, episode: int) -> None:
    """Compare the optional method ``images`` with the encoded images, of which a JPEG may lose some detail."""
    steps, members = int(source.lengths[episode]), optional_members(source)
    if not callable(members.images):
        return
    encoded = source.encoded_images(episode, 0, steps)
    for step, (data, image) in enumerate(zip(encoded, decoded_images(source, episode, 0, steps), strict=True)):
        expected = _decoded(data)[..., ::-1] if members.bgr else _decoded(data)
        if image.shape != expected.shape or np.abs(image.mean((0, 1)) - expected.mean((0, 1))).max() > _COLOR_TOLERANCE:
            _refuse(f"images() of episode {episode}, step {step} differs from encoded_images; both must be one image")


def _decoded(data: object) -> NDArray[np.uint8]:
    if not isinstance(data, bytes):
        _refuse(f"it is {type(data).__name__}; it must be the bytes of a JPEG or PNG file")
    return decode_image(data)


def _check_random_access(source: EpisodeSource, episode: int) -> None:
    steps = int(source.lengths[episode])
    images, actions = source.encoded_images(episode, 0, steps), source.actions(episode, 0, steps)
    ranges = [(step, step + 1) for step in reversed(range(steps))] + [(steps // 3, steps), (0, steps), (0, 0)]
    for start, stop in ranges:
        if source.encoded_images(episode, start, stop) != images[start:stop]:
            _refuse(f"the images of episode {episode}, steps {start}..{stop - 1} differ from those read all at once")
        if not np.array_equal(source.actions(episode, start, stop), actions[start:stop]):
            _refuse(f"the actions of episode {episode}, steps {start}..{stop - 1} differ from those read all at once")


def _check_threads(source: EpisodeSource, episodes: list[int]) -> None:
    def read(episode: int) -> tuple[list[bytes], bytes]:
        steps = int(source.lengths[episode])
        return source.encoded_images(episode, 0, steps), source.actions(episode, 0, steps).tobytes()

    alone = [read(episode) for episode in episodes]
    with ThreadPoolExecutor(4, thread_name_prefix="rt1-check") as pool:
        together = list(pool.map(read, episodes * 4))
    if together != alone * 4:
        _refuse("several threads reading at once get other steps than one alone; reading must be thread-safe")
