"""Files of a data set in a bucket, on a hub or on a web server, read through fsspec."""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
import string
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from fastcrc.crc32 import iscsi

from rt1.common.border import describe, reading
from rt1.common.json_files import MAX_BYTES, parse
from rt1.common.protobuf import Buffer
from rt1.common.suggest import printable, unknown_name
from rt1.data.rlds.tfrecord import map_file
from rt1.errors import DataError

PACKAGES = {
    "file": "fsspec",
    "gs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
    "s3": "s3fs",
}
"""Scheme of an address -> the package that reads it."""
REQUESTS = 8
"""Requests at a time."""
WAITS = (1.0, 4.0, 15.0)
"""Seconds before a failed request is repeated."""
AGAIN = "Run the same command again to resume"
_STALL_SECONDS = 60
_MISSING = (403, 404, 410)
"""HTTP status of a file that does not exist. Some buckets deny access to it."""
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the store describes it."""

    name: str
    """Path in the data set."""
    size: int
    """Bytes."""
    checksum: str
    """``md5:``, ``sha256:``, ``crc32c:`` or ``git:`` with hexadecimal digits. Empty if the store gives none."""
    tag: str
    """The store's name of this version of the file. Empty if it gives none."""


class Store:
    """The folder of a data set at an address. Safe to use from several threads."""

    def __init__(self, url: str, *, anonymous: bool = False, checksums: bool = True) -> None:
        """Open an address.

        Args:
            url: ``gs://``, ``s3://``, ``hf://datasets/``, ``https://`` and the folder of the data set.
            anonymous: use no credentials.
            checksums: compare files with the checksums that the store gives.

        Raises:
            DataError: another address.
            ModuleNotFoundError: the package for this kind of address is not installed.
        """
        self.url, self.checksums = url.rstrip("/"), checksums
        scheme = _scheme(url)
        importlib.import_module(PACKAGES[scheme])  # fsspec's own error does not name our extra
        import fsspec

        with self._reaching(""):
            self._files = fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme, anonymous=anonymous))
        self.takes_ranges: bool | None = None
        """Whether the store sends parts of files. None before the first request for one."""

    def path(self, name: str) -> str:
        """Return the address of a file of the data set."""
        return f"{self.url}/{name}" if name else self.url

    def describe(self, names: Iterable[str]) -> list[RemoteFile]:
        """Return the sizes and checksums of files. One that is missing raises :class:`DataError`."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(self._describe, names))

    def read(self, name: str) -> bytes:
        """Return the content of a metadata file, checked against its size and checksum."""
        file = self._describe(name)
        if file.size > MAX_BYTES:
            raise DataError(f"{self.path(name)} has {file.size} bytes. At most {MAX_BYTES} are read")
        data = self.read_block(file, 0, file.size)
        self.check(file, data)
        return data

    def read_optional(self, name: str) -> bytes | None:
        """Return the content of a metadata file, or None if it cannot be found."""
        try:
            return self.read(name)
        except DataError as error:
            if _is_missing(error.__cause__):
                return None
            raise

    def read_json(self, name: str, content: bytes | None = None) -> dict[str, Any]:
        """Return the object of a JSON file, of the store or with this content."""
        data = parse(self.read(name) if content is None else content, name=self.path(name), cure="Check the address")
        if not isinstance(data, dict):
            raise DataError(f"{self.path(name)} holds no object. Check the address")
        return data

    def exists(self, name: str) -> bool:
        """Return whether there is a file."""
        try:
            self._describe(name)
        except DataError:
            return False
        return True

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, as far as the store lists them."""
        with self._reaching(""):
            entries = self._files.ls(self._location(""), detail=True)
        return sorted(PurePosixPath(str(e["name"])).name for e in entries if e.get("type") == "directory")

    def read_block(self, file: RemoteFile, start: int, stop: int) -> bytes:
        """Return the bytes ``start..stop-1``, or all from ``start`` on if the store sends whole files only."""
        if file.size == 0:
            return b""
        bounds = {} if (start, stop) == (0, file.size) else {"start": start, "end": stop}
        with self._reaching(file.name):
            data = self._repeated_read(self._location(file.name), bounds)
        if bounds:
            self.takes_ranges = len(data) == stop - start
        if len(data) == file.size:
            return data[start:]
        if len(data) != stop - start:
            rule = f"it must send {stop - start} from byte {start} on"
            raise DataError(f"{self.path(file.name)}: the store sent {len(data)} bytes, {rule}. {AGAIN}")
        return data

    def check(self, file: RemoteFile, content: Path | bytes) -> None:
        """Raise :class:`DataError` if a downloaded file is not the one that the store describes."""
        start = content[: len(_LFS_POINTER)] if isinstance(content, bytes) else _first_bytes(content)
        if start == _LFS_POINTER:
            cure = "Use the address of the file itself, for example hf://datasets/ or .../resolve/main"
            raise DataError(f"{self.path(file.name)} is a git-lfs pointer. {cure}")
        if not self.checksums or not file.checksum:
            return
        kind, _, digits = file.checksum.partition(":")
        data = content if isinstance(content, bytes) else map_file(content)
        if (actual := _digest(kind, data)) != digits:
            cure = f"{AGAIN}, or use no checksums where an S3 bucket is encrypted with KMS"
            raise DataError(f"{self.path(file.name)} has the {kind} {actual}, must have {digits}. {cure}")

    def _describe(self, name: str) -> RemoteFile:
        with self._reaching(name):
            info = self._files.info(self._location(name))
        size = info.get("size")
        if info.get("type") == "directory":
            raise DataError(f"{self.path(name)} is a folder, must be a file")
        if not isinstance(size, int):
            raise DataError(f"{self.path(name)}: the store does not say its size. Copy the data set another way")
        checksum = checksum_of(info, etag_is_md5=self.url.startswith("s3:"))
        return RemoteFile(name=name, size=size, checksum=checksum, tag=str(info.get("ETag") or ""))

    def _location(self, name: str) -> str:
        return str(self._files._strip_protocol(self.path(name)))  # noqa: SLF001 (fsspec has no other name for it)

    def _repeated_read(self, location: str, bounds: dict[str, int]) -> bytes:
        """Return the content of a file, or a part of it. A request that fails is repeated."""
        for wait in WAITS:
            try:
                return self._files.cat_file(location, **bounds)
            except Exception:  # noqa: BLE001 (each store's library has classes of its own)
                time.sleep(wait)
        return self._files.cat_file(location, **bounds)

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Raise one line with the address for what a store's library raises."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            path, cause = self.path(name), error.__cause__ if isinstance(error, FileNotFoundError) else None
            reason = describe(error if cause is None else cause)  # fsspec calls each error of a web server not found
            if isinstance(error, FileNotFoundError) and cause is None:
                raise DataError(f"{path} does not exist. Check the address") from error
            cure = "Check the address and your access, or run the command again. A public bucket needs anonymous=True"
            raise DataError(f"{path} cannot be read ({reason}). {cure}") from error


