"""The policies that are part of the package: small, complete, and able to act without a text encoder."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest

from rt1 import Policy
from rt1.checkpoint import load_info
from rt1.envs.registry import suite_of
from rt1.hub.card import check_card
from rt1.hub.names import SHIPPED, shipped_names
from rt1.simulate.rollout import PolicyController, rollout
from rt1.simulate.seeds import trial_seed

SUITE_TASKS = 50


@pytest.fixture(params=shipped_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_is_a_policy_to_see_at_once() -> None:
    assert "metaworld-mt50" in shipped_names()


def test_it_is_small_and_has_its_card_and_results(name: str) -> None:
    folder = SHIPPED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4e6
    check_card(folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert 0 < results["mean_success"] <= 1
    assert len(results["tasks"]) == SUITE_TASKS


def test_it_reads_every_instruction_without_a_text_encoder(name: str) -> None:
    policy, suite = Policy.from_pretrained(name), suite_of(load_info(name).provenance)
    image = np.zeros((*suite.image_size, 3), np.uint8)
    actions = []
    for task in suite.tasks:
        policy.reset(suite.sentences(task)[0])
        actions.append(policy.act_vector(image))
    assert np.isfinite(actions).all()
    assert len({tuple(action) for action in actions}) > 1


def test_it_solves_easy_tasks_in_the_simulator(name: str, gl: str) -> None:
    assert gl
    policy, suite = Policy.from_pretrained(name), suite_of(load_info(name).provenance)
    solved = 0
    for task in ("drawer-close-v3", "handle-press-v3", "plate-slide-side-v3"):
        with closing(suite.open(task)) as env:
            solved += rollout(env, PolicyController(policy), seed=trial_seed(1, 0)).success
    assert solved >= 2  # another processor rounds otherwise
