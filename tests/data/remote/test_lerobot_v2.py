"""Parts of LeRobot v2.0 and v2.1: files and tables are numbered from 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rt1.data.remote.fetch import FetchSettings, fetch_part
from rt1.errors import DataError

Make = Callable[[Path, str], Path]
Upload = Callable[[Path], str]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (1, 5), (3, 4)])
def test_a_part_is_numbered_from_0(
    tmp_path: Path, make_set: Make, upload: Upload, version: str, start: int, stop: int
) -> None:
    whole, part = make_set(tmp_path / "whole", version), tmp_path / "part"
    report = fetch_part(upload(whole), part, FetchSettings(episodes=f"{start}:{stop}"))
    count, rows = stop - start, _lines(whole / "meta/episodes.jsonl")[start:stop]
    info = json.loads((part / "meta" / "info.json").read_text())
    totals = [info[name] for name in ("total_episodes", "total_frames", "total_videos", "total_chunks")]
    assert report.files == 2 * count
    assert totals == [count, sum(row["length"] for row in rows), count, -(-count // 3)]
    assert info["splits"] == {"train": f"0:{count}"}
    assert _lines(part / "meta/episodes.jsonl") == [{**row, "episode_index": n} for n, row in enumerate(rows)]
    assert (part / "meta" / "tasks.jsonl").read_bytes() == (whole / "meta" / "tasks.jsonl").read_bytes()
    first = 0
    for number, row in enumerate(rows):
        data = pq.read_table(part / info["data_path"].format(episode_chunk=number // 3, episode_index=number))
        old = pq.read_table(
            whole
            / info["data_path"].format(episode_chunk=row["episode_index"] // 3, episode_index=row["episode_index"])
        )
        video = info["video_path"].format(episode_chunk=number // 3, video_key="top", episode_index=number)
        assert (part / video).read_bytes() == b"video %d" % row["episode_index"]
        assert set(data["episode_index"].to_pylist()) == {number}
        assert data["index"].to_pylist() == list(range(first, first + row["length"]))
        unchanged = [name for name in old.schema.names if name not in ("index", "episode_index")]
        assert data.select(unchanged).equals(old.select(unchanged))
        assert data.schema.equals(old.schema, check_metadata=True)
        first += row["length"]


def test_statistics_of_episodes_follow_their_numbers(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    fetch_part(upload(make_set(tmp_path / "whole", "v2.1")), tmp_path / "part", FetchSettings(episodes="2:4"))
    stats = _lines(tmp_path / "part" / "meta" / "episodes_stats.jsonl")
    assert [(row["episode_index"], row["stats"]["action"]["count"]) for row in stats] == [(0, [3]), (1, [4])]


def test_a_set_that_does_not_follow_its_template_is_found(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "v2.1")
    path = whole / "meta" / "info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "data_path": "data/{episode_index:06d}.parquet"}))
    fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="4:5"))
    assert (tmp_path / "part" / "data" / "chunk-000" / "episode_000000.parquet").is_file()


def test_tables_that_are_inconsistent_are_refused(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "v2.1")
    path = whole / "meta" / "episodes.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:3]))
    with pytest.raises(DataError, match=r"episodes\.jsonl has 2 of the episodes.*promises 5"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:5"))
    path.write_text("\n".join([*rows[:3], "[]", "{"]))
    with pytest.raises(DataError, match=r"episodes\.jsonl, line 4,"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:5"))
    path.write_text("\n".join([rows[0], rows[1].replace('"length": 2', '"length": 3')]))
    with pytest.raises(DataError, match=r"episode_000001\.parquet.*the 3 steps of the episodes 1\.\.1"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:2"))
