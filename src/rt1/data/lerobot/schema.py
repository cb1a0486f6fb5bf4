"""The metadata of a LeRobot v3.0 folder: features, tasks, episodes, the files of their steps, text embeddings."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common import border
from rt1.common.files import write_bytes
from rt1.common.suggest import unknown_name
from rt1.data.rlds.schema import read_json
from rt1.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "v3.0"
INFO_FILE, STATS_FILE, TASKS_FILE = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
RECORDING_FILE, RT1_FILE = "meta/recording.json", "meta/rt1.json"
EPISODE_FILES = "meta/episodes/chunk-*/file-*.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EMBEDDING_FOLDER = "meta/rt1_embeddings"
EMBEDDINGS_PATH = f"{EMBEDDING_FOLDER}/chunk-{{chunk_index:03d}}/file-{{file_index:03d}}.safetensors"
EMBEDDING_FILES = (f"{EMBEDDING_FOLDER}/chunk-*/file-*.safetensors", f"{EMBEDDING_FOLDER}.safetensors")
"""The text embeddings of each data file. Earlier versions wrote one file for the whole set."""
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TASK_COLUMN = "rt1/task"
SENTENCE_COLUMN = "__index_level_0__"  # what pandas calls an index without a name
TIME = "from_timestamp"
IMAGE_KINDS = ("image", "video")
COPY_AGAIN = "copy it again from where the data set came from"


@dataclass(frozen=True, kw_only=True)
class Info:
    """The fields of ``meta/info.json`` that are read."""

    fps: float
    """Steps per second."""
    features: Mapping[str, Mapping[str, Any]]
    """Description of each feature by key: ``dtype``, ``shape``, ``names``."""
    data_path: str
    """Template of the paths of the data files."""
    video_path: str
    """Template of the paths of the video files, empty if there are none."""
    episodes: int
    """Number of episodes."""

    def image_key(self, name: str | None) -> str:
        """Return the key of the images to read: ``name``, or the only one."""
        images = [key for key, feature in self.features.items() if feature["dtype"] in IMAGE_KINDS]
        keys = [key for key in images if not _is_depth(self.features[key])]
        if name in images and name not in keys:
            raise DataError(f"the image key {name!r} holds depth maps; name one of the RGB images: {keys}")
        if name is not None and name not in keys:
            raise DataError(unknown_name("image key", name, keys))
        if name is None and len(keys) != 1:
            raise DataError(f"the data set has {len(keys)} image keys ({', '.join(keys)}); name one with image_key")
        return name or keys[0]

    def action_size(self, key: str) -> int:
        """Return A, the number of entries of the feature that holds the action."""
        vectors = {name: f for name, f in self.features.items() if str(f["dtype"]).startswith("float")}
        if key not in vectors:
            raise DataError(unknown_name("action key", key, vectors))
        shape = list(vectors[key]["shape"])
        if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
            raise DataError(f"the feature {key!r} has shape {shape}; the action must be a vector [A]")
        return shape[0]


def _is_depth(feature: Mapping[str, Any]) -> bool:
    notes = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return any(notes.get(name) for name in ("is_depth_map", "video.is_depth_map"))


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The episodes of a data set in order. Every array has one entry per episode."""

    lengths: NDArray[np.int64]
    first: NDArray[np.int64]
    """Number of the first step in the whole data set."""
    data_files: tuple[Path, ...]
    """File of the steps, with the images in image mode."""
    video_files: tuple[Path, ...]
    """File of the images in video mode, else empty."""
    video_starts: NDArray[np.float64]
    """Time of the first image in the video file, seconds. Empty in image mode."""
    tasks: tuple[str, ...]
    """Task names written by this package, else empty strings."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of pyarrow about a missing or damaged Parquet file into :class:`DataError` with the file."""
    import pyarrow as pa

    if not path.is_file():
        raise DataError(f"{path} is missing; {COPY_AGAIN}")
    with border.reading(path, cure=COPY_AGAIN, also=(pa.ArrowException,)):
        yield


def read_schema(path: Path) -> pa.Schema:
    """Return the pyarrow schema of a Parquet file."""
    import pyarrow.parquet as pq

    with reading(path):
        return pq.read_schema(path)


