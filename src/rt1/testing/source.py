"""Checks of a source of episodes against its protocols."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.data.sources.base import EpisodeSource, OptionalMembers, Outcome, optional_members
from rt1.data.sources.decoding import decoded_images
from rt1.data.sources.images import decode_image
from rt1.testing.common import check_members, check_spec, is_floats, is_json, is_rate, plain, refuse, words

_COLOR_TOLERANCE = 8.0
"""Largest difference of an image's mean colors that a JPEG is allowed, of 255."""
_SOURCE_VALUES = ("name", "action_spec", "lengths")
_SOURCE_METHODS = ("instruction", "text_embedding", "task", "encoded_images", "actions")


def check_source(source: EpisodeSource, *, episodes: int = 10) -> None:
    """Check a source of episodes against :class:`rt1.data.sources.base.EpisodeSource`.

    Checked are the members and their types, the lengths, and of some episodes the sentence, the text embedding, the
    actions, that every image decodes to one size, and that reading single steps in any order and from several threads
    gives what reading whole episodes gives. Of :class:`rt1.data.sources.base.OptionalMembers` those that are there.

    Args:
        source: the source.
        episodes: how many episodes are read, spread evenly over the source.

    Raises:
        ValueError: something is not as promised. One line with what was found and what is asked for.
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
        _check_outcome(source, episode)
        _check_random_access(source, episode)
    if len(widths) > 1:
        refuse(f"the text embeddings have widths {sorted(map(str, widths))}. All must have one width, or none at all")
    if len(shapes) > 1:
        refuse(f"the images have shapes {sorted(shapes)}. All images of a source must have one size")
    _check_threads(source, chosen)


def _check_source_members(source: EpisodeSource) -> None:
    check_members(source, "EpisodeSource", _SOURCE_VALUES, _SOURCE_METHODS)
    check_spec(source.action_spec)
    name, lengths = plain(source.name), plain(source.lengths)
    if not isinstance(name, str) or not name.strip():
        refuse(f"name is {name!r}, must be a short text")
    if not isinstance(lengths, np.ndarray) or lengths.dtype != np.int64 or lengths.ndim != 1:
        found = f"{lengths.dtype} {lengths.shape}" if isinstance(lengths, np.ndarray) else type(lengths).__name__
        refuse(f"lengths is {found}, must be an int64 array (episodes,)")
    if not len(lengths):
        refuse("lengths is empty. A source needs at least one episode")
    if lengths.min() < 1:
        episode = int(lengths.argmin())
        refuse(f"episode {episode} has {lengths[episode]} steps. Every episode needs at least 1")


def _check_optional_members(members: OptionalMembers) -> None:
    details, encoder, folder = plain(members.details), members.text_encoder, plain(members.cache_folder)
    if not isinstance(plain(members.bgr), bool | np.bool_):
        refuse(f"bgr is {members.bgr!r}, must be True or False")
    if not isinstance(details, Mapping) or not is_json(details):
        refuse(f"details is {details!r}, must be a dict of plain JSON")
    rate = details.get("control_rate")
    if rate is not None and not is_rate(rate):
        refuse(f"control_rate in details is {rate!r}, must be a number of steps per second above 0")
    if not isinstance(details.get("env", {}), Mapping):
        refuse(f"env in details is {details['env']!r}, must be what rt1.envs.registry.suite_to_json returns")
    types = {"name": str, "sha256": str, "width": int}
    if encoder is not None and not all(isinstance(encoder.get(key), kind) for key, kind in types.items()):
        refuse(f"text_encoder is {encoder!r}, must be None or have name, sha256 and width")
    skipped = plain(members.skipped)
    if not isinstance(skipped, list | tuple) or not all(isinstance(text, str) for text in skipped):
        refuse(f"skipped is {skipped!r}, must be a list or tuple of messages")
    if folder is not None and not isinstance(folder, Path):
        refuse(f"cache_folder is {folder!r}, must be a pathlib.Path or None")


def _checked_text(source: EpisodeSource, episode: int) -> int | None:
    """Return the width of the episode's text embedding, None where there is none."""
    instruction, task = plain(source.instruction(episode)), plain(source.task(episode))
    if not isinstance(instruction, str) or not instruction.strip():
        refuse(f"the instruction of episode {episode} is {instruction!r}, must be a sentence")
    if not isinstance(task, str):
        refuse(f"the task of episode {episode} is {task!r}, must be a name, or an empty string")
    embedding = source.text_embedding(episode)
    if embedding is None:
        return None
    if not is_floats(embedding, 1):
        refuse(f"the text embedding of episode {episode} is {words(embedding)}, must be finite float32 (E,)")
    encoder = optional_members(source).text_encoder
    if encoder is not None and encoder["width"] != len(embedding):
        refuse(f"text_encoder has width {encoder['width']}, the text embedding {len(embedding)}, must be equal")
    return len(embedding)


