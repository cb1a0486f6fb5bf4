"""Write the two small networks as files in TensorFlow's and flax' own formats, filled with random weights from a seed.

``python make_checkpoints.py OUT`` reads ``*/checkpoint`` in its own folder. ``draws.json`` lists the weights in the
order in which they are drawn, ``rest.npz`` holds what was not drawn.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

Put = Callable[[str, NDArray[Any]], None]


def _fill(folder: Path, recipe: dict[str, Any], put: Put) -> None:
    rng = np.random.RandomState(recipe["seed"])
    for kind, shape, expression, key in recipe["draws"]:
        drawn = rng.bytes(shape[0]) if kind == "bytes" else _drawn(rng, kind, shape)
        if key is not None:
            # The expressions are ours, as this file is.
            value = eval(expression, {"np": np, "w": drawn})
            put(key, np.asarray(value, np.float32))
    with np.load(folder / "rest.npz") as rest:
        for name in rest.files:
            put(name.replace("|", "/"), rest[name])


def _drawn(rng: np.random.RandomState, kind: str, shape: list[int]) -> NDArray[np.float64]:
    if kind == "uniform":
        return rng.uniform(0.6, 1.4, shape)
    return rng.randn(*shape) if kind == "randn" else rng.rand(*shape)


def tensorflow_checkpoint(folder: Path, out: Path) -> None:
    recipe = json.loads((folder / "draws.json").read_text(encoding="utf-8"))
    data = np.zeros(recipe["size"], np.uint8)

    def put(key: str, value: NDArray[Any]) -> None:
        raw, start = value.reshape(-1).view(np.uint8), recipe["offsets"][key]
        data[start : start + raw.size] = raw

    _fill(folder, recipe, put)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "ckpt-1.index", out)
    data.tofile(out / "ckpt-1.data-00000-of-00001")


def flax_checkpoint(folder: Path, out: Path) -> None:
    tree: dict[str, Any] = {"step": np.array(0)}

    def put(path: str, value: NDArray[Any]) -> None:
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value

    def pack(array: NDArray[Any]) -> msgpack.ExtType:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    _fill(folder, json.loads((folder / "draws.json").read_text(encoding="utf-8")), put)
    out.mkdir(parents=True, exist_ok=True)
    (out / "checkpoint").write_bytes(msgpack.packb(tree, default=pack, strict_types=True))


if __name__ == "__main__":
    for source in sorted(Path(__file__).parent.glob("*/checkpoint")):
        write = tensorflow_checkpoint if (source / "ckpt-1.index").exists() else flax_checkpoint
        write(source, Path(sys.argv[1]) / source.parent.name)
