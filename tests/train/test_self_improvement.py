"""Learning from itself: rounds, what they keep, how they go on."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rt1.checkpoint import load_info
from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import EpisodeSource, has_corrections
from rt1.envs.metaworld import MetaWorldSuite
from rt1.envs.registry import suite_to_json
from rt1.errors import DataError
from rt1.evaluate import closed_loop
from rt1.evaluate.results import SuccessCount
from rt1.presets import preset
from rt1.report.self_improvement import results_json, write_report
from rt1.simulate.record import RecordSettings, record
from rt1.simulate.trials import TrialPlan, TrialResult, run_trials
from rt1.text.encoder import TableEncoder
from rt1.train.config import TrainConfig
from rt1.train.self_improvement import STATE_FILE, Improvement, ImproveSettings, Round, _Loop, improve, success

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


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    debug = preset("debug")
    return replace(debug, model=replace(debug.model, readout="last_token"), batch_size=2, log_every=1)


@pytest.fixture(scope="module")
def steady(make_steady: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_steady(tmp_path_factory.mktemp("steady"))


@pytest.fixture(scope="module")
def run_in(recorded: Path, config: TrainConfig, table: TableEncoder, steady: Path) -> Callable[..., Improvement]:
    def call(folder: Path, **changed: object) -> Improvement:
        wanted = replace(WANTED, **changed)  # type: ignore[arg-type]
        return improve(RLDSSource(recorded), config, folder, wanted=wanted, encoder=table, checkpoint=steady)

    return call


@pytest.fixture
def run(run_in: Callable[..., Improvement], tmp_path: Path) -> Callable[..., Improvement]:
    return partial(run_in, tmp_path / "out")


@pytest.fixture(scope="module")
def one_round(run_in: Callable[..., Improvement], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Improvement]:
    """A folder with one round that has no baseline."""
    folder = tmp_path_factory.mktemp("one") / "out"
    return folder, run_in(folder, control=False, trials=1)


@pytest.fixture(scope="module")
def corrected(run_in: Callable[..., Improvement], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Improvement]:
    """A folder with one round of corrections."""
    folder = tmp_path_factory.mktemp("corrected") / "out"
    return folder, run_in(folder, expert=True, tries=2, trials=1)


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


def test_a_round_of_corrections_trains_on_them_and_its_checkpoint_says_so(
    corrected: tuple[Path, Improvement], small_world: MetaWorldSuite
) -> None:
    folder, improvement = corrected
    after = improvement.rounds[1]
    assert after.attempts == {HANDLE: 5}
    assert 1 <= after.kept[HANDLE] <= 5
    assert after.failures[HANDLE] >= 5 - after.kept[HANDLE]
    details = RLDSSource(folder / "round-1" / "own").details
    assert details["round"] == 1
    assert has_corrections(details)
    improved, control = (load_info(folder / "round-1" / name).provenance for name in ("improved", "control"))
    assert (has_corrections(improved), has_corrections(control)) == (True, False)
    assert improved["env"] == control["env"] == suite_to_json(small_world)
    assert results_json(improvement)["row"] == "with expert corrections"


def _spent_after(folder: Path) -> property:
    def budget_is_spent(_: _Loop) -> bool:
        return folder.is_dir()

    return property(budget_is_spent)


def test_a_budget_that_ends_in_a_round_resumes_to_the_same_result(
    corrected: tuple[Path, Improvement],
    run: Callable[..., Improvement],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, whole = corrected
    own, trained = (tmp_path / "out" / "round-1" / name for name in ("own", "improved"))
    for last, missing in ((own, trained), (trained, trained.with_name("control"))):
        with monkeypatch.context() as patch:
            patch.setattr(_Loop, "budget_is_spent", _spent_after(last))
            assert not run(expert=True, tries=2, trials=1).finished
        assert last.is_dir()
        assert not missing.exists()
    assert run(expert=True, tries=2, trials=1).rounds == whole.rounds
    weights = [out / "round-1" / "improved" / "last" / "model.safetensors" for out in (folder, tmp_path / "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_improvement_without_newer_settings_resumes(
    one_round: tuple[Path, Improvement], run: Callable[..., Improvement], tmp_path: Path
) -> None:
    first = one_round[1]
    shutil.copytree(one_round[0], tmp_path / "out")
    file = tmp_path / "out" / STATE_FILE
    state = json.loads(file.read_text())
    del state["settings"]["expert"]
    for earlier in state["rounds"]:
        del earlier["failures"]
    file.write_text(json.dumps(state))
    assert run(control=False, trials=1).rounds[0] == first.rounds[0]
    with pytest.raises(ValueError, match=r"expert: False then, True now"):
        run(control=False, trials=1, expert=True)


def test_tasks_that_fail_more_often_get_more_corrections(
    recorded: Path, config: TrainConfig, table: TableEncoder, small_world: MetaWorldSuite, tmp_path: Path
) -> None:
    def attempts(*, expert: bool) -> dict[str, int]:
        trials = [SuccessCount(task="easy", trials=8, successes=8), SuccessCount(task="hard", trials=8, successes=4)]
        loop = _Loop(
            recorded=RLDSSource(recorded),
            config=config,
            folder=tmp_path,
            settings=replace(WANTED, tasks=("easy", "hard"), attempts=6, expert=expert),
            suite=small_world,
            encoder=table,
            initial=None,
            rounds=[Round(number=0, attempts={}, kept={}, improved=tuple(trials), control=())],
        )
        return loop._attempts()

    assert attempts(expert=True) == {"easy": 2, "hard": 10}
    assert attempts(expert=False) == {"easy": 6, "hard": 6}


def test_a_task_without_an_expert_is_refused_by_name(
    run: Callable[..., Improvement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetaWorldSuite, "expert", lambda *_: None)
    with pytest.raises(ValueError, match=rf"^{HANDLE} .* expert"):
        run(expert=True)
    assert not (tmp_path / "out").exists()


def test_a_finished_improvement_is_not_done_again_and_can_be_taken_further(
    one_round: tuple[Path, Improvement], run: Callable[..., Improvement], tmp_path: Path
) -> None:
    first = one_round[1]
    shutil.copytree(one_round[0], tmp_path / "out")
    state = (tmp_path / "out" / STATE_FILE).read_text()
    again = run(control=False, trials=1)
    assert again.rounds == first.rounds
    assert json.loads(state)["rounds"] == json.loads((tmp_path / "out" / STATE_FILE).read_text())["rounds"]
    assert first.rounds[-1].control == ()
    further = run(control=False, trials=1, rounds=2)  # two own data sets and the recorded one
    assert further.rounds[:2] == first.rounds
    assert len(further.rounds) == 3


def test_a_spent_budget_ends_it_between_rounds_and_a_larger_one_goes_on(run: Callable[..., Improvement]) -> None:
    short = run(cpu_minutes=1e-9, control=False, trials=1)
    assert not short.finished
    assert len(short.rounds) == 1
    assert run(control=False, trials=1).finished


def test_interrupted_trials_resume(
    run: Callable[..., Improvement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def first_plans(plans: Sequence[TrialPlan], **arguments: Any) -> Iterator[list[TrialResult]]:
        counts.append(len(plans))
        yield from run_trials(plans[:1], **arguments)
        if plans[1:]:
            raise KeyboardInterrupt

    monkeypatch.setattr(closed_loop, "run_trials", first_plans)
    monkeypatch.setattr(_Loop, "budget_is_spent", property(lambda loop: bool(loop.rounds)))
    with pytest.raises(KeyboardInterrupt):
        run(control=False, trials=6)
    assert [path.name for path in (tmp_path / "out" / "round-0").iterdir()] == ["steady-trials.jsonl"]
    assert run(control=False, trials=6).rounds[0].improved[0].trials == 6
    assert counts == [2, 1]
    assert not [*(tmp_path / "out" / "round-0").iterdir()]


def test_an_improvement_that_was_moved_in_a_round_resumes(
    run: Callable[..., Improvement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tmp_path / "out" / "round-2" / "improved"
    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "budget_is_spent", _spent_after(trained))
        assert not run(rounds=2, control=False, trials=1).finished
    (trained / "run.json").write_text((trained / "run.json").read_text().replace(str(tmp_path), "/elsewhere"))
    for file in trained.rglob("training.json"):
        file.write_text(file.read_text().replace(str(tmp_path), "/elsewhere"))
    assert run(rounds=2, control=False, trials=1).finished
    (tmp_path / "out" / "round-1" / "own" / "rt1.json").unlink()
    state = json.loads((tmp_path / "out" / STATE_FILE).read_text())
    (tmp_path / "out" / STATE_FILE).write_text(json.dumps({**state, "rounds": state["rounds"][:1]}))
    with pytest.raises(DataError, match=r"round-1/own lacks rt1\.json.*Remove it"):
        run(rounds=2, control=False, trials=1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rounds": [{"number": 1, "attempts": {}, "kept": {}, "improved": [], "control": []}]}, "round 0 is another"),
        ({"rounds": [{"number": 0, "attempts": {}, "kept": {}, "improved": [], "control": []}]}, "of other tasks"),
        ({"cpu_seconds": {"train": float("nan")}}, "finite"),
    ],
)
def test_a_damaged_state_is_refused(
    change: dict[str, object], problem: str, run: Callable[..., Improvement], tmp_path: Path
) -> None:
    run(cpu_minutes=1e-9, control=False, trials=1)
    file = tmp_path / "out" / STATE_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=problem):
        run(control=False, trials=1)


def test_another_setting_in_the_same_folder_is_refused(run: Callable[..., Improvement]) -> None:
    run(cpu_minutes=1e-9, trials=1)
    with pytest.raises(ValueError, match=r"begun with other settings \(trials: 1 then, 3 now\). Give the old ones"):
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
    with pytest.raises(ModuleNotFoundError, match=r"Meta-World is not installed. Run: pip install 'rt1\[metaworld\]'"):
        improve(RLDSSource(recorded), config, tmp_path / "out", wanted=WANTED, encoder=table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"tries": 0}, {"patience": 0.5}, {"own_share": 1.0}, {"seed": -1}, {"cpu_minutes": -1.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ImproveSettings(**wrong)  # type: ignore[arg-type]
