"""Which checkpoints stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt1.train.keep import keep


def _kept(run: Path, updates: range, *, newest: int, every: int) -> list[str]:
    for update in updates:
        (run / "last").mkdir(parents=True, exist_ok=True)
        (run / "last" / "file").unlink(missing_ok=True)
        (run / "last" / "file").write_text(str(update))
        keep(run / "last", update, newest=newest, every=every)
    assert all(int((path / "file").read_text()) == int(path.name[7:]) for path in run.glob("update-*"))
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
    (tmp_path / "update-mine").mkdir()
    (tmp_path / "best").mkdir()
    _kept(tmp_path / "run", range(3), newest=1, every=0)
    assert (tmp_path / "update-mine").is_dir()
    assert (tmp_path / "best").is_dir()
