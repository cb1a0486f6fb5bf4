"""The metadata of a TFDS folder: features, shards, layout, and the notes of our recorder."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from rt1.actions import ActionSpec
from rt1.common.border import check_no_pointer, reading
from rt1.common.json_config import from_json, to_json
from rt1.common.json_files import check_size, read_object
from rt1.common.suggest import unknown_name
from rt1.errors import DataError

FEATURES_FILE, INFO_FILE = "features.json", "dataset_info.json"
RT1_FILE, RECORDING_FILE = "rt1.json", "recording.json"
_FOLDER = "Point to the folder of one version of a TFDS data set (features.json and *.tfrecord-* files)"
_COPY_AGAIN = "Copy it again from where the data set came from"
_DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<number>\d{5,})-of-(?P<total>\d{5,})")


@dataclass(frozen=True, kw_only=True)
class RLDSLayout:
    """Keys of an RLDS data set. A key is looked up in a step first, then in the episode."""

    image_key: str = "observation/image"
    """JPEG or PNG image of a step."""
    instruction_key: str | None = "language_instruction"
    """Instruction: text, a class label, or a row of UTF-8 codes. The first step where it is not empty is read. JSON
    text is read by :func:`rt1.data.sources.sentences.sentence_of`. None: the episodes have none, which is empty."""
    embedding_key: str | None = None
    """Text embedding of the instruction, read at the first step, or None."""
    action_keys: tuple[str, ...] = ("action",)
    """Parts of the action in the order they are joined into a vector."""
    one_hot_keys: tuple[str, ...] = ()
    """Action keys that hold a one-hot vector: joined as the number of the choice, -1 for a row of zeros. Not needed if
    an action spec names the parts."""
    task_key: str | None = None
    """Name of the episode's task, such as ``episode_metadata/task``, or None."""

    def __post_init__(self) -> None:
        if not self.action_keys:
            raise ValueError("action_keys is empty. Name at least one key that holds the action")
        if strange := set(self.one_hot_keys) - set(self.action_keys):
            raise ValueError(f"one_hot_keys names {sorted(strange)}. It may only name action keys: {self.action_keys}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``. :meth:`from_json` reads it back."""
        return to_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RLDSLayout:
        """Read what :meth:`to_json` wrote. Anything else raises ``ValueError``."""
        layout = from_json(RLDSLayout, data, where="the RLDS layout")
        if "action_keys" not in data:
            raise ValueError("the RLDS layout has no action_keys. Name at least one key that holds the action")
        return layout


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """One feature as ``features.json`` describes it."""

    key: str
    """Name in a record: the path joined by ``/``, e.g. ``steps/observation/image``."""
    kind: str
    """``image`` (uint8), ``text``, ``tensor``, ``nested`` for a list of unknown length within a step,
    or ``uint16 image`` and the like for a depth map."""
    dtype: str
    """numpy name of the values, ``bytes`` for images and text."""
    shape: tuple[int, ...]
    """Shape of one step's value (or the episode's), () for a scalar."""
    encoding: str
    """``none``: values lie in a float or int list. ``bytes`` or ``zlib``: one byte string per value."""
    labels: tuple[str, ...] = ()
    """Names of the values of a class label, in order."""

    @functools.cached_property
    def record_key(self) -> bytes:
        """Name in a record, UTF-8."""
        return self.key.encode()

    @functools.cached_property
    def width(self) -> int:
        """Number of values of one step."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The files of a split."""

    name: str
    """Name of the data set."""
    paths: tuple[Path, ...]
    """Files in order, without the missing ones."""
    missing: tuple[str, ...]
    """Names of the missing files."""
    lengths: tuple[int | None, ...]
    """Number of episodes of each file in ``dataset_info.json``, or None."""


@dataclass(frozen=True, kw_only=True)
class RecorderNotes:
    """What our recorder noted with a data set. All empty for other data sets."""

    name: str | None = None
    image_key: str | None = None
    layout: RLDSLayout | None = None
    action_spec: ActionSpec | None = None
    text_encoder: dict[str, object] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. A missing or damaged file raises :class:`DataError`."""
    return read_object(path, cure=_COPY_AGAIN if path.is_file() else _FOLDER)


def read_recorder_notes(path: Path, **readers: Callable[[Any], Any]) -> RecorderNotes:
    """Return the notes of our recorder. A damaged file or another format raises :class:`DataError`.

    ``readers`` are functions that check and convert the fields that only this kind of data set has.
    """
    if not path.is_file():
        return RecorderNotes()
    data = read_json(path)
    if data.get("format") != 1:
        raise DataError(f"{path} has format {data.get('format')!r}. This version reads format 1. Update rt1")
    with reading(path, cure="Copy it again or record the data set again"):
        details = data.get("details", {})
        _check_notes(data.get("text_encoder"), details)
        values = {name: read(data[name]) for name, read in readers.items()}
        spec = ActionSpec.from_json(data["action_spec"])
        return RecorderNotes(action_spec=spec, text_encoder=data["text_encoder"], details=details, **values)


def read_features(folder: Path) -> dict[str, FeatureInfo]:
    """Return the features of a TFDS folder by record key. A missing or unusable file raises :class:`DataError`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {_FOLDER}")
    if (folder / RECORDING_FILE).is_file() and not (folder / RT1_FILE).is_file():
        shards = read_json(folder / RECORDING_FILE).get("shards")
        done = sum(1 for entry in folder.iterdir() if _SHARD.fullmatch(entry.name))
        progress = f"{done} of {shards} shards"
        raise DataError(f"{folder}: recording not finished: {progress}. Run the same record command again to resume")
    path = folder / FEATURES_FILE
    if not path.is_file():
        inner = sorted(str(file.parent) for file in folder.glob(f"*/{FEATURES_FILE}"))
        hint = f"Did you mean {inner[-1]}?" if inner else _FOLDER
        raise DataError(f"{folder} has no {FEATURES_FILE}. {hint}")
    features: dict[str, FeatureInfo] = {}
    with reading(path, cure=_COPY_AGAIN):
        _walk(read_json(path), "", features, nested=False)
    return {key: _with_labels(feature, folder) for key, feature in features.items()}


def find_feature(features: Mapping[str, FeatureInfo], key: str) -> FeatureInfo:
    """Return the feature of a layout's key. An unknown one raises :class:`DataError` with a suggestion."""
    for candidate in (f"steps/{key}", key):
        if candidate in features:
            return features[candidate]
    raise DataError(unknown_name("RLDS key", key, layout_keys(features)))


def layout_keys(features: Mapping[str, FeatureInfo]) -> list[str]:
    """Return the keys a layout can name."""
    return sorted(key.removeprefix("steps/") for key in features)


def find_shards(folder: Path, split: str) -> Shards:
    """Return the shards of a split: those that ``dataset_info.json`` names, or those with the default names.

    No shards, an unknown split, another file format, or shards of two recordings in one folder raise ``DataError``.
    """
    info = read_json(folder / INFO_FILE) if (folder / INFO_FILE).is_file() else {}
    with reading(folder / INFO_FILE, cure=_COPY_AGAIN):
        if (named := _named_shards(folder, split, info)) is not None:
            return named
    matches = [m for entry in folder.iterdir() if entry.is_file() and (m := _SHARD.fullmatch(entry.name))]
    if not matches:
        _refuse_other_format(folder, info)
        raise DataError(f"{folder} has no shard files (<name>-<split>.tfrecord-00000-of-0000N). {_COPY_AGAIN}")
    shards = {int(m["number"]): m for m in matches if m["split"] == split}
    if not shards:
        raise DataError(f"{folder}: {unknown_name('split', split, {m['split'] for m in matches})}")
    families = sorted({f"{m['name']}, {int(m['total'])} files" for m in matches if m["split"] == split})
    name, total = shards[min(shards)]["name"], int(shards[min(shards)]["total"])
    if len(families) > 1 or max(shards) >= total:
        raise DataError(f"{folder} mixes shards of {families}. Keep the files of one data set in a folder")
    lengths = _promised_lengths(folder, split, total)
    return Shards(
        name=name,
        paths=tuple(folder / shards[number].string for number in sorted(shards)),
        missing=tuple(f"{name}-{split}.tfrecord-{n:05d}-of-{total:05d}" for n in range(total) if n not in shards),
        lengths=tuple(lengths[number] for number in sorted(shards)),
    )


def _named_shards(folder: Path, split: str, info: Mapping[str, Any]) -> Shards | None:
    """Return the shards that ``filepathTemplate`` names. None where it has the default or no file has such a name."""
    entry: Mapping[str, Any] = next((entry for entry in info.get("splits", []) if entry.get("name") == split), {})
    template, lengths = str(entry.get("filepathTemplate") or ""), entry.get("shardLengths", [])
    total = len(lengths)
    if template in ("", _DEFAULT_TEMPLATE) or not total:
        return None
    values = {
        "DATASET": str(info.get("name", "")),
        "SPLIT": split,
        "FILEFORMAT": str(info.get("fileFormat", "tfrecord")),
    }
    names = []
    for number in range(total):
        index, count = f"{number:05d}", f"{total:05d}"
        name = template
        shard = {"SHARD_INDEX": index, "NUM_SHARDS": count, "SHARD_X_OF_Y": f"{index}-of-{count}"}
        for key, value in (values | shard).items():
            name = name.replace(f"{{{key}}}", value)
        if not name.isprintable() or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"filepathTemplate is {template!r}. It must name files in this folder")
        names.append(name)
    present = [number for number, name in enumerate(names) if (folder / name).is_file()]
    if not present:
        return None
    _refuse_other_format(folder, info)
    return Shards(
        name=values["DATASET"] or folder.resolve().parent.name,
        paths=tuple(folder / names[number] for number in present),
        missing=tuple(name for number, name in enumerate(names) if number not in present),
        lengths=tuple(int(lengths[number]) for number in present),
    )


