"""The content of a LeRobot v3.0 folder: tables of steps and episodes, tasks, statistics and descriptions."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.files import replacing, write_text
from rt1.common.json_config import check_at_least
from rt1.data.lerobot import schema
from rt1.data.lerobot.video import PIXEL_FORMAT, Codec
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.images import decode_image

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ACTION_KEY = "action"
CHUNK_FILES = 1000
"""Files per folder, as in LeRobot."""
SAMPLED_IMAGES = 8
"""Images of an episode that its statistics are taken from."""
_NUMBERS = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
"""Type of each column of a step's numbers."""

Stats = dict[str, NDArray[Any]]
"""``min``, ``max``, ``mean``, ``std``, ``q01`` .. ``q99`` of each entry, float64, and ``count`` (1,), int64."""

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)


@dataclass(frozen=True, kw_only=True)
class LeRobotSettings:
    """Settings of a LeRobot data set, fixed before its first episode."""

    recording: RecordingSettings
    """Name, image size, action spec, number of episodes. A file ends after ``episodes_per_shard`` at the latest."""
    fps: int
    """Steps per second. LeRobot knows whole numbers only."""
    image_key: str = "observation.images.image"
    """Key of the images."""
    robot_type: str = "unknown"
    """Name of the robot."""
    file_megabytes: int = 100
    """A file ends with the episode that reaches this size, the most that an interruption loses."""
    video: Codec | None = None
    """Re-encode the images as video, which loses detail. None keeps their JPEG or PNG bytes unchanged."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "fps", "file_megabytes")
        if not self.image_key or "/" in self.image_key:
            raise ValueError(f"image_key is {self.image_key!r}. LeRobot wants a name without a slash")
        height, width = self.recording.image_size
        if self.video is not None and (height % 2 or width % 2):
            raise ValueError(f"the images are {height} x {width}. A video needs even sizes. Write them as images")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``."""
        names = ("fps", "image_key", "robot_type", "file_megabytes", "video")
        return {**self.recording.to_json(), **{name: getattr(self, name) for name in names}}


