"""Recording: reproducible to the byte, resumable, successes only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.rlds.tfrecord import int_values, map_file, scan_example, scan_records
from rt1.data.sources.images import decode_image
from rt1.envs.base import recorded_sentences
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldEnv, MetaWorldSuite
from rt1.envs.registry import suite_to_json
from rt1.errors import DataError
from rt1.simulate import record as recorder
from rt1.simulate.record import RecordSettings, record, record_episode
from rt1.simulate.rollout import Expert, RandomActions
from rt1.text.encoder import TableEncoder

SENTENCES = ("open the drawer", "close the drawer")
ENV = MetaWorldSuite(config=MetaWorldConfig(image_size=16))
FAUCETS = RecordSettings(
    tasks=("faucet-open", "faucet-close"), episodes=2, seed=5, noise=0.3, workers=1, episodes_per_shard=1
)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def recorded(gl: str, table: TableEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of two tasks in four shards, recorded by one process."""
    assert gl
    folder = tmp_path_factory.mktemp("recorded") / "set"
    report = record(folder, suite=ENV, settings=FAUCETS, encoder=table)
    assert (report.folder, report.recorded, list(report.rejected)) == (folder, 4, ["faucet-open-v3", "faucet-close-v3"])
    return folder


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    (tmp_path / "copy").mkdir()
    for name, data in _files(recorded).items():
        (tmp_path / "copy" / name).write_bytes(data)
    return tmp_path / "copy"


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(
    recorded: Path, table: TableEncoder, tmp_path: Path
) -> None:
    record(tmp_path / "two", suite=ENV, settings=dataclasses.replace(FAUCETS, workers=2), encoder=table)
    assert _files(tmp_path / "two") == _files(recorded)


def test_another_seed_gives_other_episodes(recorded: Path, table: TableEncoder, tmp_path: Path) -> None:
    settings = dataclasses.replace(FAUCETS, tasks=("faucet-open",), episodes=1, seed=6)
    record(tmp_path / "other", suite=ENV, settings=settings, encoder=table)
    other, first = RLDSSource(tmp_path / "other").actions(0, 0, 5), RLDSSource(recorded).actions(0, 0, 5)
    assert not np.array_equal(other, first)


def test_what_was_recorded_reads_back_as_steps_of_the_tasks(recorded: Path, table: TableEncoder) -> None:
    source = RLDSSource(recorded)
    sentences = [s for task in FAUCETS.tasks for s in recorded_sentences(ENV, task)]
    assert [source.task(e) for e in range(4)] == ["faucet-open-v3"] * 2 + ["faucet-close-v3"] * 2
    assert [source.instruction(e) for e in range(4)] == sentences
    assert source.text_encoder == table.identity.to_json()
    assert source.details["env"] == suite_to_json(ENV)
    for episode, steps in enumerate(source.lengths):
        (image,) = source.encoded_images(episode, 0, 1)
        assert decode_image(image).shape == (16, 16, 3)
        embedding = source.text_embedding(episode)
        np.testing.assert_array_equal(embedding, table.encode([sentences[episode]])[0])
        assert not source.action_spec.out_of_bounds(source.actions(episode, 0, int(steps))).any()


def _metadata(folder: Path, name: str) -> list[int]:
    """Return an integer of the metadata of every episode, read from the records themselves."""
    key = f"episode_metadata/{name}".encode()
    values = []
    for shard in sorted(folder.glob("*.tfrecord-*")):
        data = map_file(shard)
        for start, stop in scan_records(shard, data):
            _, first, end = scan_example(data, start, stop, frozenset([key]))[key]
            values += int_values(data, first, end).tolist()
    return values


def test_recordings_take_even_seeds_which_no_trial_does(recorded: Path) -> None:
    seeds = _metadata(recorded, "seed")
    assert len(seeds) == 4
    assert all(seed % 2 == 0 for seed in seeds)
    assert _metadata(recorded, "episode_id") == [0, 1, 2, 3]


def test_an_interrupted_recording_is_refused_by_the_reader_and_resumes_to_the_same_bytes(
    recorded: Path, copied: Path, table: TableEncoder
) -> None:
    for path in [*copied.glob("*-00002-of-00004"), copied / "rt1.json", copied / "features.json"]:
        path.unlink()
    with pytest.raises(
        DataError, match=r"recording not finished: 3 of 4 shards\. Run the same record command again to resume"
    ):
        RLDSSource(copied)
    report = record(copied, suite=ENV, settings=FAUCETS, encoder=table)
    assert report.recorded == 1
    assert _files(copied) == _files(recorded)