def read_columns(path: Path, integers: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Return columns of a Parquet file: integers as int64 arrays, the others as pyarrow arrays.

    Missing columns or values, or integers of another type, raise :class:`DataError`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*integers, *others]
    with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        present = set(file.schema_arrow.names)
        if missing := [name for name in names if name not in present]:
            raise DataError(f"{path} has no column {missing[0]!r}; {COPY_AGAIN}")
        table = file.read(columns=names)
    for name in names:
        if table[name].null_count:
            raise DataError(f"{path}: the column {name!r} has {table[name].null_count} empty places; {COPY_AGAIN}")
    for name in integers:
        if not pa.types.is_integer(kind := table[name].type):
            raise DataError(f"{path}: the column {name!r} is {kind}; it must hold whole numbers; {COPY_AGAIN}")
    with reading(path):
        return {
            **{name: table[name].to_numpy().astype(np.int64) for name in integers},
            **{name: table[name] for name in others},
        }


def read_info(folder: Path) -> Info:
    """Return ``meta/info.json``. An unfinished recording, or another version, raises :class:`DataError`."""
    path = folder / INFO_FILE
    if not path.is_file():
        if (folder / RECORDING_FILE).is_file():
            done = len(list(folder.glob(EPISODE_FILES)))
            raise DataError(f"{folder}: not finished, {done} files are written; run the same command again to resume")
        raise DataError(f"{folder} has no {INFO_FILE}; point to the folder of a LeRobot data set")
    data = read_json(path)
    if (version := data.get("codebase_version")) != VERSION:
        cure = "convert it with lerobot's convert_dataset_v21_to_v30" if str(version) < VERSION else "update rt1"
        raise DataError(f"{path} has codebase_version {version!r}; this version reads {VERSION!r}; {cure}")
    with border.reading(path, cure=COPY_AGAIN):
        info = Info(
            fps=float(data["fps"]),
            features={key: {**feature, "dtype": feature["dtype"]} for key, feature in data["features"].items()},
            data_path=str(data["data_path"]),
            video_path=str(data.get("video_path") or ""),
            episodes=int(data["total_episodes"]),
        )
    if not 0.0 < info.fps < math.inf or info.episodes < 1:
        raise DataError(f"{path}: fps is {info.fps}, total_episodes {info.episodes}; both must be above 0")
    return info


def read_tasks(folder: Path) -> dict[int, str]:
    """Return the instructions by ``task_index``. An empty one raises :class:`DataError`."""
    path = folder / TASKS_FILE
    # A data frame with a named index has a column of that name instead.
    sentence = SENTENCE_COLUMN if SENTENCE_COLUMN in read_schema(path).names else "task"
    columns = read_columns(path, ["task_index"], [sentence])
    with reading(path):
        tasks = dict(zip(columns["task_index"].tolist(), columns[sentence].to_pylist(), strict=True))
    for index, text in tasks.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{path}: the instruction of task_index {index} is empty ({text!r}); give it a sentence")
    return tasks