def _refuse_other_format(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise :class:`DataError` for the file formats of TFDS that are not TFRecord."""
    kind = str(info.get("fileFormat") or "tfrecord")
    if kind == "tfrecord" and next(folder.glob("*.array_record*"), None):
        kind = "array_record"
    if kind != "tfrecord":
        options = f"--dataset_version_dir={folder} --out_file_format=tfrecord --out_dir=NEW_FOLDER"
        cure = f"Convert it with TensorFlow Datasets: tfds convert_format {options}"
        raise DataError(f"{folder} has files of the format {kind}. This version reads tfrecord. {cure}")


def _check_notes(encoder: Any, details: Any) -> None:  # noqa: ANN401 (JSON)
    if encoder is not None and [type(encoder[key]) for key in ("name", "sha256", "width")] != [str, str, int]:
        raise ValueError(f"the text encoder is {encoder!r}. It must have a name, a sha256 and a width")
    if not isinstance(details, dict) or not isinstance(details.get("env", {}), dict):
        raise ValueError(f"the details are {details!r}. They must be an object, and env in them as well")
    rate = details.get("control_rate")
    if rate is not None and (type(rate) not in (int, float) or not 0 < rate < math.inf):
        raise ValueError(f"the control rate is {rate!r}. It must be a number of steps per second")


def _promised_lengths(folder: Path, split: str, total: int) -> Sequence[int | None]:
    """Return the episodes per shard, which reveal a file that was cut between two records."""
    path = folder / INFO_FILE
    if not path.is_file():
        return [None] * total
    with reading(path, cure=_COPY_AGAIN):
        promised = {entry["name"]: entry.get("shardLengths", []) for entry in read_json(path).get("splits", [])}
        lengths = [int(length) for length in promised.get(split, [])]
    return lengths if len(lengths) == total else [None] * total


def _walk(node: Mapping[str, Any], path: str, features: dict[str, FeatureInfo], *, nested: bool) -> None:
    """Collect the leaves below a node. The first sequence on a path is the steps, a second one is ragged."""
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            if not name.isprintable():
                raise ValueError(f"the feature {name!r} holds a character that cannot be printed")
            _walk(child, f"{path}/{name}" if path else name, features, nested=nested)
    elif "sequence" in node:
        child = node["sequence"]["feature"]
        if nested or "featuresDict" not in child:
            features[path] = FeatureInfo(key=path, kind="nested", dtype="", shape=(), encoding="none")
        else:
            _walk(child, path, features, nested=True)
    else:
        features[path] = _leaf(node, path)


def _leaf(node: Mapping[str, Any], path: str) -> FeatureInfo:
    if "image" in node:
        dtype = str(node["image"].get("dtype") or "uint8")
        kind = "image" if dtype == "uint8" else f"{dtype} image"  # a depth map
        return FeatureInfo(key=path, kind=kind, dtype="bytes", shape=_shape(node["image"]), encoding="bytes")
    tensor = node.get("tensor", {})
    dtype = str(tensor.get("dtype", "bytes" if "text" in node else "int64"))
    if "text" in node or dtype in ("object", "string", "bytes"):
        return FeatureInfo(key=path, kind="text", dtype="bytes", shape=(), encoding="bytes")
    shape = _shape(tensor)
    kind = "nested" if any(size < 0 for size in shape) else "tensor"  # -1: differs from step to step
    kind = "label" if "classLabel" in node else kind
    return FeatureInfo(key=path, kind=kind, dtype=dtype, shape=shape, encoding=str(tensor.get("encoding", "none")))


def _with_labels(feature: FeatureInfo, folder: Path) -> FeatureInfo:
    """Return a class label with the names that TFDS stores in a file of its own. Other features stay as they are."""
    path = folder / f"{feature.key.replace('/', '-')}.labels.txt"
    if feature.kind != "label" or not path.is_file():
        return replace(feature, kind="tensor") if feature.kind == "label" else feature
    check_no_pointer(path)
    check_size(path, cure=_COPY_AGAIN)
    with reading(path, cure=_COPY_AGAIN):
        return replace(feature, kind="tensor", labels=tuple(path.read_text(encoding="utf-8").splitlines()))


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in node.get("shape", {}).get("dimensions", []))
