"""The checks that we ship: they pass what keeps its promises and name what does not."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import Outcome
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.envs.base import Observation, StepResult
from rt1.testing import check_env, check_source

Change = Callable[[Any], None]


def test_an_environment_that_keeps_its_promises_passes_and_is_closed(make_env: Callable[..., Any]) -> None:
    opened: list[Any] = []

    def make() -> Any:
        assert all(env.closed for env in opened)  # one renderer at a time
        opened.append(make_env())
        return opened[-1]

    check_env(make)
    check_env(make, seed=99)
    assert len(opened) == 4
    assert all(env.closed for env in opened)


def test_an_environment_with_a_choice_passes(make_env: Callable[..., Any]) -> None:
    def make() -> Any:
        env = make_env()
        low, high = (-1.0, -1.0), (1.0, 1.0)
        env.action_spec = ActionSpec(
            parts=(Continuous(name="move", low=low, high=high), Discrete(name="terminate", choices=3))
        )
        return env

    check_env(make)


def _set(**members: Any) -> Change:
    def apply(thing: Any) -> None:
        for name, value in members.items():
            setattr(thing, name, value)

    return apply


def _returns(change: Callable[[Any], Any]) -> Change:
    """Change what step returns."""

    def apply(env: Any) -> None:
        step = env.step
        env.step = lambda action: change(step(action))

    return apply


def _image(change: Callable[[Any], Any]) -> Change:
    """Change the image of every observation after a step."""
    return _returns(lambda r: dataclasses.replace(r, observation=Observation(image=change(r.observation.image))))


def _reset(change: Callable[[Any, int], Any]) -> Change:
    """Change what reset does; it gets the original reset and the seed."""

    def apply(env: Any) -> None:
        reset = env.reset
        env.reset = lambda seed: change(reset, seed)

    return apply


def _takes_anything(env: Any) -> None:
    step = env.step
    env.step = lambda action: step(np.clip(action, -1, 1))


def _takes_much(env: Any) -> None:
    """Refuse values below the bounds and let those above pass."""
    step = env.step
    env.step = lambda action: step(np.minimum(action, 1))


def _starts_by_itself(env: Any) -> None:
    env.reset(0)


def _one_array(env: Any) -> None:
    shared = np.zeros((16, 16, 3), np.uint8)

    def reuse(image: Any) -> Any:
        shared[:] = image
        return shared

    reset = env.reset
    env.reset = lambda seed: Observation(image=reuse(reset(seed).image))
    _image(reuse)(env)


def _never_ends(env: Any) -> None:
    env.max_steps = 3
    _returns(lambda r: dataclasses.replace(r, success=False, done=False))(env)


def _remembers(env: Any) -> None:
    """Let each reset shift the start."""
    resets = itertools.count()
    _reset(lambda reset, seed: reset(seed + 1000 * next(resets)))(env)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda env: delattr(env, "instruction"), "PointEnv has no instruction. Env asks for action_spec, instruction"),
        (_set(step=None), "step is None, must be a method of PointEnv"),
        (_set(action_spec=(3,)), r"action_spec is \(3,\), must be an rt1.actions.ActionSpec"),
        (_set(instruction=" "), "instruction is ' ' .*sentence"),
        (_set(control_rate=0.0), "control_rate is 0.0, must be a number of steps per second above 0"),
        (_set(control_rate="10"), "control_rate is '10'"),
        (_set(max_steps=0), "max_steps is 0, must be a whole number of at least 1"),
        (_set(max_steps=12.0), "max_steps is 12.0"),
        (_starts_by_itself, r"step\(\) before the first reset\(\) went through, must raise a RuntimeError"),
        (_reset(lambda reset, seed: reset(seed).image), r"reset\(\) returned ndarray, must return an rt1.envs.base"),
        (
            _image(lambda image: image.astype(np.float32)),
            r"image of step 1 is float32 \(16, 16, 3\), must be a uint8",
        ),
        (_image(lambda image: image[..., 0]), r"image of step 1 is uint8 \(16, 16\)"),
        (_image(lambda image: image[:0]), r"shape \(0, 16, 3\), must have at least one pixel"),
        (_image(lambda image: image.tolist()), "image of step 1 is list"),
        (_image(lambda image: image[:8]), r"step 1 has shape \(8, 16, 3\), the first \(16, 16, 3\), must keep its"),
        (_one_array, "step 1 changed the image returned before it. Each observation needs an array of its own"),
        (_returns(lambda result: result.observation), "step 1 returned Observation, must return .*StepResult"),
        (_returns(lambda result: dataclasses.replace(result, done=None)), "done of step 1 is None, must be True or"),
        (_returns(lambda r: dataclasses.replace(r, success=True, done=False)), "step 1 reports success but not done"),
        (_never_ends, "max_steps is 3, but the episode goes on after it. The last step must be done"),
        (_takes_anything, r"step\(\) took move_0 = -2, outside its bounds -1..1, must raise a ValueError"),
        (_takes_much, r"step\(\) took move_0 = 2, outside its bounds"),
        (_remembers, "same seed again after another episode.*hand its seed on"),
    ],
)
def test_an_environment_that_breaks_a_promise_is_refused_with_what_was_found(
    make_env: Callable[..., Any], change: Change, message: str
) -> None:
    def make() -> Any:
        env = make_env()
        change(env)
        return env

    with pytest.raises(ValueError, match=message) as refusal:
        check_env(make)
    assert "\n" not in str(refusal.value)


def test_an_environment_that_starts_differently_each_time_it_is_opened_is_refused(
    make_env: Callable[..., Any],
) -> None:
    opened = itertools.count()

    def make() -> Any:
        env, shift = make_env(), 1000 * next(opened)
        _reset(lambda reset, seed: reset(seed + shift))(env)
        return env

    with pytest.raises(ValueError, match=r"same seed in a new environment.*hand its seed on"):
        check_env(make)


def test_a_reset_that_ignores_its_seed_is_refused_unless_there_is_one_start(make_env: Callable[..., Any]) -> None:
    def make() -> Any:
        env = make_env()
        _reset(lambda reset, _seed: reset(3))(env)
        return env

    with pytest.raises(ValueError, match=r"seeds 0\.\.2 give one start.*one_start=True"):
        check_env(make)
    check_env(make, one_start=True)


def test_an_environment_that_succeeds_at_random_is_refused(make_env: Callable[..., Any]) -> None:
    calls = itertools.count()

    def make() -> Any:
        env = make_env()
        step = env.step

        def random_end(action: Any) -> StepResult:
            result = step(action)
            return dataclasses.replace(result, success=False, done=result.done or next(calls) == 4)

        env.step = random_end
        return env

    with pytest.raises(ValueError, match="success or done of step 5 differs again after another episode"):
        check_env(make)


def test_a_source_that_keeps_its_promises_passes(make_source: Callable[..., Any]) -> None:
    source = make_source(3, 1, 5)
    reads: list[int] = []
    source.before_read = reads.append
    check_source(source)
    assert set(reads) == {0, 1, 2}


def test_as_many_episodes_are_read_as_asked_for_first_and_last_among_them(make_source: Callable[..., Any]) -> None:
    source = make_source(*[2] * 9)
    reads: list[int] = []
    source.before_read = reads.append
    check_source(source, episodes=3)
    assert set(reads) == {0, 4, 8}


def test_our_own_recordings_pass(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    check_source(RLDSSource(write_recording(tmp_path / "set", make_source(3, 1, 5))))


def _grows(source: Any) -> None:
    """Read one step more than asked for when a single step is asked for."""
    source.encoded_images = lambda e, start, stop: source.images[e][start : stop + (stop - start == 1)]


def _drifts(source: Any) -> None:
    """Count on being read in order: an iterator behind the index."""
    position = itertools.count()
    source.actions = lambda e, start, stop: np.roll(source.moves[e], next(position), axis=0)[start:stop]


def _action(source: Any, value: float) -> None:
    source.moves[1][2, 0] = value


def _other_embedding(source: Any, embedding: Any) -> None:
    source.text_embedding = lambda e: embedding if e == 1 else np.ones(8, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: delattr(s, "lengths"), "MemorySource has no lengths. EpisodeSource asks for name, action_spec"),
        (_set(action_spec=None), "action_spec is None"),
        (_set(name=""), "name is '', must be a short text"),
        (_set(lengths=[3, 4]), r"lengths is list, must be an int64 array \(episodes,\)"),
        (_set(lengths=np.array([3.0, 4.0])), r"lengths is float64 \(2,\)"),
        (_set(lengths=np.array([], np.int64)), "lengths is empty. A source needs at least one episode"),
        (_set(lengths=np.array([3, 0])), "episode 1 has 0 steps. Every episode needs at least 1"),
        (
            _set(lengths=np.array([3, 5])),
            r"actions of episode 1 are float32 \(4, 3\), must be finite float32 \(5, 3",
        ),
        (_set(instruction=lambda _: ""), "instruction of episode 0 is '', must be a sentence"),
        (_set(task=lambda _: None), "task of episode 0 is None, must be a name, or an empty string"),
        (lambda s: _other_embedding(s, None), r"widths \['8', 'None'\]. All must have one width, or none at all"),
        (lambda s: _other_embedding(s, np.ones(4, np.float32)), r"widths \['4', '8'\]"),
        (
            lambda s: _other_embedding(s, np.ones(8)),
            r"embedding of episode 1 is float64 \(8,\), must be finite float32",
        ),
        (lambda s: _other_embedding(s, np.full(8, np.nan, np.float32)), r"float32 \(8,\), not all finite"),
        (lambda s: _action(s, np.nan), r"actions of episode 1 are float32 \(4, 3\), not all finite"),
        (
            _set(
                action_spec=ActionSpec(
                    parts=(Discrete(name="a", choices=3), Continuous(name="b", low=(0, 0), high=(1, 1)))
                )
            ),
            "actions of episode 0 cannot be encoded: a discrete dimension of",
        ),
        (lambda s: s.images[1].pop(), "episode 1 gave 3 images for 4 steps, must give one per step"),
        (lambda s: s.images[1].__setitem__(2, b"torn"), "image of episode 1, step 2: .* is neither JPEG nor PNG"),
        (
            lambda s: s.images[1].__setitem__(2, np.zeros(3)),
            "image of episode 1, step 2: it is ndarray, must be the",
        ),
        (
            lambda s: s.images[1].__setitem__(2, encode_jpeg(np.zeros((8, 8, 3), np.uint8))),
            r"images have shapes \[\(8, 8, 3\), \(48, 48, 3\)\]. All images of a source must have one size",
        ),
        (_grows, "images of episode 0, steps .* differ from those read all at once"),
        (_drifts, "actions of episode 0, steps .* differ from those read all at once"),
    ],
)
def test_a_source_that_breaks_a_promise_is_refused_with_what_was_found(
    make_source: Callable[..., Any], change: Change, message: str
) -> None:
    source = make_source(3, 4)
    change(source)
    with pytest.raises(ValueError, match=message) as refusal:
        check_source(source)
    assert "\n" not in str(refusal.value)


class _Pixels:
    """A source with the optional members, around one with the required ones."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.details = {"control_rate": 5.0, "tasks": ["open"]}
        self.text_encoder: Any = {"name": "table", "sha256": "", "width": 8}
        self.bgr, self.skipped, self.cache_folder = False, (), Path()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def images(self, episode: int, start: int, stop: int) -> list[Any]:
        return [decode_image(data) for data in self._source.images[episode][start:stop]]


