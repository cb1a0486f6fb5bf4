"""What all versions of LeRobot share: info.json is checked, and its templates stay in the data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rt1.data.remote.fetch import FetchSettings, fetch_part
from rt1.errors import DataError

Make = Callable[[Path, str], Path]
Upload = Callable[[Path], str]


@pytest.mark.parametrize("kind", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codebase_version": "v1.6"}, "codebase_version 'v1.6', must be v2.0, v2.1, v3.0"),
        ({"data_path": "../../{episode_index}"}, "the path template"),
        ({"data_path": "/etc/passwd"}, "the path template"),
        ({"chunks_size": -1}, "chunks_size is -1"),
        ({"total_episodes": "many"}, "many"),
        ({"features": {"top": 3}}, r"info\.json is damaged"),
    ],
)
def test_a_damaged_or_hostile_info_is_refused(
    tmp_path: Path, make_set: Make, upload: Upload, kind: str, values: dict[str, object], message: str
) -> None:
    whole = make_set(tmp_path / "whole", kind)
    path = whole / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(DataError, match=message):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings())
    assert not (tmp_path / "part").exists()


def test_a_camera_whose_name_leads_outside_is_refused(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "v2.1")
    path = whole / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["../../../top"] = info["features"].pop("top")
    path.write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"is not a path in the data set"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings())
