"""Pictures of environments as uint8 RGB, and where an observation holds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from rt1.envs.base import Image


def rgb_picture(picture: Any, what: str) -> Image:
    """Return a picture as a new uint8 RGB array (H, W, 3).

    Gray pictures (H, W) or (H, W, 1) get three equal channels. Floats in [0, 1] are multiplied by 255 and rounded.

    Raises:
        ValueError: another shape, type or range. ``what`` names the picture.
    """
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"{what} is {type(picture).__name__}, must be an array (H, W, 3)")
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3) or not picture.size:
        raise ValueError(f"{what} has shape {picture.shape}, must be RGB (H, W, 3) or gray (H, W). Transpose it")
    if picture.dtype.kind == "f":
        if not (picture.min() >= 0.0 and picture.max() <= 1.0):
            raise ValueError(
                f"{what} has floats in {picture.min():.3g}..{picture.max():.3g}, must be in 0..1, or uint8. Convert it"
            )
        picture = np.rint(picture * 255).astype(np.uint8)
    if picture.dtype != np.uint8:
        raise ValueError(f"{what} is {picture.dtype}, must be uint8, or float in 0..1. Convert it")
    return np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def pictures_in(observation: Any) -> list[str]:
    """Return the keys of the pictures in an observation or its space, dots between levels. "" is the whole of it."""
    children = observation if isinstance(observation, Mapping) else getattr(observation, "spaces", None)
    if isinstance(children, Mapping):
        return [f"{key}.{rest}".rstrip(".") for key, child in children.items() for rest in pictures_in(child)]
    shape: tuple[int, ...] = getattr(observation, "shape", None) or ()
    dtype = getattr(observation, "dtype", None)
    looks_so = len(shape) == 3 and shape[-1] in (1, 3) and min(shape[:2]) >= 8 and dtype in (np.uint8, np.float32)
    return [""] if looks_so else []


def encode_picture(picture: Image, size: int) -> bytes:
    """Return a picture, uint8 RGB (H, W, 3), at most ``size`` pixels wide and high, as a JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(_shrunk(picture, size), cv2.COLOR_RGB2BGR))
    return data.tobytes()


def decode_picture(data: bytes, size: int) -> Image:
    """Return the picture of :func:`encode_picture`, at most ``size`` pixels wide and high."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return _shrunk(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8), size)


def _shrunk(picture: Image, size: int) -> Image:
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    if scale >= 1:
        return picture
    smaller = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return np.asarray(smaller, dtype=np.uint8)
