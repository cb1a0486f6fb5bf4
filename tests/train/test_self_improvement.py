"""Learning from itself: rounds, what they keep, how they go on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rt1.checkpoint import load_info
from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import EpisodeSource
from rt1.envs.metaworld import MetaWorldSuite
from rt1.errors import DataError
from rt1.presets import preset
from rt1.report.self_improvement import results_json, write_report
from rt1.simulate.record import RecordSettings, record
from rt1.text.encoder import TableEncoder
from rt1.train.config import TrainConfig
from rt1.train.self_improvement import STATE_FILE, Improvement, ImproveSettings, improve, success

HANDLE = "handle-press-v3"
WANTED = ImproveSettings(
    rounds=1, attempts=5, tries=1, noise=0.2, patience=9.0, first_updates=2, updates=2, trials=2, workers=1
)


@pytest.fixture(scope="module")
def recorded(
    gl: str, small_world: MetaWorldSuite, table: TableEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    assert gl
    folder = tmp_path_factory.mktemp("improve") / "recorded"
    how = RecordSettings(tasks=("handle-press",), episodes=2, workers=1)
    record(folder, suite=small_world, settings=how, encoder=table)
    return folder


@pytest.fixture
def config() -> TrainConfig:
    debug = preset("debug")
    return replace(debug, model=replace(debug.model, readout="last_token"), batch_size=2, log_every=1)


@pytest.fixture
def run(
    recorded: Path, config: TrainConfig, table: TableEncoder, steady: Path, tmp_path: Path
) -> Callable[..., Improvement]:
    def call(**changed: object) -> Improvement:
        wanted = replace(WANTED, **changed)  # type: ignore[arg-type]
        source = RLDSSource(recorded)
        return improve(source, config, tmp_path / "out", wanted=wanted, encoder=table, checkpoint=steady)

    return call


def test_a_round_keeps_successes_learns_from_them_and_compares(
    run: Callable[..., Improvement], steady: Path, tmp_path: Path
) -> None:
    found = run()
    assert found.finished
    before, after = found.rounds
    assert [counted.task for counted in before.improved] == [HANDLE]
    assert before.improved == before.control
    assert after.attempts == {HANDLE: 5}
    assert 1 <= after.kept[HANDLE] <= 5
    own = RLDSSource(tmp_path / "out" / "round-1" / "own")
    assert len(own.lengths) == after.kept[HANDLE]
    assert own.details["made_by"]["policy"] == str(steady)
    improved, control = (load_info(tmp_path / "out" / "round-1" / arm).provenance for arm in ("improved", "control"))
    assert improved["update"] == control["update"] == 2
    assert improved["episodes"] == control["episodes"] + after.kept[HANDLE]
    assert set(found.cpu_seconds) == {"collect", "train", "trials"}
    figures = results_json(found)
    assert figures["rounds"][1]["improved_success"] == success(after.improved)
    page = write_report(found, command="rt1 improve").read_text()
    assert f"{after.kept[HANDLE]}</td>" in page


def test_a_finished_improvement_is_not_done_again_and_can_be_taken_further(
    run: Callable[..., Improvement], tmp_path: Path
) -> None:
    first = run(control=False, trials=1)
    state = (tmp_path / "out" / STATE_FILE).read_text()
    again = run(control=False, trials=1)
    assert again.rounds == first.rounds
    assert json.loads(state)["rounds"] == json.loads((tmp_path / "out" / STATE_FILE).read_text())["rounds"]
    assert first.rounds[-1].control == ()
    further = run(control=False, trials=1, rounds=3)  # three own data sets beside the recorded one
    assert further.rounds[:2] == first.rounds
    assert len(further.rounds) == 4


def test_a_spent_budget_ends_it_between_rounds_and_a_larger_one_goes_on(run: Callable[..., Improvement]) -> None:
    short = run(cpu_minutes=1e-9, control=False, trials=1)
    assert not short.finished
    assert len(short.rounds) == 1
    assert run(control=False, trials=1).finished


def test_another_setting_in_the_same_folder_is_refused(run: Callable[..., Improvement]) -> None:
    run(cpu_minutes=1e-9, trials=1)
    with pytest.raises(ValueError, match=r"begun with other settings \(trials: 1 then, 3 now\); give the old ones"):
        run(trials=3)


def test_a_folder_in_which_nothing_was_done_takes_other_settings(
    run: Callable[..., Improvement], steady: Path, tmp_path: Path
) -> None:
    weights = steady / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"torn")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        run(trials=1)
    assert (tmp_path / "out" / STATE_FILE).is_file()
    weights.write_bytes(whole)
    assert not run(cpu_minutes=1e-9, trials=2).finished  # nor refused


def test_data_that_do_not_say_their_environment_are_refused(
    config: TrainConfig, table: TableEncoder, make_source: Callable[..., EpisodeSource], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="does not say its environment"):
        improve(make_source(), config, tmp_path, wanted=WANTED, encoder=table)


def test_a_simulator_that_is_missing_is_named_before_anything_is_trained(
    recorded: Path, config: TrainConfig, table: TableEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"Meta-World is not installed; run: pip install 'rt1\[metaworld\]'"):
        improve(RLDSSource(recorded), config, tmp_path / "out", wanted=WANTED, encoder=table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"tries": 0}, {"patience": 0.5}, {"own_share": 1.0}, {"seed": -1}, {"cpu_minutes": -1.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ImproveSettings(**wrong)  # type: ignore[arg-type]
