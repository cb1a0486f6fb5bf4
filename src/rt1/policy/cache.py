"""Exports of a checkpoint, made when an engine needs them first, in the user's cache."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import shutil
import tempfile
import time
from pathlib import Path

from rt1.checkpoint import INFO_FILE, MODEL_FILE, resolve
from rt1.common.files import user_cache
from rt1.common.folders import locked
from rt1.errors import ExportError, LockedError, SaveError
from rt1.policy.engines.base import EngineChoice
from rt1.policy.export.exporter import ExportSettings, export
from rt1.policy.export.formats import check_possible, versions
from rt1.policy.exported_manifest import FORMAT, MANIFEST_FILE, read_manifest, sha256

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.2


def cached_export(checkpoint: Path | str, choice: EngineChoice, *, embodiment: str | None = None) -> Path:
    """Return the folder of a checkpoint's export for an engine, exported now if it is not in the cache.

    Where the cache is full or read-only, the export goes to a temporary folder, removed at the end of the process.

    Raises:
        ExportError: the export is not possible here, or it does not act as the network.
        SaveError: the temporary folder is full, too.
        CheckpointError: the checkpoint cannot be used.
    """
    settings = ExportSettings(to=choice.name, precision=choice.precision, embodiment=embodiment)  # type: ignore[arg-type]
    check_possible(settings.to, settings.precision)
    weights = sha256(resolve(checkpoint) / MODEL_FILE)
    folder = user_cache() / "engines" / _key(checkpoint, settings, weights)
    while not _is_usable(folder, weights):
        _LOG.warning("exporting %s for the engine %s, once for these weights", checkpoint, choice)
        try:
            export(checkpoint, folder, settings)
        except LockedError:
            _LOG.warning("another process exports it, waiting")
            while _is_locked(folder):
                time.sleep(_POLL_SECONDS)
        except SaveError as error:
            if not folder.is_relative_to(user_cache()):  # the temporary folder is full, too
                raise
            folder = _temporary_folder() / folder.name
            _LOG.warning("the export goes to a temporary folder: %s", error)
    return folder


def _is_locked(folder: Path) -> bool:
    """Return whether another process exports to a folder. One that was killed leaves the file of its lock, unlocked."""
    try:
        with locked(folder, folder.with_name(f".{folder.name}.lock")):
            return False
    except LockedError:
        return True


def _key(checkpoint: Path | str, settings: ExportSettings, weights: str) -> str:
    parts = [FORMAT, weights, sha256(resolve(checkpoint) / INFO_FILE), settings.to, settings.precision]
    text = json.dumps([*parts, settings.embodiment, versions(settings.to)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_usable(folder: Path, weights: str) -> bool:
    """Return whether a folder holds a whole export of these weights."""
    if not (folder / MANIFEST_FILE).is_file():
        return False
    try:
        if read_manifest(folder).weights == weights:
            return True
        _LOG.warning("%s holds an export of other weights, it is made again", folder)
    except ExportError as error:
        _LOG.warning("a cached export is made again: %s", error)
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rt1-engines-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
