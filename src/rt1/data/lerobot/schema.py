"""The metadata of a LeRobot folder: features, tasks, episodes, the files of their steps, text embeddings."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common import border
from rt1.common.files import write_bytes
from rt1.common.json_files import check_size
from rt1.common.suggest import unknown_name
from rt1.data.rlds.schema import read_json
from rt1.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "v3.0"
V2_VERSIONS = ("v2.0", "v2.1")
INFO_FILE, STATS_FILE, TASKS_FILE = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
RECORDING_FILE, RT1_FILE = "meta/recording.json", "meta/rt1.json"
EPISODE_FILES = "meta/episodes/chunk-*/file-*.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNK_FILES = 1000
"""Files per folder."""
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EMBEDDING_FOLDER = "meta/rt1_embeddings"
EMBEDDINGS_PATH = f"{EMBEDDING_FOLDER}/chunk-{{chunk_index:03d}}/file-{{file_index:03d}}.safetensors"
EMBEDDING_FILES = (f"{EMBEDDING_FOLDER}.safetensors", f"{EMBEDDING_FOLDER}/chunk-*/file-*.safetensors")
"""The text embeddings of each data file, after the one file for all episodes that earlier versions wrote."""
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TASK_COLUMN, SEED_COLUMN = "rt1/task", "rt1/seed"
REWARD_KEY, SUCCESS_KEY = "next.reward", "next.success"
SENTENCE_COLUMN = "__index_level_0__"  # what pandas calls an index without a name
FROM, TO = "from_timestamp", "to_timestamp"
IMAGE_KINDS = ("image", "video")
NUMBERS = ("float", "int", "uint")
TEXT = "string"
NO_TASK = -1
"""In place of a ``task_index`` where there is no instruction."""
_COUNTERS = frozenset(("timestamp", "frame_index", "episode_index", "index", "task_index"))
COPY_AGAIN = "Copy it again from where the data set came from"


@dataclass(frozen=True, kw_only=True)
class Info:
    """The fields of ``meta/info.json`` that are read."""

    version: str
    """``v2.0``, ``v2.1`` or ``v3.0``."""
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
    chunk_episodes: int
    """Number of episodes of a folder of files in v2."""

    def image_key(self, name: str | None) -> str:
        """Return the key of the images to read: ``name``, or the only one."""
        images = [key for key, feature in self.features.items() if feature["dtype"] in IMAGE_KINDS]
        keys = [key for key in images if not _is_depth(self.features[key])]
        if name in images and name not in keys:
            raise DataError(f"the image key {name!r} holds depth maps. Name one of the RGB images: {keys}")
        if name is not None and name not in keys:
            raise DataError(unknown_name("image key", name, keys))
        if name is None and len(keys) != 1:
            raise DataError(f"the data set has {len(keys)} image keys ({', '.join(keys)}). Name one with image_key")
        return name or keys[0]

    def action_size(self, key: str) -> int:
        """Return A, the number of entries of a feature of the action."""
        vectors = {name: f for name, f in self.features.items() if str(f["dtype"]).startswith(NUMBERS)}
        if key not in vectors or key in _COUNTERS:
            raise DataError(unknown_name("action key", key, vectors.keys() - _COUNTERS))
        shape = list(vectors[key]["shape"])
        if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
            raise DataError(f"the feature {key!r} has shape {shape}. The action must be a vector [A]")
        return shape[0]

    def check_instruction_key(self, key: str) -> None:
        """Raise :class:`DataError` for a feature that is not text."""
        texts = [name for name, feature in self.features.items() if feature["dtype"] == TEXT]
        if key not in texts:
            raise DataError(unknown_name("instruction key", key, texts))

    def action_names(self, key: str) -> tuple[str, ...]:
        """Return the names of the entries of an action feature. Empty where there is not one for each entry."""
        names: Any = self.features[key].get("names")
        if isinstance(names, dict) and all(isinstance(number, int) for number in names.values()):
            names = sorted(names, key=lambda name: int(names[name]))  # {"x": 0, "y": 1}
        elif isinstance(names, dict):  # {"motors": ["x", "y"]}
            names = list(itertools.chain.from_iterable(group for group in names.values() if isinstance(group, list)))
        labels = tuple(map(str, names)) if isinstance(names, list) else ()
        return labels if len(set(labels)) == len(labels) == self.action_size(key) else ()


def _is_depth(feature: Mapping[str, Any]) -> bool:
    notes = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return any(notes.get(name) for name in ("is_depth_map", "video.is_depth_map"))


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The episodes of a data set in order. Every array has one entry per episode."""

    lengths: NDArray[np.int64]
    data_files: tuple[Path, ...]
    """File of the steps, with the images in image mode."""
    video_files: tuple[Path, ...]
    """File of the images in video mode, else empty."""
    video_starts: NDArray[np.float64]
    """Time of the first image in the video file, seconds. Empty in image mode."""
    video_stops: NDArray[np.float64]
    """Time after the last image."""
    tasks: tuple[str, ...]
    """Task names written by this package, else empty strings."""
    sentences: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """All instructions of the episodes whose list of tasks is not empty."""
    seeds: NDArray[np.int64] | None = None
    """Seeds written by this package."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of pyarrow about a missing or damaged Parquet file into :class:`DataError` with the file."""
    import pyarrow as pa

    if not path.is_file():
        raise DataError(f"{path} is missing. {COPY_AGAIN}")
    with border.reading(path, cure=COPY_AGAIN, also=(pa.ArrowException,)):
        yield