def test_a_shard_that_is_missing_is_noticed_even_beside_the_metadata(copied: Path) -> None:
    next(copied.glob("*-00002-of-00004")).unlink()
    with pytest.raises(DataError, match=r"1 of 4 shards are missing, the first is .*00002-of-00004"):
        RLDSSource(copied)


def test_recording_again_records_nothing_and_changes_nothing(recorded: Path, copied: Path, table: TableEncoder) -> None:
    assert record(copied, suite=ENV, settings=FAUCETS, encoder=table).recorded == 0
    assert _files(copied) == _files(recorded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "'seed': 5.*now.*'seed': 6"),
        ({"noise": 0.5}, "'noise': 0.3.*now.*'noise': 0.5"),
        ({"episodes": 3}, "episodes was 4, now 6"),
        ({"tasks": ("faucet-close", "faucet-open")}, "details was"),
        ({"jpeg_quality": 90}, "'jpeg_quality': 90"),
    ],
)
def test_a_folder_begun_with_other_settings_is_refused_and_left_as_it_was(
    recorded: Path, table: TableEncoder, change: dict[str, Any], message: str
) -> None:
    before = _files(recorded)
    with pytest.raises(DataError, match=f"begun with other settings: .*{message}"):
        record(recorded, suite=ENV, settings=dataclasses.replace(FAUCETS, **change), encoder=table)
    assert _files(recorded) == before


def test_a_folder_begun_with_other_images_is_refused(recorded: Path, table: TableEncoder) -> None:
    suite = MetaWorldSuite(config=MetaWorldConfig(image_size=24))
    with pytest.raises(DataError, match=r"image_size was \[16, 16\], now \[24, 24\]"):
        record(recorded, suite=suite, settings=FAUCETS, encoder=table)


def test_only_successes_are_kept_and_the_rejected_are_counted(gl: str, table: TableEncoder, tmp_path: Path) -> None:
    assert gl
    settings = RecordSettings(tasks=("hammer",), episodes=1, noise=2.0, workers=1)
    report = record(tmp_path / "set", suite=ENV, settings=settings, encoder=table)
    (seed,) = _metadata(tmp_path / "set", "seed")
    attempt = seed // 2
    assert _metadata(tmp_path / "set", "success") == [1]
    assert report.rejected == {"hammer-v3": attempt}
    assert attempt > 0


def test_an_expert_that_never_succeeds_is_one_line_with_the_cure(
    gl: str, table: TableEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gl
    monkeypatch.setattr(recorder, "MOST_ATTEMPTS", 2)
    suite = MetaWorldSuite(config=MetaWorldConfig(image_size=16, control_rate=1.0))
    settings = RecordSettings(tasks=("peg-insert-side",), episodes=1, noise=2.0, workers=1)
    with pytest.raises(
        ValueError, match=r"the expert of peg-insert-side-v3 failed 2 times .* Lower the noise \(2.0\) or raise"
    ):
        record(tmp_path / "set", suite=suite, settings=settings, encoder=table)
    with pytest.raises(ValueError, match=r"failed 2 times .* control rate") as caught:
        record(tmp_path / "other", suite=suite, settings=dataclasses.replace(settings, noise=0.0), encoder=table)
    assert "noise" not in str(caught.value)


def test_a_failing_expert_ends_the_recording_with_its_name_and_keeps_the_files_before(
    recorded: Path, table: TableEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(env: MetaWorldEnv, *arguments: Any, **settings: Any) -> Any:
        steps = record_episode(env, *arguments, **settings)
        return dataclasses.replace(steps, success=steps.success and env.task != "faucet-close-v3")

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "record_episode", failing)
        with pytest.raises(ValueError, match="faucet-close-v3 failed 50 times"):
            record(tmp_path / "set", suite=ENV, settings=FAUCETS, encoder=table)
    assert record(tmp_path / "set", suite=ENV, settings=FAUCETS, encoder=table).recorded == 2
    assert _files(tmp_path / "set") == _files(recorded)


def test_an_unknown_task_is_refused_before_anything_is_written(table: TableEncoder, tmp_path: Path) -> None:
    settings = dataclasses.replace(FAUCETS, tasks=("faucet-open", "faucet-clsoe"))
    with pytest.raises(ValueError, match="did you mean 'faucet-close'"):
        record(tmp_path / "set", suite=ENV, settings=settings, encoder=table)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "change",
    [{"tasks": ()}, {"tasks": ("reach", "reach")}, {"episodes": 0}, {"seed": -1}, {"noise": 2.5}, {"jpeg_quality": 0}],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"none twice|must be"):
        dataclasses.replace(FAUCETS, **change)


