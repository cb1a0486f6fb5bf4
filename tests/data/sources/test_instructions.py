"""Several instructions per episode, and episodes without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.data.sources.base import instructions_of, optional_members
from rt1.data.sources.concat import JoinedSource
from rt1.data.sources.instructions import EpisodesWithInstruction, SeveralInstructions
from rt1.errors import DataError
from rt1.testing import check_source


def _with(source: Any, *sentences: str) -> Any:
    source.instruction = lambda episode: sentences[episode]
    return source


@pytest.fixture
def views(make_source: Callable[..., Any]) -> list[Any]:
    """Three views of two episodes, each with its own instruction key."""
    return [_with(make_source(3, 2), *sentences) for sentences in (("open", ""), ("pull it", "push"), ("open", " "))]


def test_the_sentences_of_all_keys_are_an_episodes_instructions(views: list[Any]) -> None:
    source = SeveralInstructions(views)
    assert source.instructions(0) == ("open", "pull it")
    assert source.instructions(1) == ("push",)
    assert [source.instruction(episode) for episode in (0, 1)] == ["open", "push"]
    np.testing.assert_array_equal(source.actions(1, 0, 2), views[0].moves[1])
    assert instructions_of(JoinedSource([views[1], source]), 2) == ("open", "pull it")
    check_source(source)


def test_an_episode_without_any_sentence_has_an_empty_instruction(views: list[Any]) -> None:
    source = SeveralInstructions([views[0], views[2]])
    assert source.instructions(1) == ("",)
    assert source.instruction(1) == ""


def test_keys_of_different_episodes_are_refused(make_source: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"memory has 1 episodes .* 2 under another"):
        SeveralInstructions([make_source(3), make_source(3, 2)])


def test_episodes_with_an_empty_instruction_are_left_out(make_source: Callable[..., Any]) -> None:
    stored = _with(make_source(3, 2, 4), "open", " ", "close")
    stored.details = {"control_rate": 5.0}
    source = EpisodesWithInstruction(stored)
    assert (source.lengths.tolist(), source.left_out) == ([3, 4], 1)
    assert [source.instruction(episode) for episode in (0, 1)] == ["open", "close"]
    np.testing.assert_array_equal(source.actions(1, 0, 4), stored.moves[2])
    assert optional_members(source).details == {"control_rate": 5.0}
    assert source.action_spec == stored.action_spec
    check_source(source)


def test_a_set_without_any_instruction_is_refused(make_source: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="none of its 2 episodes"):
        EpisodesWithInstruction(_with(make_source(3, 2), "", ""))


def test_one_instruction_is_all_where_a_source_has_no_others(make_source: Callable[..., Any]) -> None:
    assert instructions_of(make_source(3), 0) == ("open the drawer",)