def read_schema(path: Path) -> pa.Schema:
    """Return the pyarrow schema of a Parquet file."""
    import pyarrow.parquet as pq

    with reading(path):
        return pq.read_schema(path)


def read_columns(
    path: Path, integers: Sequence[str], others: Sequence[str] = (), *, nullable: Sequence[str] = ()
) -> dict[str, Any]:
    """Return columns of a Parquet file: integers as int64 arrays, the others as pyarrow arrays.

    Missing columns, integers of another type, or missing values except in ``nullable`` raise :class:`DataError`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*integers, *others, *nullable]
    with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        present = set(file.schema_arrow.names)
        if missing := [name for name in names if name not in present]:
            raise DataError(f"{path} has no column {missing[0]!r}. {COPY_AGAIN}")
        table = file.read(columns=names)
    for name in (*integers, *others):
        if table[name].null_count:
            raise DataError(f"{path}: the column {name!r} has {table[name].null_count} empty places. {COPY_AGAIN}")
    for name in integers:
        if not pa.types.is_integer(kind := table[name].type):
            raise DataError(f"{path}: the column {name!r} is {kind}. It must hold whole numbers. {COPY_AGAIN}")
    with reading(path):
        return {
            **{name: table[name].to_numpy().astype(np.int64) for name in integers},
            **{name: table[name] for name in (*others, *nullable)},
        }


def read_info(folder: Path) -> Info:
    """Return ``meta/info.json``. An unfinished recording, or another version, raises :class:`DataError`."""
    path = folder / INFO_FILE
    if not path.is_file():
        if (folder / RECORDING_FILE).is_file():
            done = len(list(folder.glob(EPISODE_FILES)))
            raise DataError(f"{folder}: not finished, {done} files are written. Run the same command again to resume")
        raise DataError(f"{folder} has no {INFO_FILE}. Point to the folder of a LeRobot data set")
    data = read_json(path)
    version = data.get("codebase_version")
    if version not in (*V2_VERSIONS, VERSION):
        versions = ", ".join((*V2_VERSIONS, VERSION))
        cure = "Convert it with the version of lerobot that wrote it" if str(version) < VERSION else "Update rt1"
        raise DataError(f"{path} has codebase_version {version!r}. This version reads {versions}. {cure}")
    with border.reading(path, cure=COPY_AGAIN):
        info = Info(
            version=version,
            fps=float(data["fps"]),
            features={key: {**feature, "dtype": feature["dtype"]} for key, feature in data["features"].items()},
            data_path=str(data["data_path"]),
            video_path=str(data.get("video_path") or ""),
            episodes=int(data["total_episodes"]),
            chunk_episodes=int(data.get("chunks_size") or CHUNK_FILES),
        )
    if not 0.0 < info.fps < math.inf or info.episodes < 1:
        raise DataError(f"{path}: fps is {info.fps}, total_episodes {info.episodes}. Both must be above 0")
    return info


def read_tasks(folder: Path) -> dict[int, str]:
    """Return the instructions by ``task_index``. They may be empty."""
    path = folder / TASKS_FILE
    check_size(path, cure=COPY_AGAIN)
    # A data frame with a named index has a column of that name instead.
    sentence = SENTENCE_COLUMN if SENTENCE_COLUMN in read_schema(path).names else "task"
    columns = read_columns(path, ["task_index"], nullable=[sentence])
    with reading(path):
        texts = [str(text or "") for text in columns[sentence].to_pylist()]
        return dict(zip(columns["task_index"].tolist(), texts, strict=True))


def read_episodes(folder: Path, info: Info, video_key: str | None) -> Episodes:
    """Return all episodes. ``video_key`` is the key of the images in video mode, else None.

    A missing or damaged file, or numbers or lengths that are inconsistent, raise :class:`DataError`.
    """
    data = ["data/chunk_index", "data/file_index"]
    video = [f"videos/{video_key}/{name}" for name in ("chunk_index", "file_index")] if video_key else []
    times = [f"videos/{video_key}/{name}" for name in (FROM, TO)] if video_key else []
    names = ["episode_index", "length", "dataset_from_index", "dataset_to_index", *data, *video]
    files = sorted(folder.glob(EPISODE_FILES))
    if not files:
        raise DataError(f"{folder} has no {EPISODE_FILES}. {COPY_AGAIN}")
    tables = [_episode_columns(path, names, times) for path in files]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    order = np.argsort(columns["episode_index"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    check_lengths(folder, info, columns["episode_index"], columns["length"])
    wrong = columns["dataset_to_index"] - columns["dataset_from_index"] != columns["length"]
    if wrong.any():
        episode = int(np.argmax(wrong))
        span = f"{columns['dataset_from_index'][episode]}..{columns['dataset_to_index'][episode]}"
        raise DataError(
            f"{folder}: episode {episode} has length {columns['length'][episode]} and the steps {span}. The two must "
            f"agree. {COPY_AGAIN}"
        )
    starts, stops = (columns[name] for name in times) if times else (np.empty(0), np.empty(0))
    return Episodes(
        lengths=columns["length"],
        data_files=_v3_paths(folder, (info.data_path, DATA_PATH), [columns[name] for name in data]),
        video_files=_v3_paths(
            folder, (info.video_path, VIDEO_PATH), [columns[name] for name in video], video_key=video_key
        ),
        video_starts=starts,
        video_stops=stops,
        tasks=tuple(columns[TASK_COLUMN].tolist()),
        sentences=sentences_of_episodes(columns.get("tasks", [])),
        seeds=columns.get(SEED_COLUMN),
    )


def _episode_columns(path: Path, names: Sequence[str], times: Sequence[str]) -> dict[str, NDArray[Any]]:
    present = read_schema(path).names
    noted, seeds, lists = ([name] if name in present else [] for name in (TASK_COLUMN, SEED_COLUMN, "tasks"))
    columns = read_columns(path, [*names, *seeds], [*times, *noted], nullable=lists)
    with reading(path):
        tasks = columns[TASK_COLUMN].to_pylist() if noted else [""] * len(columns["length"])
        seconds = {name: columns[name].to_numpy().astype(np.float64) for name in times}
        texts = {name: np.fromiter(columns[name].to_pylist(), dtype=object) for name in lists}
        return {**columns, **seconds, **texts, TASK_COLUMN: np.array([str(task) for task in tasks], dtype=object)}


def sentences_of_episodes(tasks: Iterable[Any]) -> dict[int, tuple[str, ...]]:
    """Return the different instructions of each episode that has any, from the list of its tasks."""
    sentences = {
        episode: tuple(dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip()))
        for episode, texts in enumerate(tasks)
        if isinstance(texts, list)
    }
    return {episode: texts for episode, texts in sentences.items() if texts}


def check_lengths(folder: Path, info: Info, numbers: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Raise :class:`DataError` if the ascending numbers of the episodes have gaps, or an episode has no steps."""
    if len(numbers) != info.episodes or not np.array_equal(numbers, np.arange(len(numbers))):
        span = f"{len(numbers)} episodes, numbered {numbers.min()}..{numbers.max()}" if len(numbers) else "none"
        rule = f"{INFO_FILE} promises the episodes 0..{info.episodes - 1}"
        raise DataError(f"{folder}: {rule}, found {span}. {COPY_AGAIN}")
    if (lengths < 1).any():
        episode = int(np.argmax(lengths < 1))
        raise DataError(f"{folder}: episode {episode} has length {lengths[episode]}, must be at least 1. {COPY_AGAIN}")


