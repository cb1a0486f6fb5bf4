"""Which checkpoints of a run stay: the newest, some before it, and every so many updates one for good."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from rt1.checkpoint import CHECKPOINT_FILES, INFO_FILE
from rt1.common.files import replacing

_NAME = re.compile(r"update-(\d{8})")


def keep(last: Path, update: int, *, newest: int, every: int) -> None:
    """Keep a run's newest checkpoint under its update's name, too, and remove those that are not to be kept.

    A kept checkpoint shares its files' space on disk with ``last/`` until that is written anew.

    Args:
        last: the newest checkpoint, just written.
        update: the update it was written after.
        newest: how many checkpoints stay, ``last/`` included.
        every: those of updates that are a multiple of this stay for good; 0: none.

    Raises:
        SaveError: the disk is full or read-only.
    """
    if newest > 1 or _is_for_good(update, every):
        with replacing(last.parent / f"update-{update:08d}", holding=CHECKPOINT_FILES) as beside:
            shutil.copytree(last, beside, copy_function=_link)
    older = sorted(
        path for path in last.parent.iterdir() if _NAME.fullmatch(path.name) and (path / INFO_FILE).is_file()
    )
    passing = [path for path in older if not _is_for_good(int(path.name.removeprefix("update-")), every)]
    for path in passing[: max(0, len(passing) - newest)] if newest > 1 else passing:
        shutil.rmtree(path)


def _is_for_good(update: int, every: int) -> bool:
    return every > 0 and update > 0 and update % every == 0


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
