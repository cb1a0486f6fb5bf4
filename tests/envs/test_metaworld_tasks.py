"""The sentences of Meta-World's tasks."""

from __future__ import annotations

import pytest

from rt1.envs.metaworld_tasks import INSTRUCTIONS, SHARED_SCENES
from rt1.envs.registry import DEMO_TASKS


def test_every_task_of_metaworld_has_an_instruction_and_there_are_no_others() -> None:
    env_dict = pytest.importorskip("metaworld.env_dict", reason="Meta-World is not installed")
    assert {f"{task}-v3" for task in INSTRUCTIONS} == set(env_dict.ALL_V3_ENVIRONMENTS)
    assert len(INSTRUCTIONS) == 50


def test_no_sentence_stands_for_two_tasks_or_twice_for_one() -> None:
    sentences = [sentence for given in INSTRUCTIONS.values() for sentence in given]
    assert len(set(sentences)) == len(sentences)
    assert all(sentence == sentence.strip() and sentence for sentence in sentences)


def test_each_task_of_the_demo_has_two_paraphrases() -> None:
    assert all(len(INSTRUCTIONS[task]) >= 3 for task in DEMO_TASKS)


def test_the_demo_has_a_pair_that_only_the_instruction_tells_apart() -> None:
    assert any(SHARED_SCENES.get(task) in DEMO_TASKS for task in DEMO_TASKS)


def test_sharing_a_scene_is_mutual() -> None:
    assert all(SHARED_SCENES[twin] == task for task, twin in SHARED_SCENES.items())
