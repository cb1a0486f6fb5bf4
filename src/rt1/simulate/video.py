"""Images to a small H.264 video that any browser plays, and the video of a trial."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from rt1.envs.base import PICTURE_SIZE, Image, TaskSuite, picture_of
from rt1.simulate.seeds import trial_seed
from rt1.simulate.trials import TrialResult, with_images

_MOST_FRAMES = 300
_SMALL = 288


def pictures(suite: TaskSuite, trial: TrialResult, *, every: int = 1) -> Iterator[Image | None]:
    """Draw the snapshots of a trial for people, or each ``every``-th one."""
    with closing(suite.open(trial.plan.task, render=False)) as env:
        env.reset(trial_seed(trial.plan.seed, trial.trial))  # some environments change more than a snapshot holds
        for snapshot in trial.rollout.snapshots[::every]:
            yield picture_of(env, snapshot)


def film(suite: TaskSuite, trial: TrialResult) -> bytes:
    """Return the mp4 of a trial at the speed of the control rate.

    Where the environment offers pictures for people, each stands on the left of what the policy saw.
    """
    trial = with_images(suite, trial)
    rollout = trial.rollout
    every = -(-len(rollout.images) // _MOST_FRAMES)  # drawing a long episode would take a minute
    images, fps = rollout.images[::every], suite.control_rate / every
    if not rollout.snapshots or rollout.snapshots[0] is None:
        return encode_video(images, fps=fps, scale_to=_SMALL)
    frames = [
        image if picture is None else side_by_side(picture, image)
        for image, picture in zip(images, pictures(suite, trial, every=every), strict=True)
    ]
    return encode_video(frames, fps=fps, scale_to=max(frames[0].shape[:2]))


def side_by_side(picture: Image, image: Image) -> Image:
    """Return a picture, uint8 RGB (H, W, 3), with another one beside it that is enlarged to its height."""
    height = picture.shape[0]
    width = round(image.shape[1] * height / image.shape[0])
    large = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_NEAREST)
    gap = np.full((height, PICTURE_SIZE // 60, 3), 255, np.uint8)
    return np.concatenate([picture, gap, np.asarray(large, dtype=np.uint8)], axis=1)


def encode_video(images: Sequence[Image], *, fps: float, scale_to: int = 288) -> bytes:
    """Encode images as an mp4 file (H.264, yuv420p, index first, so it plays while it loads).

    Args:
        images: at least one uint8 RGB (H, W, 3), all of one size.
        fps: images per second, Hz.
        scale_to: pixels of the longer side. Both sides become even, as H.264 requires.

    Raises:
        ValueError: no image, images that differ in size or are not uint8 RGB, a rate or size not above 0.
        ModuleNotFoundError: PyAV is not installed.
    """
    height, width = _checked_size(images, fps, scale_to)
    try:
        import av
        from av.video.reformatter import Colorspace
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("videos need PyAV, which is not installed. Run: pip install 'rt1[report]'") from error
    scale = scale_to / max(height, width)
    # The index can only be moved to the front of a real file, which the muxer reopens.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            rate = Fraction(fps).limit_denominator(1000)
            stream = container.add_stream(
                "libx264", rate=rate, options={"crf": "30" if scale_to > _SMALL else "27", "preset": "slow"}
            )
            stream.pix_fmt = "yuv420p"
            stream.width, stream.height = _even(width * scale), _even(height * scale)
            context = stream.codec_context
            # Named, or browsers guess the color matrix from the size.
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
            for image in images:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                    width=stream.width,
                    height=stream.height,
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    interpolation="BICUBIC",
                )
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return path.read_bytes()


_BT709 = 1  # the standard's own number (ISO/IEC 23091-2) for its matrix, primaries and transfer alike
_LIMITED_RANGE = 1


def _checked_size(images: Sequence[Image], fps: float, scale_to: int) -> tuple[int, int]:
    if not images:
        raise ValueError("a video of 0 images. It needs at least 1. Keep the images of the rollout")
    if not fps > 0 or scale_to < 2:
        raise ValueError(f"fps {fps}, scale_to {scale_to}. fps must be above 0 and scale_to at least 2 pixels")
    shape = images[0].shape
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or image.shape != shape:
            raise ValueError(
                f"image {index} of the video is {image.dtype} {image.shape}. Every image must be uint8 "
                f"(H, W, 3) of the first one's size {shape}"
            )
    return shape[0], shape[1]


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))
