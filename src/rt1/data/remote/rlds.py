"""Parts of RLDS data sets: the shards of some episodes, cut to them, and metadata that describe the part."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rt1.common.border import reading
from rt1.common.files import write_bytes, write_text
from rt1.common.suggest import unknown_name
from rt1.data.remote.download import Part, PartFile
from rt1.data.remote.store import Store, filled
from rt1.data.rlds.schema import FEATURES_FILE, INFO_FILE, RT1_FILE
from rt1.data.rlds.tfrecord import FRAME_BYTES, FRAME_START, map_file, scan_records
from rt1.errors import DataError

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
"""The usual names of shards."""
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def plan(store: Store, split: str, range_of: Callable[[int], range]) -> Part:
    """Return the shards of a TFDS folder that hold some episodes of a split.

    Args:
        store: the folder of one version of a data set.
        split: name of the split.
        range_of: function of the number of episodes in the split.

    Raises:
        DataError: no TFDS folder, an unknown split, or shards of unknown lengths or of another format.
    """
    features = _read_features(store)
    info = store.read_json(INFO_FILE)
    where = store.path(INFO_FILE)
    with reading(where, cure="Use another way to copy this data set"):
        splits = {str(entry["name"]): entry for entry in info["splits"]}
        if split not in splits:
            raise DataError(f"{where}: {unknown_name('split', split, splits)}")
        lengths = [int(length) for length in splits[split].get("shardLengths", ())]
        name, kind = str(info["name"]), str(info.get("fileFormat") or "tfrecord")
        template = str(splits[split].get("filepathTemplate") or TEMPLATE)
    if kind != "tfrecord":
        raise DataError(f"{where} has fileFormat {kind}, must be tfrecord. Convert it with tfds convert_format")
    if not lengths or min(lengths) < 0:
        raise DataError(
            f"{where}: the split {split} has shardLengths {lengths[:9]}, must be the episodes of each shard"
        )
    episodes = range_of(sum(lengths))
    first = np.concatenate([[0], np.cumsum(lengths)])
    chosen = [n for n in range(len(lengths)) if first[n] < episodes.stop and first[n + 1] > episodes.start]
    names = [_name(template, where, name, split, (number, len(lengths))) for number in chosen]
    targets = [_name(TEMPLATE, where, name, split, (number, len(chosen))) for number in range(len(chosen))]
    cuts = [
        slice(max(episodes.start - int(first[n]), 0), min(episodes.stop - int(first[n]), lengths[n])) for n in chosen
    ]
    files = tuple(
        PartFile(name=remote, target=target, make=functools.partial(_cut, records=lengths[number], cut=cut))
        for remote, target, number, cut in zip(names, targets, chosen, cuts, strict=True)
    )
    copies = {path: data for path in (RT1_FILE, *_label_files(features)) if (data := store.read_optional(path))}
    part_lengths = [cut.stop - cut.start for cut in cuts]

    def write_metadata(folder: Path) -> None:
        size = sum((folder / target).stat().st_size for target in targets) - FRAME_BYTES * len(episodes)
        shards = {"numBytes": str(size), "shardLengths": [str(length) for length in part_lengths]}
        description = {**info, "splits": [{"filepathTemplate": TEMPLATE, "name": split, **shards}]}
        write_text(folder / INFO_FILE, json.dumps(description, indent=2) + "\n")
        for path, data in copies.items():
            write_bytes(folder / path, data)
        write_text(folder / FEATURES_FILE, json.dumps(features, indent=2) + "\n")

    return Part(format="RLDS", episodes=episodes, total=int(first[-1]), files=files, write_metadata=write_metadata)


def _read_features(store: Store) -> dict[str, Any]:
    try:
        return store.read_json(FEATURES_FILE)
    except DataError as error:
        versions: list[str] = []
        with suppress(DataError):  # a web server lists nothing
            versions = [name for name in store.folders() if _VERSION.fullmatch(name)]
        if versions:
            raise DataError(f"{store.url} has no {FEATURES_FILE}. Did you mean {store.path(versions[-1])}?") from error
        raise DataError(f"{store.url} is no folder of an RLDS or LeRobot data set: {error}") from error


def _name(template: str, where: str, name: str, split: str, shard: tuple[int, int]) -> str:
    """Return the name of a shard by its number and the number of shards."""
    number, total = shard
    fields = {"DATASET": name, "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": f"{number:05d}"}
    fields |= {"NUM_SHARDS": f"{total:05d}", "SHARD_X_OF_Y": f"{number:05d}-of-{total:05d}"}
    return filled(template, where, **fields)


def _label_files(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the files with the names of class labels, as TFDS names them."""
    for name, child in node.get("featuresDict", {}).get("features", {}).items():
        yield from _label_files(child, f"{path}-{name}" if path else str(name))
    if "sequence" in node:
        yield from _label_files(node["sequence"]["feature"], path)
    if "classLabel" in node:
        yield filled("{path}.labels.txt", FEATURES_FILE, path=path.replace("/", "."))


def _cut(source: Path, target: Path, *, records: int, cut: slice) -> None:
    """Write the records ``cut`` of a shard that must have ``records``, with their checksums verified."""
    data = map_file(source)
    spans = list(scan_records(source, data))
    if len(spans) != records:
        raise DataError(
            f"{source.name} holds {len(spans)} episodes, but {INFO_FILE} promises {records}. Fetch it again"
        )
    if (cut.start, cut.stop) == (0, records):
        source.replace(target)
        return
    start, stop = spans[cut.start][0] - FRAME_START, spans[cut.stop - 1][1] + FRAME_BYTES - FRAME_START
    with memoryview(data) as view, target.open("wb") as file:
        file.write(view[start:stop])