def test_a_source_with_the_optional_members_passes(make_source: Callable[..., Any]) -> None:
    source = _Pixels(make_source(3, 4))
    check_source(source)
    source.text_encoder, source.cache_folder = None, None  # type: ignore[assignment]
    check_source(source)


def _swaps(source: Any) -> None:
    """Say that the encoded images have blue first, as the decoded ones have it, too."""
    source.bgr = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(bgr=None), "bgr is None"),
        (_set(details=[]), r"details is \[\].*JSON"),
        (_set(details={"seed": np.ones(1)}), "details is .*JSON"),
        (_set(details={"control_rate": 0}), "control_rate .* is 0"),
        (_set(details={"env": "here"}), "env .* is 'here'"),
        (_set(text_encoder={"name": "table"}), "text_encoder is .*width"),
        (_set(text_encoder={"name": "table", "sha256": "", "width": 4}), "width 4, .* 8"),
        (_set(skipped="one"), "skipped is 'one'"),
        (_set(cache_folder="here"), "cache_folder is 'here'.*Path"),
        (_set(outcome=lambda _: True), r"outcome\(0\) is True"),
        (_set(outcome=lambda _: Outcome(seed="a")), "seed of episode 0 is 'a'"),  # type: ignore[arg-type]
        (_set(outcome=lambda _: Outcome(rewards=np.zeros(2, np.float32))), r"rewards .*\(2,\).*float32 \(3,\)"),
        (_set(images=lambda *_: []), "0 images for 3 steps"),
        (_set(images=lambda *_: [np.zeros((48, 48))] * 3), "float64"),
        (_set(images=lambda *_: [np.zeros((48, 48, 3), np.uint8)] * 3), "episode 0, step 0 differs"),
        (_swaps, "differs from encoded_images"),
    ],
)
def test_an_optional_member_that_breaks_a_promise_is_refused(
    make_source: Callable[..., Any], change: Change, message: str
) -> None:
    plain = make_source(3, 4)
    for images in plain.images:
        images[:] = [encode_jpeg(np.full((48, 48, 3), (200, 90, 20), np.uint8))] * len(images)
    source = _Pixels(plain)
    change(source)
    with pytest.raises(ValueError, match=message) as refusal:
        check_source(source)
    assert "\n" not in str(refusal.value)


def test_a_source_that_one_thread_at_a_time_can_read_is_refused(make_source: Callable[..., Any]) -> None:
    source, main = make_source(3, 4), threading.get_ident()
    source.encoded_images = lambda e, start, stop: (
        source.images[e][start:stop] if threading.get_ident() == main else source.images[0][start:stop]
    )
    with pytest.raises(ValueError, match="several threads reading at once get other steps than one alone"):
        check_source(source)