def _scheme(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise DataError(f"{printable(url)} is no address, must begin with a scheme. Give for example gs://bucket/path")
    if scheme not in PACKAGES:
        raise DataError(f"{printable(url)}: {unknown_name('scheme', scheme, PACKAGES)}")
    if scheme == "hf" and not rest.startswith("datasets/"):
        raise DataError(f"{url} names no data set of the hub. Write hf://datasets/{rest}")
    if not url.isprintable() or any(character in rest for character in "?#%*\\") or "::" in rest:
        raise DataError(f"{printable(url)} must be the plain address of a folder, without ? # % * \\ or ::")
    if scheme in ("http", "https") and urlsplit(url).username is not None:
        raise DataError("the address holds a user name, which would be stored with the data. Use ~/.netrc")
    return scheme


def _options(scheme: str, *, anonymous: bool) -> dict[str, Any]:
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=_STALL_SECONDS, sock_read=_STALL_SECONDS)
        return {"client_kwargs": {"timeout": timeout, "trust_env": not anonymous}}
    options: dict[str, dict[str, Any]] = {"gs": {"token": "anon"}, "s3": {"anon": True}, "hf": {"token": False}}
    return options.get(scheme, {}) if anonymous else {}


def checksum_of(info: dict[str, Any], *, etag_is_md5: bool = False) -> str:
    """Return the checksum in a store's description of a file, see :class:`RemoteFile`.

    Args:
        info: what ``info`` of fsspec returns.
        etag_is_md5: whether an ETag of 32 digits is the MD5, as in S3.
    """
    lfs, etag = info.get("lfs") or {}, str(info.get("ETag") or "").strip('"')
    encoded = info.get("md5Hash") or info.get("Content-MD5")
    if digits := lfs.get("sha256"):
        return f"sha256:{digits}"
    if not lfs and (digits := info.get("blob_id")):
        return f"git:{digits}"
    if encoded:
        return f"md5:{base64.b64decode(encoded).hex()}"
    if info.get("crc32c"):
        return f"crc32c:{base64.b64decode(info['crc32c']).hex()}"
    return f"md5:{etag}" if etag_is_md5 and re.fullmatch("[0-9a-f]{32}", etag) else ""


def _digest(kind: str, data: Buffer) -> str:
    if kind == "crc32c":
        return f"{iscsi(data):08x}"
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        digest.update(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()


def _is_missing(error: BaseException | None) -> bool:
    """Return whether a file does not exist. fsspec says so of each error of a web server: the real one is the cause."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return getattr(error.__cause__, "status", None) in _MISSING
    return isinstance(error, FileNotFoundError | PermissionError)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER))


def filled(template: str, where: str, **values: object) -> str:
    """Return the path that a data set's template gives. One that is not in the data set raises :class:`DataError`.

    Args:
        template: for example ``data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet``.
        where: file that holds the template, for messages.
        values: the fields.
    """
    with reading(f"{where}: the path template {printable(template)!r}", cure="Ask the authors of the data set"):
        for _, field, form, _ in string.Formatter().parse(template):
            if field is not None and (field not in values or len(form or "") > len("03d")):
                raise ValueError(f"{{{field}:{form}}} is no field of a path")
        name = template.format(**values)
        path = PurePosixPath(name)
        if not name.isprintable() or path.is_absolute() or ".." in path.parts or re.search(r"[?#%*\\]|:/", name):
            raise ValueError(f"{printable(name)!r} is not a path in the data set")
    return name
