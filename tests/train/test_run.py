"""A run's folder: whenever the process is killed, a checkpoint that loads is there, and the run goes on from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.checkpoint import load_info, load_model, load_training, resolve
from rt1.data.statistics import source_statistics
from rt1.errors import TrainingError
from rt1.train.distributed import World
from rt1.train.loop import train
from rt1.train.run import begin, keep


def test_a_run_killed_at_random_points_always_leaves_a_checkpoint_that_loads(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    data, run = write_recording(tmp_path / "data", make_source(6, 5, 7)), tmp_path / "run"
    words = ["train", "--data", str(data), "--out", str(run), "--preset", "debug", "--device", "cpu"]
    words += ["--held-out", "0", "--updates", "100000", "--save-every", "1", "--keep-last", "2", "--log-every", "1000"]
    random, before = np.random.default_rng(0), -1
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-m", "rt1", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
        ) as process:
            while not run.is_dir() or _update(run) <= before + 1:  # it saves all the time from here on
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        update = _update(run)
        assert update > before  # it went on where it was
        assert load_model(run).config.window == 2
        before = update


def _update(run: Path) -> int:
    try:
        return int(load_training(resolve(run)).progress["update"])
    except ValueError:  # being renamed at this moment
        return -1


def test_a_checkpoint_is_there_before_the_first_update(make_source: Any, short: Any, tmp_path: Path) -> None:
    begin(make_source(6, 5, 1, 7), short(), tmp_path / "run")
    assert load_training(tmp_path / "run" / "last").progress["update"] == 0


def test_a_checkpoint_holds_the_datas_statistics(make_source: Any, short: Any, tmp_path: Path) -> None:
    source = make_source(6, 5, 1, 7)
    begin(source, short(), tmp_path / "run")
    kept = load_info(tmp_path / "run").statistics
    assert kept is not None
    assert kept.to_json() == source_statistics(source).to_json()


def test_changes_are_refused_unless_allowed_and_then_remembered(make_source: Any, short: Any, tmp_path: Path) -> None:
    source, run = make_source(6, 5, 1, 7), tmp_path / "run"
    train(source, short(updates=2), run)
    with pytest.raises(TrainingError, match=r"updates: 2 then, 3 now.*--allow-changes"):
        train(source, short(updates=3), run)
    result = train(source, short(updates=3), run, allow_changes=True)
    assert (result.updates, result.changes) == (3, ("from update 2: updates: 2 then, 3 now",))
    assert load_info(run).provenance["changes"] == ["from update 2: updates: 2 then, 3 now"]


@pytest.mark.parametrize(("name", "value"), [("update", "7"), ("config", []), ("meter", 3), ("changes", None)])
def test_a_mistyped_progress_is_refused_in_one_line(
    name: str, value: object, make_source: Any, short: Any, tmp_path: Path
) -> None:
    source, run = make_source(6, 5, 1, 7), tmp_path / "run"
    begin(source, short(), run)
    file = run / "last" / "training.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(TrainingError, match=r"training\.json is damaged") as caught:
        begin(source, short(), run)
    assert "\n" not in str(caught.value)


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


class _OtherMachine(World):
    """Stand in for ranks of which one does not see the run folder."""

    def table(self, rows: Any) -> list[list[float]]:
        return [*rows, [0.0]]


def test_a_run_folder_that_not_all_machines_see_is_refused(make_source: Any, short: Any, tmp_path: Path) -> None:
    source, run = make_source(9, 7, 8), tmp_path / "run"
    train(source, short(updates=4), run)
    assert begin(source, short(updates=4), run).update == 4
    with pytest.raises(TrainingError, match=r"different updates \(0, 4\).*share"):
        begin(source, short(updates=4), run, world=_OtherMachine())
