"""Images: what decodes is RGB, what is damaged is refused, equal images give equal bytes."""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.data.sources import images
from rt1.data.sources.images import decode_image, decoding_work, encode_jpeg, encode_png, image_size, is_rgb
from rt1.errors import DataError


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A smooth 48 x 64 image whose channels differ: red left, green below."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([255 - columns * 3, rows * 5, np.full_like(rows, 40)], axis=-1).astype(np.uint8)


@pytest.fixture(params=["simplejpeg", "cv2"])
def _decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the fast decoder and as if it were not installed."""
    if request.param == "cv2":
        monkeypatch.setattr(images, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg", reason="the extra `fast` is not installed")


def _png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.usefixtures("_decoder")
def test_a_jpeg_decodes_to_nearly_the_same_rgb_image(image: NDArray[np.uint8]) -> None:
    decoded = decode_image(encode_jpeg(image))
    assert decoded.dtype == np.uint8
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - image).mean() < 2


def test_both_jpeg_decoders_give_the_same_pixels(image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg", reason="the extra `fast` is not installed")
    data = encode_jpeg(image)
    fast = decode_image(data)
    monkeypatch.setattr(images, "simplejpeg", None)
    np.testing.assert_array_equal(decode_image(data), fast)


def test_a_png_decodes_to_exactly_the_same_image(image: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(decode_image(_png(image)), image)


@pytest.mark.usefixtures("_decoder")
def test_a_grey_image_is_repeated_over_the_channels(image: NDArray[np.uint8]) -> None:
    decoded = decode_image(cv2.imencode(".jpg", image[..., 0])[1].tobytes())
    assert decoded.shape == (48, 64, 3)
    assert (decoded == decoded[..., :1]).all()


def test_equal_images_give_equal_bytes_and_quality_changes_them(image: NDArray[np.uint8]) -> None:
    assert encode_jpeg(image) == encode_jpeg(image.copy())
    assert len(encode_jpeg(image, quality=50)) < len(encode_jpeg(image, quality=95))


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_truncated_jpeg_is_refused(image: NDArray[np.uint8], cut: int) -> None:
    with pytest.raises(DataError, match=r"JPEG of \d+ bytes .*again"):
        decode_image(encode_jpeg(image)[:-cut])


@pytest.mark.parametrize("cut", [10, 100])
def test_a_truncated_png_is_refused(image: NDArray[np.uint8], cut: int) -> None:
    with pytest.raises(DataError, match=r"PNG of \d+ bytes .*again"):
        decode_image(_png(image)[:-cut])


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(20), b"\xff\xd8"])
def test_other_bytes_are_refused_with_their_beginning(data: bytes) -> None:
    with pytest.raises(DataError, match=f"{len(data)} bytes.*{data[:8].hex(' ')}"):
        decode_image(data)
    with pytest.raises(DataError, match="is neither JPEG nor PNG"):
        image_size(data)


def test_the_size_is_read_from_the_header(image: NDArray[np.uint8]) -> None:
    assert image_size(encode_jpeg(image)) == (48, 64)
    assert image_size(_png(image)) == (48, 64)


@pytest.mark.parametrize("keep", [4, 15])
def test_a_header_that_ends_early_is_refused(image: NDArray[np.uint8], keep: int) -> None:
    for data in (encode_jpeg(image), _png(image)):
        with pytest.raises(DataError):
            image_size(data[:keep])


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_encoding_refuses_anything_but_uint8_rgb(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        encode_jpeg(wrong)


def test_encoding_refuses_a_quality_outside_its_range(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"quality is 0\. .*1\.\.100"):
        encode_jpeg(image, quality=0)


def _scans(image: NDArray[np.uint8], extra: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return data[:-2] + extra * data[data.rindex(b"\xff\xda") : -2] + b"\xff\xd9"


def test_an_ordinary_progressive_jpeg_is_decoded(image: NDArray[np.uint8]) -> None:
    assert decode_image(_scans(image, 0)).shape == image.shape
    assert decoding_work(_scans(image, 0)) == 10 * 48 * 64
    assert decoding_work(encode_jpeg(image)) == decoding_work(_png(image)) == 48 * 64


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(image: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match="48x64 pixels and 2510 scans"):
        decode_image(_scans(image, 2500))


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x10\x01\x10\x00"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(image: NDArray[np.uint8], size: bytes) -> None:
    jpeg, png = encode_jpeg(image), _png(image)
    for data in (
        jpeg.replace(b"\x00\x30\x00\x40\x03", size + b"\x03"),
        png[:16] + bytes(2) + size[:2] + bytes(2) + size[2:] + png[24:],
    ):
        with pytest.raises(DataError, match="At most 16777216 pixels"):
            decode_image(data)


def test_many_pixels_in_many_scans_are_refused(image: NDArray[np.uint8]) -> None:
    data = _scans(image, 50).replace(b"\x00\x30\x00\x40\x03", b"\x10\x00\x10\x00\x03")
    with pytest.raises(DataError, match="pixels and 60 scans"):
        decode_image(data)


@pytest.mark.parametrize(
    "hidden",
    [
        b"\xff\xd0\x00\x04",
        b"\xff\x01\x00\x04",
        b"\xfe\x00\x02junk",
        1001 * b"\xff\xfe\x00\x02",
        100_000 * b"\xff",
        b"\xff\xda\x00\x02",
    ],
)
def test_a_jpeg_whose_header_hides_its_size_is_refused(image: NDArray[np.uint8], hidden: bytes) -> None:
    data = encode_jpeg(image)
    with pytest.raises(DataError, match=r"size.*header"):
        decode_image(data[:2] + b"\xff" + hidden + data[2:])


@pytest.mark.usefixtures("_decoder")
def test_a_marker_may_be_filled_up(image: NDArray[np.uint8]) -> None:
    data = encode_jpeg(image)
    assert decode_image(data[:2] + b"\xff\xff" + data[2:]).shape == image.shape


def test_a_png_that_does_not_begin_with_its_header_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match="does not begin with its header"):
        decode_image(_png(image).replace(b"IHDR", b"tEXt"))


def test_a_png_with_a_part_that_claims_gigabytes_is_refused_at_once(image: NDArray[np.uint8]) -> None:
    png = bytearray(_png(image))
    png[33:37] = (2**31 - 1).to_bytes(4, "big")  # length of the first chunk behind the header
    started = time.process_time()
    with pytest.raises(DataError, match="truncated or damaged"):
        decode_image(bytes(png))
    assert time.process_time() - started < 0.5


def test_a_png_gives_back_every_pixel_in_rgb() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(image)), image)


def test_only_three_channels_of_eight_bits_count_as_rgb() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    others: list[NDArray[Any]] = [image[..., 0], np.zeros((4, 6, 4), np.uint8), image.astype(np.uint16)]
    assert is_rgb(encode_png(image))
    assert is_rgb(encode_jpeg(image))
    assert not any(is_rgb(cv2.imencode(".png", other)[1].tobytes()) for other in others)
    assert not is_rgb(cv2.imencode(".jpg", image[..., 0])[1].tobytes())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_the_metadata_of_a_png_is_not_unpacked(image: NDArray[np.uint8]) -> None:
    png, text = _png(image), b"a\0\0" + zlib.compress(bytes(8_000_000), 9)
    started = time.process_time()
    decoded = decode_image(png[:33] + 100 * _chunk(b"zTXt", text) + png[33:])  # 0.8 MB, of which 0.8 GB are made
    assert time.process_time() - started < 0.5
    np.testing.assert_array_equal(decoded, image)


def test_a_png_of_too_many_parts_is_refused_at_once(image: NDArray[np.uint8]) -> None:
    png = _png(image)
    started = time.process_time()
    with pytest.raises(DataError, match="damaged"):
        decode_image(png[:33] + 500_000 * _chunk(b"tEXt", b"a\0b") + png[33:])
    assert time.process_time() - started < 0.5


@pytest.mark.usefixtures("_decoder")
def test_bytes_behind_the_end_of_an_image_and_fill_bytes_are_ignored(image: NDArray[np.uint8]) -> None:
    jpeg = encode_jpeg(image)
    table = jpeg.index(b"\xff\xdb")
    filled = jpeg[:table] + b"\xff\xff" + jpeg[table:]
    assert image_size(filled) == (48, 64)
    for data in (filled, jpeg + bytes(4096), jpeg + b"text" * 40):
        np.testing.assert_array_equal(decode_image(data), decode_image(jpeg))
    np.testing.assert_array_equal(decode_image(encode_png(image) + bytes(4096)), image)


@pytest.mark.usefixtures("_decoder")
def test_a_truncated_jpeg_in_a_larger_buffer_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match=r"JPEG of \d+ bytes .*again"):
        decode_image(encode_jpeg(image)[:-80] + bytes(4096))


def _webp(image: NDArray[np.uint8], quality: int) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def test_a_webp_image_is_read_with_its_size(image: NDArray[np.uint8]) -> None:
    lossless, lossy = _webp(image, 101), _webp(image, 90)
    extended = b"VP8X" + struct.pack("<II", 10, 0) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    wrapped = b"RIFF" + struct.pack("<I", len(lossless) - 8 + len(extended)) + b"WEBP" + extended + lossless[12:]
    for data in (lossless, lossy, wrapped, lossless + bytes(100)):
        assert image_size(data) == (48, 64)
        assert not is_rgb(data)
    np.testing.assert_array_equal(decode_image(lossless), image)
    np.testing.assert_array_equal(decode_image(lossless + bytes(100)), image)
    assert np.abs(decode_image(lossy).astype(int) - image).mean() < 8
    with pytest.raises(DataError, match="WebP of"):
        decode_image(lossy[: len(lossy) // 2])
    with pytest.raises(DataError, match=r"WebP of .* header"):
        image_size(b"RIFF" + bytes(4) + b"WEBPnone" + bytes(20))


def test_a_palette_image_has_the_colors_of_its_palette() -> None:
    rows = b"".join(b"\0" + bytes([row % 2] * 4) for row in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", bytes([10, 20, 30, 200, 100, 50])), (b"IDAT", zlib.compress(rows))]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in [*chunks, (b"IEND", b"")]
    )
    decoded = decode_image(png)
    assert decoded[0].tolist() == [[10, 20, 30]] * 4
    assert decoded[1].tolist() == [[200, 100, 50]] * 4


def test_a_depth_map_is_refused_and_not_read_as_nearly_black() -> None:
    depth = cv2.imencode(".png", np.full((4, 5), 900, np.uint16))[1].tobytes()
    with pytest.raises(DataError, match=r"16 bits.* depth map"):
        decode_image(depth)
