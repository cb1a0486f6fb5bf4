"""A part of a data set that lies elsewhere as a data set of its own: RLDS and LeRobot."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rt1.common.files import write_text
from rt1.common.folders import working_in
from rt1.common.json_files import read_object
from rt1.common.progress import progress, say
from rt1.data.lerobot.schema import INFO_FILE
from rt1.data.remote import lerobot, lerobot_v2, lerobot_v3, rlds
from rt1.data.remote.download import Download, Part
from rt1.data.remote.store import RemoteFile, Store
from rt1.data.rlds.schema import FEATURES_FILE
from rt1.errors import DataError, SaveError

FETCH_FILE = "rt1-fetch.json"
"""File of a part that says where it comes from, with the size and checksum of each file."""
_WAITING = ".rt1-fetch"
_RANGE = re.compile(r"(\d{0,18}):(\d{0,18})")


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Settings of a download."""

    episodes: str = ":"
    """Episodes START:STOP, counted from 0, without STOP itself. 0:500 are the first 500. Default: all."""
    split: str = "train"
    """Split of an RLDS data set."""
    anonymous: bool = False
    """Use no credentials, for public buckets."""
    checksums: bool = True
    """Compare each file with the checksum that the store gives. Not possible for S3 buckets encrypted with KMS."""

    def __post_init__(self) -> None:
        if not _RANGE.fullmatch(self.episodes):
            raise ValueError(f"episodes is {self.episodes!r}, must be START:STOP. Give for example 0:500")

    def range_of(self, total: int) -> range:
        """Return the numbers of the episodes in a set of ``total``. None, or some beyond it, raise ``DataError``."""
        match = _RANGE.fullmatch(self.episodes)
        assert match is not None
        start, stop = int(match[1] or 0), int(match[2] or total)
        if not 0 <= start < stop <= total:
            rule = f"must be a range within the {total} episodes of the data set"
            raise DataError(
                f"episodes is {self.episodes}, {rule}. Give {min(start, max(total - 1, 0))}:{total} at most"
            )
        return range(start, stop)


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """What is there after a download."""

    folder: Path
    format: str
    episodes: range
    """Numbers of the episodes in the data set that they come from."""
    total: int
    """Number of episodes of that data set."""
    files: int
    """Number of files of it that hold these episodes."""
    megabytes: float
    """Size of these files."""


def is_unfinished(folder: Path) -> bool:
    """Return whether a download to a folder has not ended. The last file that it writes describes the data set."""
    return (folder / FETCH_FILE).is_file() and not any((folder / name).is_file() for name in (INFO_FILE, FEATURES_FILE))


def fetch_part(url: str, folder: Path, settings: FetchSettings) -> FetchReport:
    """Download the files that hold some episodes, and write metadata that describe them as a data set.

    The episodes are numbered from 0 in the part. A download that was interrupted resumes.

    Args:
        url: address of the data set, see :class:`rt1.data.remote.store.Store`.
        folder: where to write. A new folder, or one with the same part of the same data set.
        settings: which episodes.

    Raises:
        DataError: an address that cannot be read, a data set of another kind, or one that changed meanwhile.
        SaveError: the folder cannot be written, or holds something else.
    """
    store = Store(url, anonymous=settings.anonymous, checksums=settings.checksums)
    part = _plan(store, settings)
    with working_in(folder, ours=(FETCH_FILE,)):
        remote = store.describe(file.name for file in part.files)
        _begin(folder, store, part, remote)
        waiting = folder / _WAITING
        download = Download(store, list(zip(part.files, remote, strict=True)), folder, waiting)
        size, missing = sum(file.size for file in remote), download.missing_bytes
        _check_space(folder, missing)
        rest = f"{missing / 1e6:.1f} MB to download" if download.missing else "all downloaded"
        say(f"episodes {_text(part.episodes)}: {file_count(len(remote))}, {size / 1e6:.1f} MB, {rest}")
        with progress("fetch", -(-size // 1_000_000), unit="MB", done=(size - missing) // 1_000_000) as bar:
            download.run(bar, size - missing)
        if is_unfinished(folder) or os.access(folder, os.W_OK):  # else the disk is read-only
            part.write_metadata(folder)
        shutil.rmtree(waiting, ignore_errors=True)
    return FetchReport(
        folder=folder,
        format=part.format,
        episodes=part.episodes,
        total=part.total,
        files=len(remote),
        megabytes=size / 1e6,
    )


def _plan(store: Store, settings: FetchSettings) -> Part:
    content = store.read_optional(INFO_FILE)
    if content is None:
        return rlds.plan(store, settings.split, settings.range_of)
    info = lerobot.read_info(store, content, settings.range_of)
    return lerobot_v3.plan(store, info) if info.version == lerobot.V3 else lerobot_v2.plan(store, info)


def _text(episodes: range) -> str:
    return f"{episodes.start}:{episodes.stop}"


def file_count(number: int) -> str:
    """Return a number of files in words: ``1 file``, ``2 files``."""
    return f"{number} file" if number == 1 else f"{number} files"


def _begin(folder: Path, store: Store, part: Part, remote: Sequence[RemoteFile]) -> None:
    """Note what is downloaded, or check that an earlier run downloaded the same."""
    path = folder / FETCH_FILE
    files = {file.name: dataclasses.asdict(file) for file in remote}
    request = {"url": store.url, "episodes": _text(part.episodes), "total_episodes": part.total, "files": files}
    if not path.is_file():
        write_text(path, json.dumps({"format": 1, **request}, indent=2) + "\n")
        return
    old = read_object(path, cure=f"Remove {folder} and fetch again")
    for name in ("url", "episodes", "total_episodes"):
        if old.get(name) != request[name]:
            raise DataError(f"{folder} holds {name} {old.get(name)}, not {request[name]}. Give a new folder")
    _check_unchanged(folder, store, old.get("files"), files)


def _check_unchanged(folder: Path, store: Store, old: Any, new: dict[str, dict[str, Any]]) -> None:  # noqa: ANN401 (JSON)
    for name, file in new.items():
        before = old.get(name) if isinstance(old, dict) else None
        if before != file:
            size = before.get("size") if isinstance(before, dict) else "unknown"
            sizes = f"it has {file['size']} bytes now and had {size}"
            raise DataError(
                f"{store.path(name)} has changed since the download began: {sizes}. Remove {folder} and fetch again"
            )


def _check_space(folder: Path, size: int) -> None:
    if (free := shutil.disk_usage(folder).free) < size:
        raise SaveError(f"{folder} has {free / 1e6:,.0f} MB free, the download needs {size / 1e6:,.0f} MB. Free space")
