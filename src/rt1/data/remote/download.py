"""Downloads of whole files, a block after the other, that resume where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rt1.common.files import replacing
from rt1.common.progress import Progress
from rt1.data.remote.store import REQUESTS, RemoteFile, Store
from rt1.errors import DataError, SaveError

BLOCK = 4 << 20
"""Bytes of a request."""


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """A file of a part, made of one file of the data set."""

    name: str
    """Path in the data set."""
    target: str
    """Path in the part."""
    make: Callable[[Path, Path], object] = Path.replace
    """Function of the downloaded file and the file to write. By default the file stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What to download, and what to make of it."""

    format: str
    """``RLDS`` or ``LeRobot``."""
    episodes: range
    """Numbers of the episodes in the data set."""
    total: int
    """Number of episodes of the data set."""
    files: Sequence[PartFile]
    write_metadata: Callable[[Path], None]
    """Function of the part's folder, called when all files are there."""


_Block = tuple[RemoteFile, int, int]
"""A file, the first byte and the byte after the last."""


class Download:
    """The files of a part on their way to a folder."""

    def __init__(self, store: Store, files: Sequence[tuple[PartFile, RemoteFile]], folder: Path, waiting: Path) -> None:
        """Prepare a download.

        Args:
            store: where the files are.
            files: the files, with the store's description.
            folder: the part.
            waiting: folder of what is not complete.
        """
        self.store, self.folder, self.waiting = store, folder, waiting
        self.missing = {pair[1].name: pair for pair in files if not (folder / pair[0].target).is_file()}

    @property
    def missing_bytes(self) -> int:
        """Number of bytes still to be downloaded."""
        return sum(remote.size - self._position(remote) for _, remote in self.missing.values())

    def run(self, bar: Progress, done: int) -> None:
        """Download the missing files. ``done`` is the number of bytes that are there already.

        Raises:
            DataError: a file cannot be read, or is not the one that the store describes.
            SaveError: a file cannot be written.
        """
        with ThreadPoolExecutor(REQUESTS) as pool:
            while self.missing:
                blocks = self._next_blocks()
                for (remote, start, _), data in zip(blocks, pool.map(self._read, blocks), strict=True):
                    if remote.name not in self.missing or self._position(remote) != start:
                        continue  # the store sent the rest of the file with an earlier block
                    self._append(remote, data)
                    done += len(data)
                    bar.update(-(-done // 1_000_000), remote.name)
                    if start + len(data) == remote.size:
                        self._finish(self.missing.pop(remote.name)[0], remote)

    def _next_blocks(self) -> list[_Block]:
        """Return the next blocks in order. Whether the store sends parts of files is found out with one of them."""
        blocks: list[_Block] = []
        size = None if self.store.takes_ranges is False else BLOCK
        for _, remote in self.missing.values():
            start, stop = self._position(remote), -1
            while stop < remote.size and len(blocks) < REQUESTS:
                stop = min(start + (size or remote.size), remote.size)
                blocks.append((remote, start, stop))
                if self.store.takes_ranges is None and (start, stop) != (0, remote.size):
                    return blocks
                start = stop
            if len(blocks) == REQUESTS:
                break
        return blocks

    def _read(self, block: _Block) -> bytes:
        remote, start, stop = block
        return self.store.read_block(remote, start, stop) if stop > start else b""

    def _position(self, remote: RemoteFile) -> int:
        """Return the number of bytes that an earlier run downloaded."""
        path = self.waiting / remote.name
        return min(path.stat().st_size, remote.size) if path.is_file() else 0

    def _append(self, remote: RemoteFile, data: bytes) -> None:
        path = self.waiting / remote.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise SaveError(f"could not save {path}: {error.strerror}. Free space and run it again") from error

    def _finish(self, part_file: PartFile, remote: RemoteFile) -> None:
        """Check a downloaded file and make the part's file of it. A wrong one is removed."""
        path = self.waiting / remote.name
        try:
            self.store.check(remote, path)
            with replacing(self.folder / part_file.target) as temporary:
                part_file.make(path, temporary)
        except DataError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
