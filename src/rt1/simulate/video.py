"""Images to a small H.264 video that any browser plays."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from rt1.envs.base import Image


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
        raise ModuleNotFoundError("videos need PyAV, which is not installed; run: pip install 'rt1[report]'") from error
    scale = scale_to / max(height, width)
    # The index can only be moved to the front of a real file, which the muxer reopens.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            rate = Fraction(fps).limit_denominator(1000)
            stream = container.add_stream("libx264", rate=rate, options={"crf": "27", "preset": "slow"})
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
        raise ValueError("a video of 0 images; it needs at least 1; keep the images of the rollout")
    if not fps > 0 or scale_to < 2:
        raise ValueError(f"fps {fps}, scale_to {scale_to}; fps must be above 0 and scale_to at least 2 pixels")
    shape = images[0].shape
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or image.shape != shape:
            raise ValueError(
                f"image {index} of the video is {image.dtype} {image.shape}; every image must be uint8 "
                f"(H, W, 3) of the first one's size {shape}"
            )
    return shape[0], shape[1]


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))
