"""The log of a run: appended, and cut back where a run goes on."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rt1.common.system import commit
from rt1.data.sources.base import EpisodeSource
from rt1.evaluate.metrics import METRICS, METRICS_FILE, read_metrics
from rt1.train.config import TrainConfig
from rt1.train.log import ABOUT_FILE, LogSettings, MetricsLog
from rt1.train.loop import train


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


def test_the_folder_says_what_the_run_is_and_when_it_started(tmp_path: Path) -> None:
    config = {"batch_size": 4}
    MetricsLog(tmp_path, config=config).close()
    MetricsLog(tmp_path, resume_at=5, config=config).close()
    about = json.loads((tmp_path / ABOUT_FILE).read_text())
    assert about["config"] == config
    assert [start["update"] for start in about["starts"]] == [0, 5]
    assert all(start["commit"] == commit() and start["machine"] and start["date"] for start in about["starts"])
    assert about["metrics"]["loss"]["unit"] == "nats per token"


def test_a_run_begun_anew_forgets_the_starts_of_the_one_before(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        MetricsLog(tmp_path).close()
        about = json.loads((tmp_path / ABOUT_FILE).read_text())
        assert len(about["starts"]) == 1
        ids.append(about["wandb_id"])
    assert ids[0] != ids[1]


def test_every_number_that_a_run_logs_has_a_unit_and_a_meaning(
    make_source: Callable[..., EpisodeSource], short: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(make_source(6, 5, 4), short(updates=4), tmp_path)
    logged = {name for record in read_metrics(tmp_path) for name in record} - {"update"}
    assert "heldout_loss" in logged
    metrics = [METRICS[name.partition("/")[0]] for name in logged]
    assert all(metric.unit and metric.meaning for metric in metrics)


def test_tensorboard_can_be_left_out(tmp_path: Path) -> None:
    MetricsLog(tmp_path, settings=LogSettings(tensorboard=False)).close()
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_gets_the_same_run_when_it_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed; rt1[wandb] brings it")
    offline = LogSettings(tensorboard=False, wandb="offline")
    for update in (0, 3):
        log = MetricsLog(tmp_path, resume_at=update, settings=offline, config={"batch_size": 4})
        log.write(update + 1, {"loss": 0.5, "heldout_loss": 0.25})
        log.close()
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {file.stem for file in files} == {f"run-{json.loads((tmp_path / ABOUT_FILE).read_text())['wandb_id']}"}
    assert all(word in file.read_bytes() for file in files for word in (b"heldout_loss", b"nats per token"))


class _FakeTrackio(ModuleType):
    """What is used of Trackio: it holds runs by name."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.calls: list[dict[str, Any]] = []
        self.records: dict[str, list[dict[str, float]]] = {}
        self.open = 0

    def init(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        self.open += 1
        records = self.records.setdefault(arguments["name"], [])

        def finish() -> None:
            self.open -= 1

        return SimpleNamespace(log=lambda values, step: records.append({"step": step, **values}), finish=finish)


def test_trackio_gets_the_same_run_when_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _FakeTrackio()  # the real one asks for an older Pillow than the pinned one
    monkeypatch.setitem(sys.modules, "trackio", fake)
    settings = LogSettings(tensorboard=False, tracker="trackio", project="arms")
    for update in (0, 3):
        log = MetricsLog(tmp_path, resume_at=update, settings=settings, config={"batch_size": 4})
        log.write(update + 1, {"loss": 0.5})
        log.close()
    ((name, records),) = fake.records.items()
    assert name.startswith(tmp_path.name)
    assert records == [{"step": 1, "loss": 0.5}, {"step": 4, "loss": 0.5}]
    assert {(call["project"], call["resume"], call["config"]["batch_size"]) for call in fake.calls} == {
        ("arms", "allow", 4)
    }
    assert fake.calls[0]["config"]["metrics"]["loss"]["unit"]
    assert fake.open == 0


def test_the_tracker_wandb_is_online_unless_it_is_set_offline() -> None:
    assert LogSettings(tracker="wandb").wandb_mode == "online"
    assert LogSettings(tracker="wandb", wandb="offline").wandb_mode == "offline"
    assert LogSettings(wandb="online").wandb_mode == "online"  # as in earlier runs
    assert LogSettings(tracker="trackio").wandb_mode == "off"
