"""The log of a run: appended, and cut back where a run goes on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rt1.metrics import METRICS_FILE, read_metrics
from rt1.train.log import MetricsLog


def _write(run: Path, updates: range, *, resume_at: int = 0) -> None:
    log = MetricsLog(run, resume_at=resume_at)
    for update in updates:
        log.write(update, {"loss": 1.0 / update})
    log.close()


def test_records_come_back_bit_for_bit(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    assert read_metrics(tmp_path) == [{"update": update, "loss": 1.0 / update} for update in (1, 2, 3)]


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 0.5})
    assert read_metrics(tmp_path) == [{"update": 1, "loss": 0.5}]
    log.close()


def test_records_after_the_update_a_run_goes_on_from_are_dropped(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 8))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"update": 8, "lo')
    _write(tmp_path, range(6, 8), resume_at=5)
    assert [record["update"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_new_run_drops_the_records_of_the_one_before(tmp_path: Path) -> None:
    _write(tmp_path, range(1, 4))
    MetricsLog(tmp_path).close()
    assert read_metrics(tmp_path) == []


def test_tensorboard_gets_the_same_values(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed; rt1[train] brings it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped,unused-ignore]

    _write(tmp_path, range(1, 4))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3})