def _v3_paths(
    folder: Path, templates: Sequence[str], columns: Sequence[NDArray[np.int64]], *, video_key: str | None = None
) -> tuple[Path, ...]:
    """Return the file of each episode from the columns of chunk and file numbers."""
    pairs = list(zip(*(column.tolist() for column in columns), strict=True))
    distinct = list(dict.fromkeys(pairs))
    paths = dict(zip(distinct, existing_files(folder, templates, distinct, video_key=video_key), strict=True))
    return tuple(paths[pair] for pair in pairs)


def existing_files(
    folder: Path, templates: Sequence[str], numbers: Sequence[tuple[int, int]], *, video_key: str | None = None
) -> list[Path]:
    """Return the files of a template by their chunk and their number. A missing file raises :class:`DataError`.

    Some data sets do not follow the template that they name: the first one counts whose first file exists.
    """

    def path_of(template: str, chunk: int, number: int) -> Path:
        fields = {"chunk_index": chunk, "file_index": number, "episode_chunk": chunk, "episode_index": number}
        with border.reading(f"{folder / INFO_FILE}: the path template {template!r}", cure=COPY_AGAIN):
            return folder / _path(template, video_key=video_key, **fields)

    templates = [template for template in templates if template]
    usable = [template for template in templates if numbers and path_of(template, *numbers[0]).is_file()]
    paths = [path_of((usable or templates)[0], chunk, number) for chunk, number in numbers]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing. {COPY_AGAIN}")
    return paths


def _path(template: str, **values: object) -> str:
    """Return the path of a template within the folder. An unsafe one raises ``ValueError``."""
    for _, key, form, _ in string.Formatter().parse(template):
        if key is not None and (key not in values or len(form or "") > len("06d")):
            raise ValueError(f"{{{key}:{form}}} is not a field of LeRobot")
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
            raise DataError(f"{path} holds {shapes}, must hold a finite vector for each row. {COPY_AGAIN}")
        embeddings += [vectors[row] for row in rows]
    if paths and len(embeddings) != episodes:
        counts = f"{len(embeddings)} text embeddings for {episodes} episodes"
        raise DataError(f"{folder / EMBEDDING_FOLDER} holds {counts}, must be one each. {COPY_AGAIN}")
    return embeddings if paths else None
