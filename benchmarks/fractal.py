"""Writes a made-up data set of exactly the structure of fractal20220817_data: keys, shapes, image size and bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt1.data.rlds.tfrecord import FRAME_BYTES, FeatureValue, encode_example, frame
from rt1.data.sources.images import encode_jpeg

NAME = "fractal20220817_data"

_ACTION = {
    "base_displacement_vector": (2,),
    "base_displacement_vertical_rotation": (1,),
    "gripper_closedness_action": (1,),
    "rotation_delta": (3,),
    "world_vector": (3,),
}
_OBSERVATION = {
    "base_pose_tool_reached": (7,),
    "gripper_closed": (1,),
    "gripper_closedness_commanded": (1,),
    "height_to_bottom": (1,),
    "natural_language_embedding": (512,),
    "orientation_box": (2, 3),
    "orientation_start": (4,),
    "robot_orientation_positions_box": (3, 3),
    "rotation_delta_to_go": (3,),
    "src_rotation": (4,),
    "vector_to_go": (3,),
    "workspace_bounds": (3, 3),
}
_FLAGS = ("is_first", "is_last", "is_terminal")
_ASPECTS = ("already_success", "feasible", "has_aspects", "success", "undesirable")
_OBJECTS = ("apple", "blue chip bag", "coke can", "green can", "orange", "pepsi can", "sponge", "water bottle")
_VERBS = ("pick", "knock over", "move near the bowl:", "place upright", "put into the top drawer:")


@dataclass(frozen=True, kw_only=True)
class FractalSize:
    """How much is made up."""

    episodes: int = 200
    """Episodes of 20 to 60 steps."""
    episodes_per_shard: int = 85
    """As in the real set: 87,212 episodes in 1,024 files."""
    distinct_images: int = 240
    """Images that are drawn and encoded; every step takes one of them, since encoding is what takes long."""
    height: int = 256
    """Rows of an image."""
    width: int = 320
    """Columns of an image."""
    seed: int = 0
    """Seed of everything."""


def write_fractal(folder: Path, size: FractalSize) -> Path:
    """Write the data set, or leave one of the same size as it is, and return its folder."""
    described = json.dumps(asdict(size))
    done = folder / "generated.json"
    if done.is_file() and done.read_text(encoding="utf-8") == described:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(size.seed)
    images = [encode_jpeg(_image(rng, size.height, size.width)) for _ in range(size.distinct_images)]
    sentences = [f"{verb} {thing}" for verb in _VERBS for thing in _OBJECTS]
    vectors = rng.normal(0, 1 / np.sqrt(512), (len(sentences), 512)).astype(np.float32)
    starts = range(0, size.episodes, size.episodes_per_shard)
    lengths, payload = [], 0
    for shard, start in enumerate(starts):
        count = min(size.episodes_per_shard, size.episodes - start)
        with (folder / f"{NAME}-train.tfrecord-{shard:05d}-of-{len(starts):05d}").open("wb") as file:
            for _ in range(count):
                which = int(rng.integers(len(sentences)))
                record = frame(encode_example(_episode(rng, images, sentences[which], vectors[which])))
                payload += len(record) - FRAME_BYTES
                file.write(record)
            _read_from_disk(file)
        lengths.append(count)
    (folder / "features.json").write_text(json.dumps(_features(size)), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps(_info(lengths, payload)), encoding="utf-8")
    done.write_text(described, encoding="utf-8")
    return folder


def _read_from_disk(file: BufferedWriter) -> None:
    """Put the page cache in the state of a file that was read from disk: a written one lies there in smaller pieces."""
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with Path(file.name).open("rb") as reader:
        while reader.read(1 << 20):
            pass


def _image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return an image of smooth areas, edges and a grain; 256x320 makes about 30 kB of JPEG at quality 95."""
    areas = cv2.resize(rng.uniform(30, 225, (6, 8, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        corner, extent = rng.integers(0, (width, height)), rng.integers(10, 90, 2)
        colour = [float(value) for value in rng.integers(0, 256, 3)]
        cv2.rectangle(areas, corner.tolist(), (corner + extent).tolist(), colour, -1)
    return np.clip(areas + rng.normal(0, 4.2, areas.shape), 0, 255).astype(np.uint8)


def _episode(
    rng: np.random.Generator, images: list[bytes], sentence: str, vector: NDArray[np.float32]
) -> dict[str, FeatureValue]:
    steps = round(rng.triangular(20, 55, 60))  # 45 on average
    last = np.zeros(steps, np.int64)
    last[-1] = 1
    terminate = np.tile(np.array([0, 1, 0], np.int64), (steps, 1))
    terminate[-1] = [1, 0, 0]
    record: dict[str, FeatureValue] = {
        "steps/observation/image": [images[k] for k in rng.integers(0, len(images), steps)],
        "steps/observation/natural_language_instruction": [sentence.encode()] * steps,
        "steps/action/terminate_episode": terminate.reshape(-1),
        "steps/is_first": last[::-1].copy(),
        "steps/is_last": last,
        "steps/is_terminal": last,
        "steps/reward": last.astype(np.float32),
        **{f"aspects/{name}": np.array([name == "feasible"], np.int64) for name in _ASPECTS},
        "attributes/collection_mode": np.array([0], np.int64),
    }
    for group, shapes in (("action", _ACTION), ("observation", _OBSERVATION)):
        for name, shape in shapes.items():
            record[f"steps/{group}/{name}"] = rng.uniform(-1, 1, steps * int(np.prod(shape))).astype(np.float32)
    record["steps/observation/natural_language_embedding"] = np.tile(vector, steps)
    return record


def _features(size: FractalSize) -> dict[str, Any]:
    image = {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {"shape": _dimensions(size.height, size.width, 3), "dtype": "uint8", "encodingFormat": "jpeg"},
    }
    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    steps = {
        "observation": _dictionary(
            {
                **{name: _tensor("float32", *shape) for name, shape in _OBSERVATION.items()},
                "image": image,
                "natural_language_instruction": text,
            }
        ),
        "action": _dictionary(
            {
                **{name: _tensor("float32", *shape) for name, shape in _ACTION.items()},
                "terminate_episode": _tensor("int32", 3),
            }
        ),
        **{name: _tensor("bool") for name in _FLAGS},
        "reward": _tensor("float32"),
    }
    sequence = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": _dictionary(steps), "length": "-1"},
    }
    return _dictionary(
        {
            "steps": sequence,
            "aspects": _dictionary({name: _tensor("bool") for name in _ASPECTS}),
            "attributes": _dictionary({"collection_mode": _tensor("int64")}),
        }
    )


def _info(lengths: list[int], payload: int) -> dict[str, Any]:
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "train",
        "numBytes": str(payload),
        "shardLengths": [str(length) for length in lengths],
    }
    return {"fileFormat": "tfrecord", "name": NAME, "splits": [split], "version": "0.1.0"}


def _dictionary(features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }


def _tensor(dtype: str, *sizes: int) -> dict[str, Any]:
    kind = "tensor_feature.Tensor" if sizes else "scalar.Scalar"
    return {
        "pythonClassName": f"tensorflow_datasets.core.features.{kind}",
        "tensor": {"shape": _dimensions(*sizes), "dtype": dtype, "encoding": "none"},
    }


def _dimensions(*sizes: int) -> dict[str, Any]:
    return {"dimensions": [str(size) for size in sizes]} if sizes else {}
