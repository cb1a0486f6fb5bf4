"""Sources with different action specs as one: whose episode is whose, and what a batch of them holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.data.embodiments import embodiments_of
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.mixture import Part, mixed
from rt1.data.pipeline.windows import Windows
from rt1.data.sources.concat import JoinedSource
from rt1.errors import DataError

MakeSource = Callable[..., Any]


def _loader(*parts: Part) -> Loader:
    source, windows = mixed(parts)
    return Loader(source, windows, text=np.eye(len(source.lengths), 8, dtype=np.float32), batch_size=4, seed=0)


def _part(source: Any, embodiment: str | None = None) -> Part:
    episodes = np.arange(len(source.lengths))
    windows = Windows(lengths=source.lengths, episodes=episodes, window=2)
    return Part(source=source, windows=windows, embodiment=embodiment)


def test_embodiments_are_numbered_in_the_order_of_their_first_source(make_source: MakeSource) -> None:
    arm, hand, other = make_source(3, 2), make_source(4, dimensions=5), make_source(5, 6, 7)
    found = embodiments_of(JoinedSource([arm, hand, other], embodiments=["arm", "hand", "arm"]))
    assert found.heads.tolist() == [0, 0, 1, 0, 0, 0]
    assert found.specs == {"arm": arm.action_spec, "hand": hand.action_spec}
    assert (found.several, found.size) == (True, 5)
    assert found.sources["arm"].lengths.tolist() == [3, 2, 5, 6, 7]
    assert found.sources["hand"] is hand
    assert found.own_numbers(0, np.array([1, 2, 4])).tolist() == [1, 3]
    assert found.own_numbers(1, np.array([1, 2, 4])).tolist() == [0]


def test_a_source_without_embodiments_has_one(make_source: MakeSource) -> None:
    source = make_source(3, 2)
    for one in (source, JoinedSource([source, source]), JoinedSource([source, source], embodiments=["arm", "arm"])):
        found = embodiments_of(one)
        assert not found.several
        assert not found.heads.any()
        assert [*found.sources.values()] == [one]


def test_each_sample_has_the_tokens_of_its_own_action_spec_and_no_others(make_source: MakeSource) -> None:
    arm, hand = make_source(4, 3, name="arm"), make_source(5, dimensions=5, name="hand")
    loader = _loader(_part(arm, "arm"), _part(hand, "hand"))
    batches, specs = list(loader.in_order()), (arm.action_spec, hand.action_spec)
    assert {head for batch in batches if batch.embodiment_B is not None for head in batch.embodiment_B.tolist()} == {
        0,
        1,
    }
    for batch in batches:
        assert batch.embodiment_B is not None
        for row, (episode, head) in enumerate(zip(batch.episodes, batch.embodiment_B.tolist(), strict=True)):
            assert head == (episode == 2)
            size = (3, 5)[head]
            real_T = batch.valid_BT[row]
            assert (batch.token_BTA[row, :, size:] == -1).all()
            assert not batch.action_BTA[row, :, size:].any()
            actions = batch.action_BTA[row, real_T, :size]
            np.testing.assert_array_equal(batch.token_BTA[row, real_T, :size], specs[head].encode(actions))
            assert (batch.token_BTA[row, ~real_T, :size] == 0).all()
            assert actions.any()
        part = batch.rows(1, 3)
        assert part.embodiment_B is not None
        np.testing.assert_array_equal(part.embodiment_B, batch.embodiment_B[1:3])


def test_with_one_action_spec_a_batch_names_no_heads(make_source: MakeSource) -> None:
    arm = make_source(4, 3)
    for loader in (_loader(_part(arm), _part(arm)), _loader(_part(arm, "arm"), _part(arm, "arm"))):
        batch = loader.batch(0)
        assert batch.embodiment_B is None
        assert batch.rows(0, 1).embodiment_B is None
        assert (batch.token_BTA >= 0).all()


def test_two_specs_with_one_name_are_refused(make_source: MakeSource) -> None:
    arm, hand = make_source(3, name="arm"), make_source(3, dimensions=5, name="hand")
    message = "arm and hand are both the embodiment 'robot' and have different action specs .*; name another embodiment"
    with pytest.raises(DataError, match=message):
        JoinedSource([arm, hand], embodiments=["robot", "robot"])
    with pytest.raises(DataError, match='heads = "separate"'):
        JoinedSource([arm, hand])


def test_what_heads_cannot_share_and_an_empty_name_are_refused(make_source: MakeSource) -> None:
    arm, hand = make_source(3, name="arm"), make_source(3, bins=32, name="hand")
    with pytest.raises(DataError, match="bins: arm 16, hand 32"):
        JoinedSource([arm, hand], embodiments=["arm", None])
    with pytest.raises(DataError, match="the name of an embodiment is empty"):
        JoinedSource([arm, arm], embodiments=["arm", ""])


def test_several_embodiments_have_no_one_action_spec(make_source: MakeSource) -> None:
    joined = JoinedSource([make_source(3), make_source(3, dimensions=5)], embodiments=["arm", "hand"])
    with pytest.raises(DataError, match="embodiments arm, hand"):
        _ = joined.action_spec


def test_an_action_that_cannot_be_encoded_is_named(make_source: MakeSource) -> None:
    arm, hand = make_source(4, name="arm"), make_source(4, dimensions=5, name="hand")
    hand.moves[0][2, 4] = np.nan
    loader = _loader(_part(arm, "arm"), _part(hand, "hand"))
    with pytest.raises(DataError, match=r"hand, episode 0, steps 1\.\.2: .*NaN"):
        loader.take(np.array([0, 1, 4]))
