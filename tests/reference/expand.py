"""Write the folder of recorded numbers from the small files beside this module.

``README.md`` says what the files hold. Inputs and random weights are drawn again from their seeds.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
Array = NDArray[Any]
ROWS, COLUMNS = np.mgrid[0:256, 0:320]


def _camera(rng: np.random.RandomState, steps: int, green: int) -> NDArray[np.uint8]:
    """Return a moving pattern with a moving rectangle, uint8 (T, 256, 320, 3)."""
    phase, rate = rng.rand(3, 4), rng.randn(3, 4)
    images = np.empty((steps, 256, 320, 3), np.uint8)
    for step in range(steps):
        wave = [
            127
            + 60 * np.sin(f[0] * COLUMNS / 40 + f[1] * ROWS / 40 + 6 * p[0] + 0.5 * step)
            + 50 * np.cos(f[2] * COLUMNS * ROWS / 12800 + 6 * p[1] + 0.3 * step)
            for p, f in zip(phase, rate, strict=True)
        ]
        image = np.stack(wave, axis=-1)
        image[40 + 5 * step : 90 + 5 * step, 60 + 10 * step : 120 + 10 * step] = (230, green, 30)
        images[step] = np.clip(image + 12 * rng.randn(256, 320, 3), 0, 255).astype(np.uint8)
    return images


def _camera_images(rng: np.random.RandomState, greens: list[int]) -> NDArray[np.uint8]:
    """Return two windows of 3 images or, with a third color, the ten images behind them."""
    windows = np.stack([_camera(rng, 3, green) for green in greens[:2]])
    if len(greens) == 2:
        return windows
    rng.randn(2, 3, 512)  # the windows' text embeddings
    return _camera(rng, 10, greens[2])


def _drawn(entry: dict[str, Any]) -> Array:
    kind, *numbers = entry["draw"]
    shape, size = entry["shape"], int(np.prod(entry["shape"]))
    seed, *numbers = numbers
    rng = np.random.RandomState(seed)
    if kind == "camera":
        return _camera_images(rng, numbers)
    if kind == "preprocess":
        blue = 126 + 63 * np.sin(ROWS / 9) + 63 * np.cos(COLUMNS / 13)
        pattern = np.stack([ROWS, COLUMNS * 255 // 319, blue], axis=-1)
        return np.stack([rng.randint(0, 256, shape)[0], pattern]).astype(np.uint8)
    skipped, *affine = numbers
    if kind == "bytes":
        stride = affine[0]
        return rng.randint(0, 256, skipped + stride * size)[skipped::stride].astype(np.uint8).reshape(shape)
    if kind == "normal_after_one":
        rng.random_sample(1)
    draw = rng.random_sample if kind == "uniform" else rng.randn
    scale, shift = affine
    return (scale * draw(skipped + size)[skipped:] + shift).astype(np.float32).reshape(shape)


def _arrays(file: Path) -> dict[str, dict[str | None, Array]]:
    """Return the arrays of a small file by the file and the name that they had."""
    with np.load(file) as small:
        stored = {name: np.ascontiguousarray(small[name].T).reshape(-1) for name in small.files if name != "index"}
        index = json.loads(small["index"].tobytes())
    numbers = {name: value.view(name) for name, value in stored.items()}
    position: dict[str, int] = defaultdict(int)
    files: dict[str, dict[str | None, Array]] = defaultdict(dict)
    for entry in index:
        dtype, shape = entry["dtype"], entry["shape"]
        if "draw" in entry:
            array = _drawn(entry)
        elif "values" in entry:
            array = np.array(entry["values"])
        else:
            kind = entry.get("stored", dtype)
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize // np.dtype(kind).itemsize
            array = numbers[kind][position[kind] : position[kind] + size].view(dtype).reshape(shape)
            position[kind] += size
        files[entry["file"]][entry["name"]] = array
        if "step" in entry:
            files[entry["file"]][f"{entry['name']}.step"] = np.array(entry["step"])
    return files


def expand(folder: Path) -> None:
    """Write the recorded numbers to a folder, in the files and under the names that the full recording has."""
    for small in sorted(HERE.glob("*.npz")):
        for name, arrays in _arrays(small).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if None in arrays:
                path.write_bytes(arrays[None].tobytes())
            else:
                named: dict[str, Any] = {str(key): value for key, value in arrays.items()}
                np.savez(path, **named)
    shutil.copy(HERE / "make_checkpoints.py", folder)


def compared(ours: Array, recorded: dict[str, Array], name: str) -> tuple[Array, Array]:
    """Return our numbers and the recorded ones of an array, both flat: every n-th one of a large array."""
    step = int(recorded[f"{name}.step"]) if f"{name}.step" in recorded else 1
    return np.asarray(ours).reshape(-1)[::step], recorded[name].reshape(-1)
