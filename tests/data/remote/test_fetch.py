"""Parts of data sets that lie elsewhere: they hold the right episodes, resume, and refuse what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.open_data import DataOptions, open_data
from rt1.data.remote import download
from rt1.data.remote.fetch import FETCH_FILE, FetchReport, FetchSettings, fetch_part
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError, SaveError

Make = Callable[[Path, str], Path]
Upload = Callable[[Path], str]


def _fetch(url: str, folder: Path, episodes: str = ":", **settings: Any) -> FetchReport:
    return fetch_part(url, folder, FetchSettings(episodes=episodes, **settings))


def _assert_part(part: EpisodeSource, whole: EpisodeSource, start: int) -> None:
    for episode, steps in enumerate(part.lengths.tolist()):
        other = start + episode
        assert steps == whole.lengths[other]
        assert part.encoded_images(episode, 0, steps) == whole.encoded_images(other, 0, steps)
        assert np.array_equal(part.actions(episode, 0, steps), whole.actions(other, 0, steps))
        assert (part.instruction(episode), part.task(episode)) == (whole.instruction(other), whole.task(other))
        assert np.array_equal(part.text_embedding(episode), whole.text_embedding(other))  # type: ignore[arg-type]


@pytest.mark.parametrize(("span", "start", "stop"), [(":", 0, 5), ("1:4", 1, 4), (":1", 0, 1), ("4:", 4, 5)])
@pytest.mark.parametrize("kind", ["rlds", "v3.0", "v3.0 video"])
def test_a_part_opens_as_a_data_set_of_its_episodes(
    tmp_path: Path, make_set: Make, upload: Upload, kind: str, span: str, start: int, stop: int
) -> None:
    whole = make_set(tmp_path / "whole", kind)
    report = _fetch(upload(whole), tmp_path / "part", span)
    part = open_data(tmp_path / "part", DataOptions())
    assert (len(part.lengths), report.episodes, report.total) == (stop - start, range(start, stop), 5)
    _assert_part(part, open_data(whole, DataOptions()), start)


def test_only_the_files_of_the_episodes_are_downloaded(tmp_path: Path, make_set: Make, server: Any) -> None:
    make_set(server.folder / "set", "rlds")
    assert _fetch(f"{server.url}/set", tmp_path / "part", "2:3").files == 1
    assert {path for path in server.paths if "tfrecord" in path} == {"set/push_blocks-train.tfrecord-00001-of-00003"}
    note = json.loads((tmp_path / "part" / FETCH_FILE).read_text())
    assert (note["url"], note["episodes"], len(note["files"])) == (f"{server.url}/set", "2:3", 1)


@pytest.mark.parametrize(("kind", "requests"), [("rlds", 5), ("v3.0 video", 12)])
@pytest.mark.parametrize("sends_parts", [True, False])
def test_a_half_finished_download_resumes(
    tmp_path: Path,
    make_set: Make,
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    requests: int,
    sends_parts: object,
) -> None:
    monkeypatch.setattr(download, "BLOCK", 1000)
    whole, out = make_set(server.folder / "set", kind), tmp_path / "part"
    server.sends_parts, server.requests_left = sends_parts, requests
    with pytest.raises(DataError, match=r"500.*run the command again"):
        _fetch(f"{server.url}/set", out, "1:5")
    assert (out / FETCH_FILE).is_file()
    with pytest.raises(DataError, match="not finished"):
        open_data(out, DataOptions())
    server.requests_left = 10**6
    _fetch(f"{server.url}/set", out, "1:5")
    _assert_part(open_data(out, DataOptions()), open_data(whole, DataOptions()), 1)
    assert not list(out.glob("*/*.writing-*"))
    server.requests.clear()
    _fetch(f"{server.url}/set", out, "1:5")
    assert not any("tfrecord" in path or path.endswith(".mp4") for path in server.paths)


def test_a_complete_part_on_a_read_only_disk_is_left_as_it_is(
    tmp_path: Path, make_set: Make, upload: Upload, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, out = upload(make_set(tmp_path / "whole", "v3.0")), tmp_path / "part"
    _fetch(url, out, "1:2")
    assert "episodes 1:2: 1 file, 0.0 MB, 0.0 MB to download" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("rt1.data.remote.fetch.os.access", lambda *_: False)
    assert _fetch(url, out, "1:2").files == 1
    assert "episodes 1:2: 1 file, 0.0 MB, all downloaded" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_a_resumed_download_asks_for_what_is_missing(
    tmp_path: Path, make_set: Make, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BLOCK", 1000)
    make_set(server.folder / "set", "rlds")
    server.requests_left = 5
    with pytest.raises(DataError, match="500"):
        _fetch(f"{server.url}/set", tmp_path / "part", "4:5")
    half = next((tmp_path / "part" / ".rt1-fetch").rglob("*tfrecord*")).stat().st_size
    server.requests_left = 10**6
    server.requests.clear()
    _fetch(f"{server.url}/set", tmp_path / "part", "4:5")
    starts = [start for path, start in server.requests if "tfrecord" in path]
    assert half >= 1000
    assert min(starts) == half


def test_a_failed_request_is_repeated(
    tmp_path: Path, make_set: Make, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(server.folder / "set", "rlds")
    monkeypatch.setattr("rt1.data.remote.store.WAITS", (0.0,))
    monkeypatch.setattr("rt1.data.remote.store.time.sleep", lambda _: setattr(server, "requests_left", 10**6))
    server.requests_left = 4
    assert _fetch(f"{server.url}/set", tmp_path / "part").files == 3


def test_a_file_that_changed_meanwhile_is_refused(
    tmp_path: Path, make_set: Make, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BLOCK", 1000)
    shard = make_set(server.folder / "set", "rlds") / "push_blocks-train.tfrecord-00000-of-00003"
    server.requests_left = 5
    with pytest.raises(DataError, match="500"):
        _fetch(f"{server.url}/set", tmp_path / "part")
    server.requests_left, size = 10**6, shard.stat().st_size
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(DataError, match=rf"00000-of-00003 has changed.*{size + 4} bytes now and had {size}"):
        _fetch(f"{server.url}/set", tmp_path / "part")


def test_a_file_with_another_checksum_is_refused_and_downloaded_again(
    tmp_path: Path, make_set: Make, server: Any
) -> None:
    make_set(server.folder / "set", "rlds")
    shard = "push_blocks-train.tfrecord-00001-of-00003"
    server.checksums[f"set/{shard}"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    with pytest.raises(DataError, match=rf"{shard} has the md5 [0-9a-f]{{32}}, must have 0{{32}}"):
        _fetch(f"{server.url}/set", tmp_path / "part")
    assert not (tmp_path / "part" / shard).exists()
    assert not (tmp_path / "part" / ".rt1-fetch" / shard).exists()
    assert _fetch(f"{server.url}/set", tmp_path / "other", checksums=False).files == 3


def test_a_shard_with_a_damaged_record_is_refused(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "rlds")
    shard = whole / "push_blocks-train.tfrecord-00000-of-00003"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"00000-of-00003: checksum of the record at byte 0"):
        _fetch(upload(whole), tmp_path / "part", "0:1")


@pytest.mark.parametrize("span", ["0:6", "5:6", "3:3", "4:2", "9:"])
@pytest.mark.parametrize("kind", ["rlds", "v3.0"])
def test_a_range_beyond_the_set_is_refused(
    tmp_path: Path, make_set: Make, upload: Upload, kind: str, span: str
) -> None:
    with pytest.raises(DataError, match=rf"episodes is {span}, must be.* 5 episodes"):
        _fetch(upload(make_set(tmp_path / "whole", kind)), tmp_path / "part", span)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("episodes", ["5", "", "a:b", "-1:3", "0:5:2", "0:" + "9" * 30])
def test_what_is_no_range_is_refused(episodes: str) -> None:
    with pytest.raises(ValueError, match=r"episodes is .*START:STOP"):
        FetchSettings(episodes=episodes)


def test_another_part_is_not_mixed_in(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    url = upload(make_set(tmp_path / "whole", "rlds"))
    _fetch(url, tmp_path / "part", "0:1")
    with pytest.raises(DataError, match=r"episodes 0:1, not 0:2"):
        _fetch(url, tmp_path / "part", "0:2")
    with pytest.raises(SaveError, match="for something else"):
        _fetch(url, tmp_path / "whole", "0:2")


def test_what_is_no_data_set_is_refused(tmp_path: Path, make_set: Make, upload: Upload, server: Any) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "page.html").write_text("text")
    make_set(tmp_path / "set" / "1.0.0", "rlds")
    with pytest.raises(DataError, match=r"memory://other is no folder of an RLDS or LeRobot data set"):
        _fetch(upload(tmp_path / "other"), tmp_path / "part")
    with pytest.raises(DataError, match=r"Did you mean memory://set/1\.0\.0"):
        _fetch(upload(tmp_path / "set"), tmp_path / "part")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+/nothing is no .*404"):
        _fetch(f"{server.url}/nothing", tmp_path / "part")


def test_a_disk_that_is_too_small_is_noticed_before_the_download(
    tmp_path: Path, make_set: Make, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(make_set(tmp_path / "whole", "rlds"))
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("rt1.data.remote.fetch.shutil.disk_usage", lambda _: usage)
    with pytest.raises(SaveError, match=r" 0 MB free.*needs"):
        _fetch(url, tmp_path / "part")
