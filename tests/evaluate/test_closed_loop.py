"""Counting successes of a policy, and of what it is compared with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.checkpoint import load_info
from rt1.envs.base import recorded_sentences
from rt1.envs.metaworld import MetaWorldSuite
from rt1.evaluate import closed_loop
from rt1.evaluate.closed_loop import TrialSettings, _plans, check_env_fits, evaluate_closed_loop
from rt1.policy.policy import ActingSettings
from rt1.text.encoder import TableEncoder

pytest.importorskip("metaworld", reason="Meta-World is not installed")
pytest.importorskip("av", reason="PyAV, which writes the videos, is not installed")

FAUCETS = TrialSettings(tasks=("faucet-open", "faucet-close"), trials=1, workers=1)


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "run" / "last")


def test_everything_is_tried_on_every_task(
    gl: str, checkpoint: Path, small_world: MetaWorldSuite, table: TableEncoder
) -> None:
    assert gl
    result = evaluate_closed_loop(checkpoint, suite=small_world, settings=FAUCETS, encoder=table)
    opened, closed = result.tasks
    assert (opened.task, closed.task) == ("faucet-open-v3", "faucet-close-v3")
    assert opened.instruction == small_world.sentences("faucet-open")[0]
    for task in result.tasks:
        assert task.trials == 1
        assert {task.expert, task.blind, task.random} <= {0.0, 1.0}
        assert 1 <= task.mean_steps <= 25
        assert (task.failure_video is None, task.success_video is None) == (task.success == 1.0, task.success == 0.0)
    assert [(r.task, r.instruction) for r in result.swapped] == [
        ("faucet-open-v3", closed.instruction),
        ("faucet-close-v3", opened.instruction),
    ]
    assert [r.instruction for r in result.paraphrases] == [small_world.sentences(t.task)[-1] for t in result.tasks]
    for paraphrase in result.paraphrases:
        assert paraphrase.instruction not in recorded_sentences(small_world, paraphrase.task)


def test_more_trials_than_one_plan_holds_are_counted_once_each_and_what_is_not_asked_for_is_not_run(
    gl: str, checkpoint: Path, small_world: MetaWorldSuite, table: TableEncoder
) -> None:
    assert gl
    settings = TrialSettings(
        tasks=("faucet-open",), trials=6, baselines=False, swapped=False, paraphrases=False, workers=1
    )
    result = evaluate_closed_loop(checkpoint, suite=small_world, settings=settings, encoder=table)
    (task,) = result.tasks
    assert task.trials == 6
    assert (task.expert, task.blind, task.random) == (None, None, None)
    assert (result.swapped, result.paraphrases) == ((), ())


def test_a_task_whose_twin_is_not_tried_has_no_swapped_trials(
    gl: str, checkpoint: Path, small_world: MetaWorldSuite, table: TableEncoder
) -> None:
    assert gl
    settings = TrialSettings(tasks=("faucet-open",), trials=1, baselines=False, paraphrases=False, workers=1)
    assert evaluate_closed_loop(checkpoint, suite=small_world, settings=settings, encoder=table).swapped == ()


def test_an_unknown_task_is_refused_with_the_one_that_was_meant(
    checkpoint: Path, small_world: MetaWorldSuite, table: TableEncoder
) -> None:
    with pytest.raises(ValueError, match="did you mean 'faucet-open'"):
        evaluate_closed_loop(
            checkpoint, suite=small_world, settings=TrialSettings(tasks=("faucet-opne",)), encoder=table
        )


@pytest.mark.parametrize("tasks", [(), ("reach", "reach")])
def test_no_task_and_a_task_named_twice_are_refused(
    checkpoint: Path, small_world: MetaWorldSuite, table: TableEncoder, tasks: tuple[str, ...]
) -> None:
    info = json.loads((checkpoint / "checkpoint.json").read_text())
    info["provenance"]["tasks"] = []
    (checkpoint / "checkpoint.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="Give at least one and none twice"):
        evaluate_closed_loop(checkpoint, suite=small_world, settings=TrialSettings(tasks=tasks), encoder=table)


def test_another_text_encoder_than_the_checkpoints_is_refused(checkpoint: Path, small_world: MetaWorldSuite) -> None:
    other = TableEncoder({"open": np.ones(8)}, "other")
    with pytest.raises(ValueError, match=r"the text encoder is 'other' .* but 'table' .* is needed"):
        evaluate_closed_loop(checkpoint, suite=small_world, settings=FAUCETS, encoder=other)


def test_a_checkpoint_that_names_no_encoder_asks_for_one(checkpoint: Path, small_world: MetaWorldSuite) -> None:
    info = json.loads((checkpoint / "checkpoint.json").read_text())
    (checkpoint / "checkpoint.json").write_text(json.dumps({**info, "text_encoder": None}))
    with pytest.raises(ValueError, match="names no text encoder"):
        evaluate_closed_loop(checkpoint, suite=small_world, settings=FAUCETS)


def test_a_policy_of_another_robot_is_refused_with_both_sets_of_dimensions(
    make_checkpoint: Callable[..., Path], small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "other", names=("left", "right"))
    with pytest.raises(ValueError, match="acts in left, right, the environment takes hand_x, hand_y, hand_z, gripper"):
        evaluate_closed_loop(folder, suite=small_world, settings=FAUCETS, encoder=table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrialSettings(tasks=("reach",), **change)


def test_the_policy_acts_with_the_engine_asked_for(
    gl: str, checkpoint: Path, small_world: MetaWorldSuite, table: TableEncoder
) -> None:
    assert gl
    acting = ActingSettings(device="nowhere")
    settings = TrialSettings(tasks=("faucet-open",), trials=1, baselines=False, acting=acting, workers=1)
    with pytest.raises(ValueError, match="the engine 'torch' cannot run on nowhere"):
        evaluate_closed_loop(checkpoint, suite=small_world, settings=settings, encoder=table)


def test_a_task_without_an_expert_has_random_actions_as_its_only_baseline(make_suite: Callable[..., Any]) -> None:
    plans = _plans(make_suite(), ("near", "far"), TrialSettings(tasks=("near", "far"), trials=1))
    kinds = {task: [plan.kind for plan in plans if plan.task == task] for task in ("near", "far")}
    assert kinds["near"] == ["policy", "swapped", "paraphrase", "expert", "blind", "random"]
    assert kinds["far"] == ["policy", "swapped", "random"]


def test_pictures_of_another_shape_than_the_trained_ones_are_refused_and_other_sizes_scaled(
    make_checkpoint: Callable[..., Path], make_suite: Callable[..., Any], tmp_path: Path
) -> None:
    names = ("move_0", "move_1", "move_2")
    info = load_info(make_checkpoint(tmp_path / "run", names=names))
    suite = make_suite()  # 16 x 16
    check_env_fits(dataclasses.replace(info, provenance={"image_size": [300, 300]}), suite, "near")
    with pytest.raises(ValueError, match="16 x 16, the policy was trained on 24 x 32"):
        check_env_fits(dataclasses.replace(info, provenance={"image_size": [24, 32]}), suite, "near")


def test_instructions_that_only_the_environment_knows_reach_the_policy(
    make_checkpoint: Callable[..., Path],
    make_suite: Callable[..., Any],
    make_env: Callable[..., Any],
    table: TableEncoder,
    tmp_path: Path,
) -> None:
    def make(**options: Any) -> Any:
        env = make_env(**options)
        reset = env.reset

        def told(seed: int) -> Any:
            env.instruction = ("open the drawer", "close the drawer")[seed // 2 % 2]
            return reset(seed)

        env.reset = told
        return env

    names = ("move_0", "move_1", "move_2")
    suite = make_suite(task_sentences={"near": ()}, make_env=make, max_steps=2)
    settings = TrialSettings(tasks=("near",), trials=2, workers=1)
    result = evaluate_closed_loop(
        make_checkpoint(tmp_path / "run", names=names), suite=suite, settings=settings, encoder=table
    )
    assert [(task.trials, task.instruction) for task in result.tasks] == [(2, "known after reset only")]
    assert not result.swapped
    assert not result.paraphrases


def test_the_shown_trials_go_into_a_file_for_rerun_with_scene_and_attention(
    gl: str,
    checkpoint: Path,
    small_world: MetaWorldSuite,
    table: TableEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gl
    episodes: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(closed_loop, "check_rerun_target", lambda _: None)
    monkeypatch.setattr(
        closed_loop, "write_rerun", lambda _path, _title, shown: episodes.extend((e.name, [*e.steps]) for e in shown)
    )
    settings = TrialSettings(
        tasks=("faucet-open",), trials=2, baselines=False, swapped=False, paraphrases=False, workers=1
    )
    settings = dataclasses.replace(settings, rerun=tmp_path / "trials.rrd")
    (task,) = evaluate_closed_loop(checkpoint, suite=small_world, settings=settings, encoder=table).tasks
    assert task.successes == 0
    ((name, steps),) = episodes
    assert name == "faucet-open-v3/failure_0"
    for step in steps:
        assert (step.image.shape, step.picture.shape) == ((16, 16, 3), (480, 480, 3))
        assert step.predicted.shape == (4,)
        assert step.attention.sum(axis=(1, 2)) == pytest.approx(1.0, abs=1e-4)