def read_episodes(folder: Path, info: Info, video_key: str | None) -> Episodes:
    """Return all episodes. ``video_key`` is the key of the images in video mode, else None.

    A missing or damaged file, or numbers or lengths that are inconsistent, raise :class:`DataError`.
    """
    data = ["data/chunk_index", "data/file_index"]
    video = [f"videos/{video_key}/{name}" for name in ("chunk_index", "file_index", TIME)] if video_key else []
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index", *data, *video]
    files = sorted(folder.glob(EPISODE_FILES))
    if not files:
        raise DataError(f"{folder} has no {EPISODE_FILES}; {COPY_AGAIN}")
    tables = [_episode_columns(path, names) for path in files]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    order = np.argsort(columns["episode_index"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    _check_numbers(folder, info, columns)
    return Episodes(
        lengths=columns["length"],
        first=columns["dataset_from_index"],
        data_files=_paths(folder, info.data_path, [columns[name] for name in data]),
        video_files=_paths(folder, info.video_path, [columns[name] for name in video[:2]], video_key=video_key),
        video_starts=columns[video[2]] if video else np.empty(0),
        tasks=tuple(columns[TASK_COLUMN].tolist()),
    )


def _episode_columns(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    times = [name for name in names if name.endswith(TIME)]
    noted = [TASK_COLUMN] if TASK_COLUMN in read_schema(path).names else []
    columns = read_columns(path, [name for name in names if name not in times], [*times, *noted])
    with reading(path):
        tasks = columns[TASK_COLUMN].to_pylist() if noted else [""] * len(columns["length"])
        seconds = {name: _seconds(path, name, columns[name]) for name in times}
        return {**columns, **seconds, TASK_COLUMN: np.array([str(task) for task in tasks], dtype=object)}


def _seconds(path: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    seconds = column.to_numpy().astype(np.float64)
    if seconds.ndim != 1 or not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise DataError(f"{path}: the column {name!r} is {column.type}; it must hold times in seconds; {COPY_AGAIN}")
    return seconds


def _check_numbers(folder: Path, info: Info, columns: Mapping[str, NDArray[Any]]) -> None:
    numbers, lengths = columns["episode_index"], columns["length"]
    if len(numbers) != info.episodes or not np.array_equal(numbers, np.arange(len(numbers))):
        span = f"{len(numbers)} episodes, numbered {numbers.min()}..{numbers.max()}" if len(numbers) else "none"
        rule = f"{INFO_FILE} promises the episodes 0..{info.episodes - 1}"
        raise DataError(f"{folder}: {rule}, found {span}; {COPY_AGAIN}")
    wrong = (lengths < 1) | (columns["dataset_to_index"] - columns["dataset_from_index"] != lengths)
    if wrong.any():
        episode = int(np.argmax(wrong))
        span = f"{columns['dataset_from_index'][episode]}..{columns['dataset_to_index'][episode]}"
        raise DataError(
            f"{folder}: episode {episode} has length {lengths[episode]} and the steps {span}; it needs at least one "
            f"step, and the two must agree; {COPY_AGAIN}"
        )


def _paths(
    folder: Path, template: str, columns: Sequence[NDArray[np.int64]], *, video_key: str | None = None
) -> tuple[Path, ...]:
    """Return the file of each episode from the columns of chunk and file numbers, and check that it exists."""
    pairs = list(zip(*(column.tolist() for column in columns), strict=True))
    paths: dict[tuple[int, ...], Path] = {}
    for chunk, file in dict.fromkeys(pairs):
        with border.reading(f"{folder / INFO_FILE}: the path template {template!r}", cure=COPY_AGAIN):
            path = folder / _path(template, video_key=video_key, chunk_index=chunk, file_index=file)
        if not path.is_file():
            raise DataError(f"{path} is missing; {COPY_AGAIN}")
        paths[chunk, file] = path
    return tuple(paths[pair] for pair in pairs)


def _path(template: str, **values: object) -> str:
    """Return the path of a template within the folder. An unsafe one raises ``ValueError``."""
    for _, field, form, _ in string.Formatter().parse(template):
        if field is not None and (field not in values or len(form or "") > len("03d")):
            raise ValueError(f"{{{field}:{form}}} is not a field of LeRobot")
    name = template.format(**values)
    if not name.isprintable() or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise ValueError(f"{name!r} is not a path in the folder")
    return name


def write_embeddings(path: Path, embeddings: Iterable[FloatArray]) -> None:
    """Write the text embeddings of one or more episodes, each float32 (E,), equal ones once.

    The file is our own, since the format has no field for text embeddings.
    """
    from safetensors.numpy import save

    numbers: dict[bytes, int] = {}
    rows = [numbers.setdefault(embedding.tobytes(), len(numbers)) for embedding in embeddings]
    vectors = np.frombuffer(b"".join(numbers), dtype=np.float32).reshape(len(numbers), -1)
    write_bytes(path, save({"vectors": vectors, "rows": np.array(rows, dtype=np.int64)}))


def read_embeddings(folder: Path, *, episodes: int) -> list[FloatArray] | None:
    """Return the text embedding of each episode, or None where there are no files of them.

    Damage or another number of episodes raises :class:`DataError`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    paths = [path for pattern in EMBEDDING_FILES for path in sorted(folder.glob(pattern))]
    embeddings: list[FloatArray] = []
    for path in paths:
        with border.reading(path, cure=COPY_AGAIN, also=(SafetensorError,)):
            tensors = load(path.read_bytes())
            vectors, rows = tensors["vectors"], tensors["rows"]
        types = vectors.ndim == 2 and rows.ndim == 1 and vectors.dtype == np.float32 and rows.dtype == np.int64
        sound = types and np.isfinite(vectors).all() and rows.min(initial=0) >= 0
        if not sound or rows.max(initial=0) >= len(vectors):
            shapes = f"vectors {vectors.dtype} {vectors.shape}, rows {rows.dtype} {rows.shape}"
            raise DataError(f"{path} holds {shapes}, must hold a finite vector for each row; {COPY_AGAIN}")
        embeddings += [vectors[row] for row in rows]
    if paths and len(embeddings) != episodes:
        counts = f"{len(embeddings)} text embeddings for {episodes} episodes"
        raise DataError(f"{folder / EMBEDDING_FOLDER} holds {counts}, must be one each; {COPY_AGAIN}")
    return embeddings if paths else None
