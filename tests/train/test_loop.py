"""Training: exact resume, what stops a run, what is kept, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rt1.actions import ActionSpec, Continuous
from rt1.checkpoint import load_info, load_model, load_training
from rt1.common.folders import working_in
from rt1.data.pipeline.augment import AugmentSettings
from rt1.errors import DataError, LockedError, SaveError, TrainingError
from rt1.evaluate.metrics import METRICS_FILE, read_metrics
from rt1.text.encoder import TableEncoder
from rt1.train.averaging import AverageSettings
from rt1.train.config import TrainConfig
from rt1.train.data import prepare_data
from rt1.train.log import LogSettings
from rt1.train.loop import RUN_FILES, RunResult, train
from rt1.train.optim import OptimizerSettings
from rt1.train.validation import validate

NO_CROP = AugmentSettings(crop_share=0.0)
LENGTHS = (6, 5, 1, 7, 4, 5, 6, 3, 2, 8)

MakeSource = Callable[..., Any]
MakeConfig = Callable[..., TrainConfig]


class _At:
    """Does something once, when the actions of the ``count``-th window are read ahead by the loader's thread."""

    def __init__(self, count: int, action: Callable[[], None]) -> None:
        self.left, self.action = count, action

    def __call__(self, _episode: int) -> None:
        if threading.current_thread().name.startswith("rt1-loader"):
            self.left -= 1
            if self.left == 0:
                self.action()


class _AtValidation:
    """Does something once, when the first validation begins."""

    def __init__(self, held_out: Collection[int], action: Callable[[], None]) -> None:
        self.held_out, self.action, self.done = held_out, action, False

    def __call__(self, episode: int) -> None:
        reading = threading.current_thread().name.startswith("rt1-in-order")
        if reading and episode in self.held_out and not self.done:
            self.done = True
            self.action()


MACHINE = ("windows_per_second", "images_per_second", "data_wait", "memory_gb", "gpu_memory_gb")
"""Metrics of the machine and not of the network."""


def _up_to(high: float) -> ActionSpec:
    return ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(high,) * 3),), bins=16)


def _raise_sigint() -> None:
    signal.raise_signal(signal.SIGINT)


def _records(run: Path) -> list[dict[str, Any]]:
    """Return everything that was measured of the network."""
    return [{k: v for k, v in record.items() if k not in MACHINE} for record in read_metrics(run)]


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of every checkpoint of a run, optimizer moments included."""
    files = sorted(run.glob("*/*.safetensors"))
    return {f"{file.parent.name}/{k}": v for file in files for k, v in load_file(file).items()}


def _assert_same_run(one: Path, other: Path) -> None:
    assert _records(one) == _records(other)
    left, right = _tensors(one), _tensors(other)
    assert left.keys() == right.keys()
    assert len(left) > 100
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


@pytest.fixture(scope="module")
def whole(
    make_source: MakeSource, short: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunResult]:
    """A run of 12 updates in one go."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, train(make_source(*LENGTHS), short(), run)


def test_a_run_ends_with_its_last_update(whole: tuple[Path, RunResult]) -> None:
    run, result = whole
    assert (result.updates, result.finished) == (12, True)
    assert [record["update"] for record in _records(run)] == list(range(1, 13))
    assert load_training(run / "last").progress["update"] == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_stopped_by_a_signal_goes_on_with_the_losses_of_an_uninterrupted_one(
    number: signal.Signals,
    make_source: MakeSource,
    short: MakeConfig,
    tmp_path: Path,
    whole: tuple[Path, RunResult],
) -> None:
    before, handler = signal.getsignal(number), signal.default_int_handler
    signal.signal(number, handler)
    stopping = make_source(*LENGTHS, before_read=_At(7 * 4, lambda: signal.raise_signal(number)))
    stopped = train(stopping, short(), tmp_path / "run")
    assert not stopped.finished
    assert 0 < stopped.updates < 12
    assert load_training(tmp_path / "run").progress["update"] == stopped.updates  # saved on the way out
    assert signal.signal(number, before) is handler
    resumed = train(make_source(*LENGTHS), short(), tmp_path / "run")
    assert (resumed.updates, resumed.finished, resumed.best) == (12, True, whole[1].best)
    _assert_same_run(tmp_path / "run", whole[0])


