"""JPEG, PNG and WebP bytes to uint8 RGB images, and RGB images to JPEG and PNG bytes."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from rt1.errors import DataError

try:
    import simplejpeg  # type: ignore[import-untyped,unused-ignore]
except ImportError:  # only a speed-up of about 15 %, cv2 reads the same files
    simplejpeg = None

_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_PNG_IMAGE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", _PNG_END)
"""Chunks that the pixels of a PNG come from. The others are metadata."""
_MOST_CHUNKS = 1 << 14
_RIFF, _WEBP = b"RIFF", b"WEBP"
_VP8_START = b"\x9d\x01\x2a"
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset((0x00, 0x01, *range(0xD0, 0xDB)))
"""Markers without a length, or that no JPEG has before its size."""
_MOST_SEGMENTS = 1000
MAX_PIXELS = 1 << 24
"""Most pixels of an image that is decoded. A small file may claim to hold gigabytes."""
MAX_SCANS = 100
"""Most scans of a JPEG that is decoded. A usual progressive one has 10."""
MAX_WORK = 1 << 28
"""Largest :func:`decoding_work` of an image that is decoded, about 0.5 s."""
_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_CURE = "Record or download the data set again"


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Return the image in JPEG, PNG or WebP bytes as uint8 RGB (H, W, 3), 0..255.

    Gray is repeated over the channels, transparency is dropped, bytes behind the end of the image are ignored. Other
    bytes, damaged ones, a depth map, or too much work to decode raise :class:`DataError`.
    """
    decoding_work(data)
    if data.startswith(_JPEG):
        whole = data if _JPEG_END in data[_jpeg_header(data)[3] :] else b""
        return _decode_cv2(whole, len(data), "JPEG") if simplejpeg is None else _decode_simplejpeg(data)
    if data.startswith(_PNG):
        _check_not_depth(data)
        return _decode_cv2(_png_image(data), len(data), "PNG")
    return _decode_cv2(data[: 8 + int.from_bytes(data[4:8], "little")], len(data), "WebP")


def decoding_work(data: bytes) -> int:
    """Return the pixels of an image times its scans, without decoding. Each takes 1 to 3 ns to decode.

    Bytes of another format, or beyond the limits of this module, raise :class:`DataError`.
    """
    height, width = image_size(data)
    # Between markers a JPEG writes the byte ff as ff 00. Metadata may hold a few more ff da.
    scans = data.count(b"\xff\xda") if data.startswith(_JPEG) else 1
    if scans > MAX_SCANS or height * width > MAX_PIXELS or scans * height * width > MAX_WORK:
        raise DataError(
            f"an image of {len(data)} bytes has {height}x{width} pixels and {scans} scans. At most {MAX_PIXELS} "
            f"pixels, {MAX_SCANS} scans and {MAX_WORK} pixels times scans are decoded. Store it smaller or baseline"
        )
    return scans * height * width


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Return the JPEG of a uint8 RGB (H, W, 3) image, 4:2:0, always by cv2: equal images give equal bytes.

    Another dtype or shape, or a quality outside 1..100, raises ``ValueError``.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the image is {image.dtype} {image.shape}. Give uint8 RGB (H, W, 3)")
    if not 1 <= quality <= 100:
        raise ValueError(f"the JPEG quality is {quality}. It must lie in 1..100")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return the PNG of a uint8 RGB (H, W, 3) image, without loss and quickly made."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _FAST_PNG)[1].tobytes()


def is_rgb(data: bytes) -> bool:
    """Return whether bytes are a JPEG or PNG with three channels of 8 bits: no gray, palette, transparency or depth."""
    if data.startswith(_JPEG):
        return _jpeg_header(data)[2] == 3
    return data.startswith(_PNG) and data[24:26] == b"\x08\x02"


def image_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) from the header of JPEG, PNG or WebP bytes. Others raise :class:`DataError`."""
    try:
        if data.startswith(_PNG):
            kind, width, height = struct.unpack_from(">4sII", data, 12)
            if kind != b"IHDR":
                raise DataError(f"a PNG of {len(data)} bytes does not begin with its header. {_CURE}")
            return height, width
        if data.startswith(_JPEG):
            return _jpeg_header(data)[:2]
        if data.startswith(_RIFF) and data[8:12] == _WEBP:
            return _webp_size(data)
    except (struct.error, IndexError) as error:
        raise DataError(f"an image of {len(data)} bytes ends within its header. {_CURE}") from error
    raise DataError(
        f"an image of {len(data)} bytes, first {data[:8].hex(' ')}, is neither JPEG nor PNG nor WebP. {_CURE}"
    )


def _check_not_depth(png: bytes) -> None:
    """Refuse gray of 16 bits: its upper 8 bits, which a decoder returns, are nearly black."""
    if png[24:26] == b"\x10\x00":
        raise DataError("the image is gray of 16 bits, which is a depth map. Name the key of a color camera")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == _VP8_START:
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise DataError(f"a WebP of {len(data)} bytes does not begin with its header. {_CURE}")


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return (height, width, channels, position of the header of the frame)."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        marker = data[position + 1]
        if data[position] != 0xFF or marker in _BARE_MARKERS:  # decoders would search on for the next marker
            break
        if marker in _SIZE_MARKERS:
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            return height, width, channels, position
        position += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise DataError(f"a JPEG of {len(data)} bytes has no size where its header must have it. {_CURE}")


def _decode_simplejpeg(data: bytes) -> NDArray[np.uint8]:
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        raise DataError(f"a JPEG of {len(data)} bytes does not decode ({error}). {_CURE}") from error


def _decode_cv2(data: bytes, size: int, kind: str) -> NDArray[np.uint8]:
    """Return the image in bytes that are whole, or nothing. ``size`` and ``kind`` are for errors."""
    # cv2 fills the missing part of a truncated image with gray. By default it also rotates images by EXIF, which no
    # other reader of robot data does.
    image = None
    if data:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(f"a {kind} of {size} bytes is truncated or damaged. {_CURE}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _png_image(data: bytes) -> bytes:
    """Return a PNG without metadata, or nothing if a chunk does not end within the data or there are too many.

    cv2 reserves the memory that a chunk claims, up to 2 GB, and unpacks metadata to a thousand times its size.
    """
    position, chunks = len(_PNG), [_PNG]
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in _PNG_IMAGE:
            chunks.append(data[position : position + 12 + length])
        position += 12 + length
        if kind == _PNG_END:
            return b"".join(chunks) if position <= len(data) else b""
    return b""