def _check_actions(source: EpisodeSource, episode: int) -> None:
    steps, size = int(source.lengths[episode]), source.action_spec.size
    actions = source.actions(episode, 0, steps)
    if not is_floats(actions, 2) or actions.shape != (steps, size):
        refuse(f"the actions of episode {episode} are {words(actions)}, must be finite float32 ({steps}, {size})")
    try:
        source.action_spec.encode(actions)
    except ValueError as error:
        raise ValueError(f"the actions of episode {episode} cannot be encoded: {error}") from error


def _checked_images(source: EpisodeSource, episode: int) -> set[tuple[int, ...]]:
    """Return the shapes of the episode's images."""
    steps = int(source.lengths[episode])
    images = source.encoded_images(episode, 0, steps)
    if len(images) != steps:
        refuse(f"episode {episode} gave {len(images)} images for {steps} steps, must give one per step")
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
            refuse(f"images() of episode {episode}, step {step} differs from encoded_images. Both must be one image")


def _check_outcome(source: EpisodeSource, episode: int) -> None:
    read, steps = optional_members(source).outcome, int(source.lengths[episode])
    if read is None:
        return
    outcome = read(episode)
    if not isinstance(plain(outcome), Outcome):
        refuse(f"outcome({episode}) is {outcome!r}, must be an Outcome")
    for name, kind in (("success", bool), ("seed", int)):
        value = getattr(outcome, name)
        if value is not None and not isinstance(value, kind):
            refuse(f"{name} of episode {episode} is {value!r}, must be {kind.__name__} or None")
    rewards = outcome.rewards
    if rewards is not None and (not is_floats(rewards, 1) or rewards.shape != (steps,)):
        refuse(f"the rewards of episode {episode} are {words(rewards)}, must be finite float32 ({steps},)")


def _decoded(data: object) -> NDArray[np.uint8]:
    if not isinstance(data, bytes):
        refuse(f"it is {type(data).__name__}, must be the bytes of a JPEG or PNG file")
    return decode_image(data)


def _check_random_access(source: EpisodeSource, episode: int) -> None:
    steps = int(source.lengths[episode])
    images, actions = source.encoded_images(episode, 0, steps), source.actions(episode, 0, steps)
    ranges = [(step, step + 1) for step in reversed(range(steps))] + [(steps // 3, steps), (0, steps), (0, 0)]
    for start, stop in ranges:
        if source.encoded_images(episode, start, stop) != images[start:stop]:
            refuse(f"the images of episode {episode}, steps {start}..{stop - 1} differ from those read all at once")
        if not np.array_equal(source.actions(episode, start, stop), actions[start:stop]):
            refuse(f"the actions of episode {episode}, steps {start}..{stop - 1} differ from those read all at once")


def _check_threads(source: EpisodeSource, episodes: list[int]) -> None:
    def read(episode: int) -> tuple[list[bytes], bytes]:
        steps = int(source.lengths[episode])
        return source.encoded_images(episode, 0, steps), source.actions(episode, 0, steps).tobytes()

    alone = [read(episode) for episode in episodes]
    with ThreadPoolExecutor(4, thread_name_prefix="rt1-check") as pool:
        together = list(pool.map(read, episodes * 4))
    if together != alone * 4:
        refuse("several threads reading at once get other steps than one alone. Reading must be thread-safe")
