"""The HTML pages, from the Jinja2 templates of this package."""

from __future__ import annotations

import base64
from functools import cache

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rt1.common.progress import duration
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Image
from rt1.report.svg import percent


def render(template: str, /, **values: object) -> str:
    """Return a template of the folder ``templates`` with its values filled in. All but ``Markup`` is escaped."""
    return _environment().get_template(template).render(values)


def data_uri(data: bytes, kind: str) -> str:
    """Return a file of a MIME type as an address that holds the file itself.

    >>> data_uri(b"abc", "image/jpeg")
    'data:image/jpeg;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail(image: Image, width: int, quality: int = 80) -> str:
    """Return an image, uint8 RGB, at most ``width`` pixels wide, as the address of a JPEG."""
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, dtype=np.uint8)
    return data_uri(encode_jpeg(np.ascontiguousarray(image), quality), "image/jpeg")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rt1.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, duration=duration, percent=percent)
    return environment