def place_of(template: str, file: int, **names: str) -> str:
    """Return the path of a file by its number in the whole data set, e.g. ``data/chunk-000/file-007.parquet``."""
    return template.format(chunk_index=file // CHUNK_FILES, file_index=file % CHUNK_FILES, **names)


def features_of(settings: LeRobotSettings) -> dict[str, Any]:
    """Return the ``features`` of ``info.json``."""
    height, width = settings.recording.image_size
    image: dict[str, Any] = {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    if settings.video is not None:
        video = {"height": height, "width": width, "codec": settings.video, "pix_fmt": PIXEL_FORMAT}
        video |= {"is_depth_map": False, "fps": settings.fps, "channels": 3}
        info = {f"video.{name}": value for name, value in video.items()}
        image |= {"dtype": "video", "info": {**info, "has_audio": False}}
    spec, outcomes = settings.recording.action_spec, _outcome_types(settings.recording)
    return {
        settings.image_key: image,
        ACTION_KEY: {"dtype": "float32", "shape": [spec.size], "names": list(spec.dimension_names)},
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in (_NUMBERS | outcomes).items()},
    }


def _outcome_types(recording: RecordingSettings) -> dict[str, str]:
    """Return the type of each column of the outcome of an episode, named as LeRobot's environments do."""
    types = {"reward": {schema.REWARD_KEY: "float32"}, "success": {schema.SUCCESS_KEY: "bool"}}
    return {
        name: dtype for key, columns in types.items() if key in recording.outcomes for name, dtype in columns.items()
    }


def open_steps(path: Path, settings: LeRobotSettings) -> pq.ParquetWriter:
    """Return an open data file. Images are compressed already, so they are stored as they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = settings.recording.action_spec.size
    numbers = {
        ACTION_KEY: pa.list_(pa.float32(), size) if size > 1 else pa.float32(),  # LeRobot: one entry is no list
        **{name: pa.type_for_alias(dtype) for name, dtype in (_NUMBERS | _outcome_types(settings.recording)).items()},
    }
    image = {settings.image_key: pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    compression = dict.fromkeys(numbers, "snappy")
    compression |= dict.fromkeys((f"{settings.image_key}.bytes", f"{settings.image_key}.path"), "none")
    return pq.ParquetWriter(
        path,
        pa.schema(numbers if settings.video else {**image, **numbers}),
        compression=compression,
        use_dictionary=list(numbers),
        write_page_checksum=True,
    )


def step_columns(
    episode: RecordedEpisode, settings: LeRobotSettings, *, number: int, step: int, task: int
) -> dict[str, NDArray[Any]]:
    """Return the numbers of an episode's steps. ``step`` is the number of its first one in the data set."""
    fps, outcomes = settings.fps, _outcome_types(settings.recording)
    steps = len(episode.images)
    within = np.arange(steps, dtype=np.int64)
    last = within == steps - 1
    ends = {schema.REWARD_KEY: episode.all_rewards(), schema.SUCCESS_KEY: last & bool(episode.success)}
    return {
        ACTION_KEY: episode.actions,
        "timestamp": (within / fps).astype(np.float32),
        "frame_index": within,
        "episode_index": np.full(steps, number, dtype=np.int64),
        "index": step + within,
        "task_index": np.full(steps, task, dtype=np.int64),
        **{name: ends[name] for name in outcomes},
    }


def step_table(images: Sequence[bytes], columns: Mapping[str, NDArray[Any]], schema: pa.Schema) -> pa.Table:
    """Return the rows of an episode as a pyarrow table of the schema of :func:`open_steps`."""
    import pyarrow as pa

    actions = columns[ACTION_KEY]
    stored = [{"bytes": image} for image in images]
    arrays = {**columns, ACTION_KEY: list(actions) if actions.shape[1] > 1 else actions[:, 0]}
    return pa.table([pa.array(arrays.get(name, stored), schema.field(name).type) for name in schema.names], schema)


def episode_row(
    episode: RecordedEpisode, columns: Mapping[str, NDArray[Any]], settings: LeRobotSettings, *, file: int, base: int
) -> dict[str, Any]:
    """Return the row of an episode in its episodes file. ``base`` is the number of the data file's first step."""
    first, steps = int(columns["index"][0]), len(episode.images)
    chunk, within = divmod(file, CHUNK_FILES)
    row: dict[str, Any] = {
        "episode_index": int(columns["episode_index"][0]),
        "tasks": [episode.instruction],
        "length": steps,
        "data/chunk_index": chunk,
        "data/file_index": within,
        "dataset_from_index": first,
        "dataset_to_index": first + steps,
        "meta/episodes/chunk_index": chunk,
        "meta/episodes/file_index": within,
        schema.TASK_COLUMN: episode.task,
    }
    if "seed" in settings.recording.outcomes:
        row[schema.SEED_COLUMN] = episode.seed
    if settings.video is not None:
        times = {"from_timestamp": (first - base) / settings.fps, "to_timestamp": (first - base + steps) / settings.fps}
        video = {"chunk_index": chunk, "file_index": within, **times}
        row |= {f"videos/{settings.image_key}/{name}": value for name, value in video.items()}
    samples = np.unique(np.linspace(0, steps - 1, SAMPLED_IMAGES).round().astype(int))
    stats = {settings.image_key: image_stats([decode_image(episode.images[step]) for step in samples])}
    stats |= {name: vector_stats(values.reshape(steps, -1)) for name, values in columns.items()}
    for feature, values in stats.items():
        row |= {f"stats/{feature}/{name}": values[name].tolist() for name in STATISTICS}
    return row


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file with checksums."""
    import pyarrow.parquet as pq

    with replacing(path) as partial:
        pq.write_table(table, partial, write_page_checksum=True)


def write_metadata(folder: Path, settings: LeRobotSettings, tasks: Sequence[str], *, files: int, steps: int) -> None:
    """Write everything that describes the whole data set, ``info.json`` last: with it the folder can be read."""
    features = features_of(settings)
    stats = total_stats([folder / place_of(schema.EPISODES_PATH, file) for file in range(files)], list(features))
    plain = {feature: {name: array.tolist() for name, array in values.items()} for feature, values in stats.items()}
    write_json(folder / schema.STATS_FILE, plain)
    write_table(folder / schema.TASKS_FILE, _tasks_table(tasks))
    described = {key: settings.recording.to_json()[key] for key in ("name", "action_spec", "text_encoder", "details")}
    write_json(folder / schema.RT1_FILE, {"format": 1, "image_key": settings.image_key, **described})
    episodes = settings.recording.episodes
    info = {
        "codebase_version": schema.VERSION,
        "robot_type": settings.robot_type,
        "total_episodes": episodes,
        "total_frames": steps,
        "total_tasks": len(tasks),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": settings.file_megabytes,
        "video_files_size_in_mb": settings.file_megabytes,
        "fps": settings.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": schema.DATA_PATH,
        "video_path": None if settings.video is None else schema.VIDEO_PATH,
        "features": features,
    }
    write_json(folder / schema.INFO_FILE, info)


def total_stats(paths: Sequence[Path], features: Sequence[str]) -> dict[str, Stats]:
    """Return the statistics of each feature over the episodes of some episodes files."""
    totals: dict[str, Stats] = {}
    for path in paths:
        names = [f"stats/{feature}/{name}" for feature in features for name in STATISTICS]
        columns = {name: column.to_pylist() for name, column in schema.read_columns(path, [], names).items()}
        for feature in features:
            rows = zip(*(columns[f"stats/{feature}/{name}"] for name in STATISTICS), strict=True)
            stats = [dict(zip(STATISTICS, map(np.array, row), strict=True)) for row in rows]
            totals[feature] = functools.reduce(merged, stats, *([totals[feature]] if feature in totals else []))
    return totals


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Return the instructions as pandas stores a data frame that has them as its index. LeRobot uses pandas."""
    import pyarrow as pa

    def described(name: str, field: str | None, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {"name": field, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}

    pandas = {
        "index_columns": [schema.SENTENCE_COLUMN],
        "column_indexes": [],
        "columns": [
            described("task_index", "task_index", "int64", "int64"),
            described(schema.SENTENCE_COLUMN, None, "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    columns = {
        "task_index": pa.array(range(len(tasks)), pa.int64()),
        schema.SENTENCE_COLUMN: pa.array(tasks, pa.string()),
    }
    return pa.table(columns).replace_schema_metadata({"pandas": json.dumps(pandas)})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file for people, too."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def vector_stats(values: NDArray[Any]) -> Stats:
    """Return the statistics of (steps, n) numbers, each (n,)."""
    wide = values.astype(np.float64)
    quantiles = np.quantile(wide, list(QUANTILES.values()), axis=0)
    return {
        "min": wide.min(axis=0),
        "max": wide.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(wide)], dtype=np.int64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def image_stats(images: Sequence[NDArray[np.uint8]]) -> Stats:
    """Return the statistics of uint8 RGB (H, W, 3) images of one size, each (3, 1, 1), scaled to 0..1.

    Taken from a grid of about 64 x 64 of their places, by counting how often each of the 256 values occurs.
    """
    stride = max(1, min(images[0].shape[:2]) // 64)
    pixels = np.stack([image[::stride, ::stride] for image in images]).reshape(-1, 3)
    channels = [_counted(np.bincount(pixels[:, channel], minlength=256)) for channel in range(3)]
    stats = {name: np.array([c[name] for c in channels]).reshape(3, 1, 1) for name in channels[0]}
    return {**stats, "count": np.array([len(images)], dtype=np.int64)}


def _counted(counts: NDArray[np.int64]) -> dict[str, float]:
    levels = np.arange(256) / 255.0
    total, present = counts.sum(), np.flatnonzero(counts)
    mean = float(counts @ levels / total)
    reached = np.cumsum(counts) / total
    return {
        "min": float(levels[present[0]]),
        "max": float(levels[present[-1]]),
        "mean": mean,
        "std": float(np.sqrt(counts @ (levels - mean) ** 2 / total)),
        **{name: float(levels[np.searchsorted(reached, q)]) for name, q in QUANTILES.items()},
    }


def merged(one: Stats, other: Stats) -> Stats:
    """Return the statistics of both together. Quantiles, which cannot be merged, are averaged as LeRobot does."""
    count = one["count"] + other["count"]
    share = float(other["count"][0] / count[0])
    apart = other["mean"] - one["mean"]
    variance = (1 - share) * one["std"] ** 2 + share * other["std"] ** 2 + share * (1 - share) * apart**2
    return {
        "min": np.minimum(one["min"], other["min"]),
        "max": np.maximum(one["max"], other["max"]),
        "mean": one["mean"] + share * apart,
        "std": np.sqrt(variance),
        "count": count,
        **{name: (1 - share) * one[name] + share * other[name] for name in QUANTILES},
    }