def test_an_episode_stores_the_experts_action_and_executes_a_noisy_one(make_env: Callable[..., Any]) -> None:
    env = make_env()
    steps = record_episode(env, Expert(env.expert_action), seed=8, noise=1.0)
    executed = np.stack(env.executed)
    assert len(steps.images) == len(steps.actions) == len(executed)
    assert steps.actions.dtype == np.float32
    assert not np.array_equal(steps.actions[:, :2], executed[:, :2])
    assert not env.action_spec.out_of_bounds(executed).any()


def test_an_episode_without_noise_executes_what_it_stores(make_env: Callable[..., Any]) -> None:
    env = make_env()
    steps = record_episode(env, Expert(env.expert_action), seed=8)
    assert steps.success
    np.testing.assert_array_equal(steps.actions, env.executed)
    env.reset(8)
    for image, action in zip(steps.images, steps.actions, strict=True):
        difference = decode_image(image).astype(int) - env._observe().image
        assert np.abs(difference).mean() < 10  # the image that the action was chosen at, but for JPEG
        np.testing.assert_array_equal(env.expert_action(), action)
        env.step(action)


def test_the_layout_of_a_recording_is_told_by_its_own_file(recorded: Path) -> None:
    layout = RLDSLayout.from_json(json.loads((recorded / "rt1.json").read_text())["layout"])
    assert layout == RLDSSource(recorded).layout


def test_a_task_without_an_expert_is_refused_before_anything_is_written(
    make_suite: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"far of points .*expert"):
        record(tmp_path / "set", suite=make_suite(), settings=RecordSettings(tasks=("near", "far")), encoder=table)
    assert not (tmp_path / "set").exists()


def _still(env: Any) -> RandomActions:
    """Return a controller that hardly ever succeeds."""
    return RandomActions(env.action_spec, seed=0)


def test_a_controller_of_ones_own_is_recorded_and_its_failures_where_they_are_asked_for(
    make_suite: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    settings = RecordSettings(tasks=("far",), episodes=4, workers=1, keep_failures=True)  # a task without an expert
    report = record(tmp_path / "set", suite=make_suite(), settings=settings, encoder=table, controller=_still)
    assert (report.recorded, report.rejected) == (4, {"far": 0})
    assert 0 in _metadata(tmp_path / "set", "success")
    assert RLDSSource(tmp_path / "set").details["keep_failures"] is True


def test_an_instruction_that_only_reset_tells_is_recorded_with_its_embedding(
    make_suite: Callable[..., Any], make_env: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    suite = make_suite(task_sentences={"near": ()}, make_env=_told_at_reset(make_env))
    record(
        tmp_path / "set", suite=suite, settings=RecordSettings(tasks=("near",), episodes=3, workers=1), encoder=table
    )
    source = RLDSSource(tmp_path / "set")
    assert {source.instruction(episode) for episode in range(3)} <= set(SENTENCES)
    for episode in range(3):
        np.testing.assert_array_equal(source.text_embedding(episode), table.encode([source.instruction(episode)])[0])


def test_an_instruction_that_changes_within_a_recorded_episode_is_refused(make_env: Callable[..., Any]) -> None:
    env = make_env()
    step = env.step

    def change(action: Any) -> Any:
        env.instruction = SENTENCES[1]
        return step(action)

    env.step = change
    with pytest.raises(ValueError, match=f"'{SENTENCES[0]}' to '{SENTENCES[1]}'.*one"):
        record_episode(env, _still(env), seed=1)


def _told_at_reset(make_env: Callable[..., Any]) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        env = make_env(**options)
        reset = env.reset

        def told(seed: int) -> Any:
            env.instruction = SENTENCES[seed // 2 % 2]
            return reset(seed)

        env.reset = told
        return env

    return make
