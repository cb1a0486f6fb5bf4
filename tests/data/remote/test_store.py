"""Stores: addresses, checksums as each store gives them, and one line for what cannot be read."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from fastcrc.crc32 import iscsi

from rt1.data.remote.store import RemoteFile, Store, checksum_of
from rt1.errors import DataError

_DATA = b"some episodes"
_MD5 = hashlib.md5(_DATA).hexdigest()
_SHA256 = hashlib.sha256(_DATA).hexdigest()
_GIT = hashlib.sha1(b"blob 13\0" + _DATA).hexdigest()
_CRC = f"{iscsi(_DATA):08x}"


def _encoded(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


@pytest.mark.parametrize(
    ("info", "checksum"),
    [
        ({"md5Hash": _encoded(_MD5), "crc32c": _encoded(_CRC)}, f"md5:{_MD5}"),  # Google Cloud Storage
        ({"crc32c": _encoded(_CRC)}, f"crc32c:{_CRC}"),  # composed of several objects
        ({"lfs": {"sha256": _SHA256}, "blob_id": "0" * 40}, f"sha256:{_SHA256}"),  # the hub, large
        ({"lfs": None, "blob_id": _GIT}, f"git:{_GIT}"),  # and small
        ({"Content-MD5": _encoded(_MD5)}, f"md5:{_MD5}"),  # a web server
        ({"ETag": f'"{_MD5}"'}, f"md5:{_MD5}"),  # S3
        ({"ETag": f'"{_MD5}-3"'}, ""),  # uploaded in several parts
        ({"size": 3}, ""),
    ],
)
def test_the_checksum_of_each_store_is_compared(tmp_path: Path, info: dict[str, Any], checksum: str) -> None:
    assert checksum_of(info, etag_is_md5=True) == checksum
    store = Store("memory://set")
    file = RemoteFile(name="shard", size=13, checksum=checksum, tag="")
    (tmp_path / "shard").write_bytes(_DATA)
    store.check(file, tmp_path / "shard")
    (tmp_path / "shard").write_bytes(b"other episode")
    if checksum:
        with pytest.raises(DataError, match=rf"shard has the {checksum.partition(':')[0]} .*must have"):
            store.check(file, tmp_path / "shard")


def test_the_etag_of_a_web_server_is_no_checksum() -> None:
    assert checksum_of({"ETag": f'"{_MD5}"'}) == ""


def test_a_git_lfs_pointer_is_named() -> None:
    file = RemoteFile(name="shard", size=40, checksum="", tag="")
    with pytest.raises(DataError, match=r"memory://set/shard is a git-lfs pointer"):
        Store("memory://set").check(file, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/set", "unknown scheme 'ftp'.*gs"),
        ("data/set", "data/set is no address.*gs://"),
        ("gss://bucket/set", "did you mean 'gs'"),
        ("hf://lerobot/pusht", "Write hf://datasets/lerobot/pusht"),
        ("https://host/set?key=1", "plain address"),
        ("https://host/../set\n", "plain address"),
        ("https://host::file:///etc", "plain address"),
        ("https://user:word@host/set", r"user name.*netrc"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Store(url)


def test_what_cannot_be_reached_is_one_line_with_the_address(server: Any) -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/set/info\.json cannot be read \(.*127\.0\.0\.1"):
        Store("http://127.0.0.1:1/set").read("info.json")
    with pytest.raises(DataError, match=r"memory://set/info\.json does not exist"):
        Store("memory://set").read("info.json")
    server.requests_left = 0
    (server.folder / "page.json").touch()
    with pytest.raises(DataError, match=r"page\.json cannot be read.*500"):  # not taken for one that does not exist
        Store(server.url).read_optional("page.json")
    server.requests_left = 1
    (server.folder / "page.json").write_text("<html>")
    with pytest.raises(DataError, match=r"page\.json is not JSON"):
        Store(server.url).read_json("page.json")


def test_a_server_that_sends_too_little_is_noticed(server: Any) -> None:
    (server.folder / "shard").write_bytes(_DATA)
    file = RemoteFile(name="shard", size=20, checksum="", tag="")
    with pytest.raises(DataError, match=r"shard: the store sent 3 bytes.*10 from byte 10"):
        Store(server.url).read_block(file, 10, 20)
