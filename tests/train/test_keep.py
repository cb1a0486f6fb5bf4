"""Which checkpoints stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt1.train.keep import keep


def _kept(run: Path, updates: range, *, newest: int, every: int) -> list[str]:
    for update in updates:
        (run / "last").mkdir(parents=True, exist_ok=True)
        (run / "last" / "checkpoint.json").unlink(missing_ok=True)
        (run / "last" / "checkpoint.json").write_text(str(update))
        keep(run / "last", update, newest=newest, every=every)
    assert all(int((path / "checkpoint.json").read_text()) == int(path.name[7:]) for path in run.glob("update-*"))
    return sorted(path.name for path in run.glob("update-*"))


@pytest.mark.parametrize(
    ("newest", "every", "wanted"),
    [
        (1, 0, []),
        (2, 0, [3, 4]),
        (3, 0, [2, 3, 4]),
        (1, 2, [2, 4]),
        (2, 2, [1, 2, 3, 4]),
    ],
)
def test_the_newest_stay_and_every_so_many_for_good(newest: int, every: int, wanted: list[int], tmp_path: Path) -> None:
    assert _kept(tmp_path, range(5), newest=newest, every=every) == [f"update-{update:08d}" for update in wanted]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    names = ["best", "last", "update-00000099", "update-mine"]
    for name in names:
        (tmp_path / name).mkdir()
    keep(tmp_path / "last", 5, newest=1, every=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
