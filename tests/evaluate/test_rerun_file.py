"""Files for the Rerun viewer: what they hold, and which targets are refused."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.errors import SaveError
from rt1.evaluate.rerun_file import (
    check_rerun_target,
    predicted_episode,
    recorded_episode,
    trial_episode,
    write_rerun,
)
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.simulate.rollout import Rollout
from rt1.simulate.trials import TrialPlan, TrialResult
from rt1.text.encoder import TableEncoder


@pytest.fixture
def policy(make_source: Callable[..., Any], make_network: Callable[..., RT1], table: TableEncoder) -> Policy:
    spec = make_source(2).action_spec
    return Policy(make_network(), spec, encode_text=lambda text: table.encode([text])[0])


def test_another_ending_a_missing_package_and_a_file_that_exists_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_rerun_target(None)
    with pytest.raises(ValueError, match=r"page\.html.*\.rrd"):
        check_rerun_target(tmp_path / "page.html")
    (tmp_path / "mine.rrd").write_text("mine")
    with pytest.raises(SaveError, match=r"mine\.rrd exists.*another name"):
        check_rerun_target(tmp_path / "mine.rrd")
    with pytest.raises(SaveError, match=r"new\.rrd cannot be written"):
        check_rerun_target(tmp_path / "mine.rrd" / "new.rrd")
    assert (tmp_path / "mine.rrd").read_text() == "mine"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"rt1\[viz\]"):
        check_rerun_target(tmp_path / "new.rrd")


def test_a_recorded_episode_has_its_images_actions_and_rate(make_source: Callable[..., Any]) -> None:
    source = make_source(2, 3)
    source.details = {"control_rate": 5.0}
    episode = recorded_episode(source, 1)
    steps = list(episode.steps)
    assert (episode.name, episode.instruction, episode.control_rate) == ("episode_1", source.instruction(1), 5.0)
    np.testing.assert_array_equal([step.recorded for step in steps], source.actions(1, 0, 3))
    assert all(step.image.dtype == np.uint8 and step.predicted is None for step in steps)


def test_a_predicted_episode_has_both_actions_and_the_attention_at_each_image(
    make_source: Callable[..., Any], policy: Policy, table: TableEncoder
) -> None:
    source = make_source(3)
    steps = list(predicted_episode(policy, source, 0, table.sentences[0]).steps)
    assert len(steps) == 3
    for step in steps:
        assert step.recorded is not None
        assert step.predicted is not None
        assert step.attention is not None
        assert step.recorded.shape == step.predicted.shape
        assert step.attention.shape == policy.attention_maps().shape


def _trial(instruction: str, count: int = 3) -> TrialResult:
    images = tuple(np.full((16, 16, 3), value, np.uint8) for value in range(count + 1))
    rollout = Rollout(success=True, steps=count, actions=np.zeros((count, 3), np.float32), clipped=0, images=images)
    plan = TrialPlan(kind="policy", task="near", instruction=instruction, trials=(4,), seed=0)
    return TrialResult(plan=plan, trial=4, rollout=rollout)


def test_a_trial_has_a_step_for_each_action_and_attention_under_a_known_instruction(
    policy: Policy, make_suite: Callable[..., Any], table: TableEncoder
) -> None:
    episode = trial_episode(policy, make_suite(), _trial(table.sentences[0]))
    steps = list(episode.steps)
    assert (episode.name, episode.control_rate, len(steps)) == ("near/success_4", 10.0, 3)
    assert all(step.attention is not None and step.picture is None for step in steps)
    assert all(step.attention is None for step in trial_episode(policy, make_suite(), _trial("")).steps)


def test_a_file_reads_back_with_its_id_entities_and_steps(
    make_source: Callable[..., Any], policy: Policy, table: TableEncoder, tmp_path: Path
) -> None:
    missing = "the Rerun SDK is not installed. Run: pip install 'rt1[viz]'"
    chunk_module = pytest.importorskip("rerun.chunk", reason=missing)
    source = make_source(2, 3)
    source.details = {"control_rate": 5.0}
    episodes = [recorded_episode(source, 0), predicted_episode(policy, source, 1, table.sentences[0])]
    path = write_rerun(tmp_path / "new" / "file.rrd", source.name, episodes)
    reader = chunk_module.RrdReader(path)
    (entry,) = reader.recordings()
    assert (entry.application_id, entry.recording_id) == ("rt1", source.name)
    rows: Counter[str] = Counter()
    for chunk in reader.stream().to_chunks():
        rows[chunk.entity_path] += 0 if chunk.is_static else chunk.num_rows
    names = ("image", "action/recorded", "action/predicted", "attention/1")
    assert [rows[f"/episode_0/{name}"] for name in names] == [2, 2, 0, 0]
    assert [rows[f"/episode_1/{name}"] for name in names] == [3, 3, 3, 3]
    assert "/episode_1/instruction" in rows
