"""The published protocols of Meta-World: groups by name, and rows that agree with their own means."""

from __future__ import annotations

import pytest

from rt1.envs.metaworld import MetaWorldSuite
from rt1.envs.metaworld_protocols import METAWORLD_MT50_A, METAWORLD_MT50_B
from rt1.envs.protocol import EvaluationProtocol, protocol_of

BOTH = [METAWORLD_MT50_A, METAWORLD_MT50_B]


@pytest.mark.parametrize("protocol", BOTH, ids=lambda protocol: protocol.name)
def test_each_task_of_the_suite_is_in_one_group(protocol: EvaluationProtocol) -> None:
    assert sorted(protocol.tasks) == sorted(MetaWorldSuite.tasks)  # the results have these names
    assert protocol_of(MetaWorldSuite(), protocol.name) is protocol


def test_the_groups_have_their_published_sizes() -> None:
    assert [len(tasks) for tasks in METAWORLD_MT50_A.groups.values()] == [28, 11, 11]
    assert {group: len(tasks) for group, tasks in METAWORLD_MT50_B.groups.items()} == {
        "easy": 28,
        "medium": 11,
        "hard": 6,
        "very_hard": 5,
    }


@pytest.mark.parametrize("protocol", BOTH, ids=lambda protocol: protocol.name)
def test_published_means_follow_from_the_published_groups(protocol: EvaluationProtocol) -> None:
    sizes = [len(tasks) for tasks in protocol.groups.values()]
    weights = [1] * len(sizes) if protocol.score == "mean_of_groups" else sizes
    for row in protocol.published:
        if row.groups:
            mean = sum(w * rate for w, rate in zip(weights, row.groups, strict=True)) / sum(weights)
            assert row.score == pytest.approx(mean, abs=0.006), row.policy
    assert all(0 <= rate <= 1 for row in protocol.published for rate in (row.score, *row.groups))


def test_rt1_has_a_published_number_in_protocol_a_alone() -> None:
    (rt1,) = (row for row in METAWORLD_MT50_A.published if row.policy == "RT-1")
    assert (rt1.groups, rt1.score) == ((0.605, 0.042, 0.015), 0.346)
    assert "RT-1" not in [row.policy for row in METAWORLD_MT50_B.published]
