"""Videos decode to what was put in and are small."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from rt1.envs.base import Image
from rt1.simulate import video
from rt1.simulate.rollout import Rollout
from rt1.simulate.seeds import trial_seed
from rt1.simulate.trials import TrialResult, plan_trials
from rt1.simulate.video import encode_video, film, side_by_side

av = pytest.importorskip("av")


def _moving_square(count: int, height: int = 96, width: int = 96) -> list[Image]:
    """A textured scene, as a simulator's, in which one square moves."""
    scene = np.random.default_rng(0).integers(90, 120, (height, width, 3), dtype=np.uint8)
    images = [scene.copy() for _ in range(count)]
    for index, image in enumerate(images):
        image[20:40, index : index + 20] = (200, 30, 40)
    return images


def test_the_video_has_one_picture_per_image_at_the_asked_size_and_rate() -> None:
    video = encode_video(_moving_square(40), fps=20)
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(video=0))
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 20
    assert len(pictures) == 40
    assert {(p.width, p.height) for p in pictures} == {(288, 288)}


def test_the_index_comes_first_and_forty_images_are_small() -> None:
    video = encode_video(_moving_square(40), fps=20)
    assert 0 < video.index(b"moov") < video.index(b"mdat")
    assert len(video) < 60_000


def test_a_wide_image_keeps_its_shape_with_even_sides() -> None:
    video = encode_video(_moving_square(2, height=51, width=100), fps=12.5, scale_to=101)
    with av.open(io.BytesIO(video)) as container:
        picture = next(container.decode(video=0))
    assert (picture.width, picture.height) == (100, 52)


def test_colours_survive() -> None:
    colour = (200, 40, 60)
    video = encode_video([np.full((48, 48, 3), colour, dtype=np.uint8)] * 2, fps=10)
    with av.open(io.BytesIO(video)) as container:
        picture = next(container.decode(video=0)).reformat(format="rgb24", src_colorspace="ITU709")
    np.testing.assert_allclose(picture.to_ndarray()[100, 100], colour, atol=4)


@pytest.mark.parametrize(
    ("images", "fps", "message"),
    [
        ([], 10, "0 images"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], 10, r"image 1 .*\(8, 9, 3\)"),
        ([np.zeros((8, 8, 3), np.float32)], 10, "float32"),
        ([np.zeros((8, 8, 4), np.uint8)], 10, r"\(8, 8, 4\)"),
        ([np.zeros((8, 8, 3), np.uint8)], 0, "fps 0"),
    ],
)
def test_images_that_make_no_video_are_refused(images: list[Image], fps: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_video(images, fps=fps)


def test_a_picture_stands_on_the_left_of_what_the_policy_saw() -> None:
    frame = side_by_side(np.full((60, 80, 3), 10, np.uint8), np.full((6, 6, 3), 200, np.uint8))
    assert frame.shape == (60, 80 + 8 + 60, 3)
    assert (frame[:, :80] == 10).all()
    assert (frame[:, 88:] == 200).all()


class _Pictured:
    """An environment whose snapshots are gray values."""

    draws_later = True

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.seed = -1

    def reset(self, seed: int) -> None:
        self.seed = seed

    def snapshot(self) -> int:
        return 0

    def picture(self, snapshot: int, size: int) -> Image:
        self.drawn.append(snapshot)
        return np.full((size, size, 3), snapshot, np.uint8)

    def close(self) -> None:
        pass


class _Suite:
    control_rate = 10.0

    def __init__(self) -> None:
        self.env = _Pictured()

    def open(self, task: str, *, render: bool = True) -> Any:
        assert (task, render) == ("near", False)
        return self.env


def _trial(snapshots: tuple[Any, ...]) -> TrialResult:
    images = tuple(_moving_square(10))
    rollout = Rollout(
        success=True, steps=9, actions=np.zeros((9, 1), np.float32), clipped=0, images=images, snapshots=snapshots
    )
    return TrialResult(plan=plan_trials("policy", "near", "", trials=3, seed=5)[0], trial=2, rollout=rollout)


def _size_and_count(data: bytes) -> tuple[int, int, int]:
    with av.open(io.BytesIO(data)) as container:
        pictures = list(container.decode(video=0))
    return pictures[0].width, pictures[0].height, len(pictures)


def test_a_trial_is_filmed_with_pictures_of_its_scene_and_a_long_one_with_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite: Any = _Suite()
    trial = _trial(tuple(range(10)))
    assert _size_and_count(film(suite, trial)) == (968, 480, 10)
    assert (suite.env.seed, suite.env.drawn) == (trial_seed(5, 2), list(range(10)))
    monkeypatch.setattr(video, "_MOST_FRAMES", 5)
    suite.env.drawn.clear()
    assert _size_and_count(film(suite, trial))[2] == 5
    assert suite.env.drawn == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("snapshots", [(), (None,) * 10])
def test_without_snapshots_a_film_shows_what_the_policy_saw(snapshots: tuple[Any, ...]) -> None:
    suite: Any = _Suite()
    assert _size_and_count(film(suite, _trial(snapshots))) == (288, 288, 10)
