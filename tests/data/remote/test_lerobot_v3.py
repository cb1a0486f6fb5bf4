"""Parts of LeRobot v3.0: tables and statistics describe the part, files are those that hold it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.remote.fetch import FetchSettings, fetch_part
from rt1.errors import DataError

Make = Callable[[Path, str], Path]
Upload = Callable[[Path], str]
EPISODES = "meta/episodes/chunk-000/file-{:03d}.parquet"


def test_the_metadata_describe_the_part(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole, part = make_set(tmp_path / "whole", "v3.0 video"), tmp_path / "part"
    report = fetch_part(upload(whole), part, FetchSettings(episodes="3:5"))
    info = json.loads((part / "meta" / "info.json").read_text())
    assert report.files == 4
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (2, 9, {"train": "0:2"})
    rows = pq.read_table(part / EPISODES.format(0)).to_pylist()
    spans = [(row["episode_index"], row["dataset_from_index"], row["dataset_to_index"]) for row in rows]
    assert spans == [(0, 0, 4), (1, 4, 9)]
    assert [row["data/file_index"] for row in rows] == [0, 1]
    video = [row for name in rows for row in name if row.startswith("videos/")]
    assert video
    assert rows[0]["videos/observation.images.image/from_timestamp"] == pytest.approx(3 / 3)
    steps = pq.read_table(part / "data/chunk-000/file-000.parquet")
    assert (steps["index"].to_pylist(), set(steps["episode_index"].to_pylist())) == ([0, 1, 2, 3], {0})


def test_statistics_are_those_of_the_part(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    fetch_part(upload(make_set(tmp_path / "whole", "v3.0")), tmp_path / "part", FetchSettings(episodes="1:3"))
    source = LeRobotSource(tmp_path / "part")
    actions = np.concatenate([source.actions(0, 0, 2), source.actions(1, 0, 3)])
    stats = json.loads((tmp_path / "part" / "meta" / "stats.json").read_text())["action"]
    assert np.allclose(stats["min"], actions.min(axis=0))
    assert np.allclose(stats["mean"], actions.mean(axis=0))
    assert stats["count"] == [5]


def test_episodes_files_after_the_part_are_not_read(tmp_path: Path, make_set: Make, server: Any) -> None:
    make_set(server.folder / "set", "v3.0")
    fetch_part(f"{server.url}/set", tmp_path / "part", FetchSettings(episodes="0:2"))
    assert {path for path in server.paths if "episodes" in path} == {f"set/{EPISODES.format(0)}"}
    assert {path for path in server.paths if "/data/" in path} == {"set/data/chunk-000/file-000.parquet"}


def test_text_embeddings_of_each_data_file_are_found(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    from safetensors.numpy import load_file, save_file

    whole = make_set(tmp_path / "whole", "v3.0")
    expected = [LeRobotSource(whole).text_embedding(episode) for episode in range(5)]
    one = whole / "meta" / "rt1_embeddings.safetensors"
    if one.is_file():  # as newer versions store them
        tensors = load_file(one)
        for number, rows in enumerate(np.split(tensors["rows"], [2, 4])):
            path = whole / f"meta/rt1_embeddings/chunk-000/file-{number:03d}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"vectors": tensors["vectors"], "rows": rows}, path)
        one.unlink()
    fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:4"))
    part = LeRobotSource(tmp_path / "part")
    assert all(np.array_equal(part.text_embedding(n), expected[1 + n]) for n in range(3))  # type: ignore[arg-type]


def test_missing_or_damaged_tables_are_refused(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "v3.0")
    (whole / EPISODES.format(1)).unlink()
    with pytest.raises(DataError, match=r"file-001\.parquet does not exist.*only 1 of the episodes 1\.\.3"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:4"))
    (whole / EPISODES.format(1)).write_bytes(b"PAR1 is no table")
    with pytest.raises(DataError, match=r"file-001\.parquet is damaged"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:4"))