def test_a_run_stopped_again_and_again_is_exact_too(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    calls, finished = 0, False
    while not finished:
        stopping = make_source(*LENGTHS, before_read=_At(13, _raise_sigint))
        finished = train(stopping, short(), tmp_path / "run").finished
        calls += 1
    assert calls > 3
    _assert_same_run(tmp_path / "run", whole[0])


def test_five_updates_and_seven_more_are_twelve(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> None:
    config = short(validate_every=5, log_every=4)  # the stop falls between two lines of averages
    held_out = prepare_data(make_source(*LENGTHS), config).held_out_episodes.tolist()
    train(make_source(*LENGTHS), config, tmp_path / "whole")
    stopping = make_source(*LENGTHS, before_read=_AtValidation(held_out, _raise_sigint))
    assert train(stopping, config, tmp_path / "stopped").updates == 5
    assert [record["update"] for record in _records(tmp_path / "stopped")] == [4, 5]
    assert train(make_source(*LENGTHS), config, tmp_path / "stopped").updates == 12
    assert [record["update"] for record in _records(tmp_path / "whole")] == [4, 5, 8, 10, 12]
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_that_died_goes_on_from_the_last_checkpoint_it_saved(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    def die() -> None:
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        train(make_source(*LENGTHS, before_read=_At(7 * 4, die)), short(), tmp_path / "run")
    assert load_training(tmp_path / "run").progress["update"] == 4
    with (tmp_path / "run" / METRICS_FILE).open("a") as file:
        file.write('{"update": 7, "lo')  # what a kill leaves behind
    train(make_source(*LENGTHS), short(), tmp_path / "run")
    _assert_same_run(tmp_path / "run", whole[0])


def test_resuming_in_bfloat16_is_exact_too(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> None:
    config = short(precision="bf16", updates=6)
    train(make_source(*LENGTHS), config, tmp_path / "whole")
    stopped = train(make_source(*LENGTHS, before_read=_At(4 * 4, _raise_sigint)), config, tmp_path / "stopped")
    assert not stopped.finished
    train(make_source(*LENGTHS), config, tmp_path / "stopped")
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_second_signal_stops_at_once(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    held_out = prepare_data(make_source(*LENGTHS), short()).held_out_episodes.tolist()
    with pytest.raises(KeyboardInterrupt):
        train(make_source(*LENGTHS, before_read=_AtValidation(held_out, twice)), short(save_every=3), tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_training(tmp_path / "run").progress["update"] == 3


def test_a_run_killed_between_the_two_renames_of_saving_goes_on(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    run = tmp_path / "run"
    train(make_source(*LENGTHS, before_read=_At(6 * 4, _raise_sigint)), short(), run)
    (run / "last").rename(run / ".last.old")
    (run / ".last.writing-1").mkdir()
    resumed = train(make_source(*LENGTHS), short(), run)
    assert resumed.finished
    assert not list(run.glob(".*"))
    _assert_same_run(run, whole[0])


def test_a_run_whose_progress_lacks_something_is_refused(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    train(make_source(*LENGTHS), short(updates=1), tmp_path / "run")
    file = tmp_path / "run" / "last" / "training.json"
    progress = json.loads(file.read_text())
    del progress["best"]
    file.write_text(json.dumps(progress))
    with pytest.raises(TrainingError, match=r"last does not say its best. Train into another folder"):
        train(make_source(*LENGTHS), short(updates=1), tmp_path / "run")


def test_a_run_in_another_thread_leaves_signals_alone(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    results: list[RunResult] = []
    thread = threading.Thread(
        target=lambda: results.append(train(make_source(*LENGTHS), short(updates=2), tmp_path / "run"))
    )
    thread.start()
    thread.join()
    assert [result.finished for result in results] == [True]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 5}, r"batch_size: 4 then, 5 now"),
        ({"seed": 1}, r"seed: 0 then, 1 now"),
        ({"updates": 13}, r"updates: 12 then, 13 now"),
        ({"held_out": 0.3}, r"held_out: 0.2 then, 0.3 now"),
        ({"precision": "bf16"}, r"precision: fp32 then, bf16 now"),
        ({"optimizer": OptimizerSettings(learning_rate=1e-4, warmup=5)}, r"optimizer\.learning_rate: 0\.003 then"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    changes: dict[str, Any],
    named: str,
    make_source: MakeSource,
    short: MakeConfig,
    whole: tuple[Path, RunResult],
) -> None:
    before = _tensors(whole[0])
    with pytest.raises(TrainingError, match=named) as caught:
        train(make_source(*LENGTHS), short(**changes), whole[0])
    assert "Give the old ones or another folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in _tensors(whole[0]).items())


@pytest.mark.parametrize(
    "changes", [{"meter": 3}, {"changes": None}, {"best": "low"}, {"update": [1]}, {"config": []}, {"data": 1}]
)
def test_a_run_with_a_mistyped_state_is_refused_by_one_line_that_names_the_file(
    changes: dict[str, Any], make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "copy"))
    file = folder / "last" / "training.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(TrainingError) as caught:
        train(make_source(*LENGTHS), short(), folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_does_not_go_on_with_another_network(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    config = short()
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, window=3))
    with pytest.raises(TrainingError, match=r"model\.window: 2 then, 3 now"):
        train(make_source(*LENGTHS), wider, whole[0])


def test_a_run_does_not_go_on_with_other_episodes(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    with pytest.raises(TrainingError, match=r"data\.episodes: 10 then, 11 now"):
        train(make_source(*LENGTHS, 5), short(), whole[0])


def test_a_run_does_not_go_on_with_another_text_encoder(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    source = make_source(*LENGTHS)
    encoder = TableEncoder({source.instruction(k): np.full(8, k + 1, np.float32) for k in range(2)}, "other")
    with pytest.raises(TrainingError, match=r"data\.text_encoder.*other"):
        train(source, short(), whole[0], encoder=encoder)


def test_a_run_does_not_go_on_with_other_action_bounds(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    source = make_source(*LENGTHS)
    source.action_spec = _up_to(2.0)
    with pytest.raises(TrainingError, match=r"data\.action_spec"):
        train(source, short(), whole[0])


def test_settings_that_change_no_loss_may_change(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    stopped = train(make_source(*LENGTHS, before_read=_At(6 * 4, _raise_sigint)), short(), tmp_path / "run")
    assert not stopped.finished
    train(
        make_source(*LENGTHS),
        short(name="other", save_every=2, loader_threads=3, log=LogSettings(project="o")),
        tmp_path / "run",
    )
    assert _records(tmp_path / "run") == _records(whole[0])


def test_a_finished_run_stays_as_it_is(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    records, tensors = _records(whole[0]), _tensors(whole[0])
    assert train(make_source(*LENGTHS), short(), whole[0]) == whole[1]
    assert _records(whole[0]) == records
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in _tensors(whole[0]).items())


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_episodes(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    source, config, run = make_source(*LENGTHS), short(), tmp_path / "run"
    update = train(make_source(*LENGTHS, before_read=_At(5 * 4, _raise_sigint)), config, run).updates
    weights = load_file(run / "last" / "model.safetensors")
    weights["pixel_std"][1] = 0.0  # finite, as weights must be, but nothing that is divided by it is
    save_file(weights, run / "last" / "model.safetensors")
    files = {path: path.read_bytes() for path in sorted((run / "last").iterdir())}

    episodes = sorted(set(prepare_data(source, config).train.batch(update).episodes))
    with pytest.raises(TrainingError) as caught:
        train(source, config, run)
    assert f"loss is nan at update {update}, before the weights were changed" in str(caught.value)
    assert f"The batch's episodes are {episodes}" in str(caught.value)
    assert {path: path.read_bytes() for path in sorted((run / "last").iterdir())} == files


def test_a_run_that_diverges_keeps_its_last_finite_checkpoint(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    wild = OptimizerSettings(learning_rate=2e9, warmup=0)
    with pytest.raises(TrainingError, match=r"is (nan|inf) at update \d+, .*lower the learning rate"):
        train(make_source(*LENGTHS), short(optimizer=wild, save_every=1, held_out=0.0), tmp_path / "run")
    weights = load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_one_batch_is_learned_by_heart(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> None:
    config = short(updates=120, log_every=20, held_out=0.0, augment=NO_CROP, save_every=1000)
    steady = dataclasses.replace(
        config.model,
        transformer=dataclasses.replace(config.model.transformer, dropout=0.0),
        efficientnet=dataclasses.replace(config.model.efficientnet, drop_connect=0.0),
    )
    optimizer = OptimizerSettings(learning_rate=1e-2, warmup=5, weight_decay=0.0)
    train(make_source(3, 3), dataclasses.replace(config, model=steady, optimizer=optimizer), tmp_path / "run")
    first, *_, last = read_metrics(tmp_path / "run")
    assert first["loss"] > 1.0
    assert last["loss"] < 0.1
    assert last["accuracy"] > 0.98


def test_spread_targets_change_the_loss_and_nothing_else_of_the_first_update(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    train(make_source(*LENGTHS), short(target_spread=1.0, updates=1), tmp_path / "run")
    spread, plain = _records(tmp_path / "run")[0], _records(whole[0])[0]
    assert math.isfinite(spread["loss"])
    assert spread["loss"] != plain["loss"]
    assert spread["accuracy"] == plain["accuracy"]


def test_the_best_checkpoint_is_the_one_of_the_lowest_held_out_loss(
    short: MakeConfig, make_source: MakeSource, whole: tuple[Path, RunResult]
) -> None:
    run, result = whole
    measured = {r["update"]: r["heldout_loss"] for r in _records(run) if "heldout_loss" in r}
    assert sorted(measured) == [4, 8, 12]
    best = min(measured, key=lambda update: measured[update])
    provenance = load_info(run / "best").provenance
    assert (provenance["update"], provenance["best"]) == (best, measured[best])
    assert provenance["best_metric"] == "loss"
    assert result.best == measured[best]
    held_out = prepare_data(make_source(*LENGTHS), short()).held_out
    assert held_out is not None
    again = validate(load_model(run / "best"), held_out)
    assert again["heldout_loss"] == pytest.approx(measured[best], rel=1e-5)


def test_without_held_out_episodes_there_is_no_best_checkpoint(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    result = train(make_source(*LENGTHS), short(updates=2, held_out=0.0), tmp_path / "run")
    assert result.best is None
    assert not (tmp_path / "run" / "best").exists()
    assert "heldout_loss" not in _records(tmp_path / "run")[-1]


def test_a_checkpoint_says_what_it_was_trained_on(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    provenance = load_info(whole[0]).provenance
    held_out = prepare_data(make_source(*LENGTHS), short()).held_out_episodes
    assert provenance["held_out_episodes"] == held_out.tolist()
    assert (provenance["source"], provenance["episodes"]) == ("memory", 10)
    assert provenance["tasks"] == ["task-0", "task-1"]


def test_validation_counts_every_step_once_whatever_the_batch_size(
    make_source: MakeSource, short: MakeConfig, whole: tuple[Path, RunResult]
) -> None:
    source, model = make_source(*LENGTHS), load_model(whole[0])
    results = [validate(model, prepare_data(source, short(batch_size=size)).train) for size in (1, 3, 64)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-5)
    assert not model.training


def test_actions_outside_the_bounds_are_counted(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> None:
    source = make_source(4, 4)
    source.action_spec = _up_to(-0.99)
    train(source, short(updates=1, held_out=0.0), tmp_path / "run")
    assert read_metrics(tmp_path / "run")[0]["clipped_actions"] > 12  # of 4 windows of 2 steps of 3 dimensions


def test_a_run_folder_that_cannot_be_written_shows_before_the_first_update(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SaveError, match=r"could not save .*file/run"):
        train(make_source(*LENGTHS), short(), tmp_path / "file" / "run")


def test_a_run_is_trained_by_one_process_at_a_time(make_source: MakeSource, short: MakeConfig, tmp_path: Path) -> None:
    run, refused = tmp_path / "run", []

    def train_too() -> None:
        with pytest.raises(LockedError, match=r"run is in use by process \d+ on"):
            train(make_source(*LENGTHS), short(), run)
        refused.append(read_metrics(run))

    config = short(updates=4)
    assert train(make_source(*LENGTHS, before_read=_At(3 * 4, train_too)), config, run).finished
    assert len(refused) == 1
    assert [record["update"] for record in _records(run)] == [1, 2, 3, 4]
    with working_in(run, ours=RUN_FILES):  # another one may go on
        assert (run / "last").is_dir()


def test_a_run_is_not_written_into_a_data_set(
    make_source: MakeSource, short: MakeConfig, write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_source(3, 2)
    data = write_recording(tmp_path / "data", source)
    before = sorted(data.iterdir())
    with pytest.raises(SaveError, match=r"data holds dataset_info\.json, .* and none of last, best"):
        train(source, short(), data)
    assert sorted(data.iterdir()) == before


def test_a_disk_that_fills_up_loses_nothing_already_saved(
    make_source: MakeSource,
    short: MakeConfig,
    tmp_path: Path,
    whole: tuple[Path, RunResult],
    full_disk: Callable[[int], None],
) -> None:
    held_out = prepare_data(make_source(*LENGTHS), short()).held_out_episodes.tolist()
    filling = make_source(*LENGTHS, before_read=_AtValidation(held_out, lambda: full_disk(32 * 1024)))
    with pytest.raises(SaveError, match=r"could not save .*run/best: .*. What was there before is untouched"):
        train(filling, short(save_every=3), tmp_path / "run")
    assert load_training(tmp_path / "run").progress["update"] == 3
    full_disk(-1)
    train(make_source(*LENGTHS), short(), tmp_path / "run")
    _assert_same_run(tmp_path / "run", whole[0])


def test_a_run_with_an_average_stops_and_goes_on_exactly(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    config = short(average=AverageSettings(decay=0.8))
    train(make_source(*LENGTHS), config, tmp_path / "whole")
    stopped = train(make_source(*LENGTHS, before_read=_At(7 * 4, _raise_sigint)), config, tmp_path / "stopped")
    assert not stopped.finished
    train(make_source(*LENGTHS), config, tmp_path / "stopped")
    _assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    losses, plain = ([record["loss"] for record in _records(run)] for run in (tmp_path / "whole", whole[0]))
    assert losses == plain  # the average watches


def test_a_checkpoint_holds_the_average_to_act_with_and_the_weights_to_go_on_from(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    run = tmp_path / "run"
    train(make_source(*LENGTHS), short(average=AverageSettings(decay=0.8)), run)
    plain, name = load_file(whole[0] / "last" / "model.safetensors"), "transformer.output.weight"
    averaged, own = load_file(run / "last" / "model.safetensors"), load_file(run / "last" / "training.safetensors")
    assert torch.equal(own[f"weights/{name}"], plain[name])
    assert not torch.equal(averaged[name], plain[name])
    held_out = prepare_data(make_source(*LENGTHS), short()).held_out
    assert held_out is not None
    measured = _records(run)[-1]["heldout_loss"]
    assert validate(load_model(run), held_out)["heldout_loss"] == pytest.approx(measured, rel=1e-5)
    assert measured != _records(whole[0])[-1]["heldout_loss"]


def test_an_average_can_be_switched_on_and_off_on_the_way(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path, whole: tuple[Path, RunResult]
) -> None:
    averaged, run = AverageSettings(decay=0.8), tmp_path / "run"
    losses = [record["loss"] for record in _records(whole[0])]
    for stop, average in ((4, AverageSettings()), (8, averaged), (12, AverageSettings())):
        stopping = make_source(*LENGTHS, before_read=_At(stop * 4 - 3, _raise_sigint)) if stop < 12 else None
        train(stopping or make_source(*LENGTHS), short(average=average), run, allow_changes=True)
    assert [record["loss"] for record in _records(run)] == losses
    plain = load_file(whole[0] / "last" / "model.safetensors")
    assert all(
        torch.equal(tensor, plain[name]) for name, tensor in load_file(run / "last" / "model.safetensors").items()
    )
