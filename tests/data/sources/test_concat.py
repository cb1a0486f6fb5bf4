"""Several sources as one: whose episode is whose, one action spec, colours put right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.data.open_mixture import WeightedSource, split_sources
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.windows import Windows
from rt1.data.sources.base import CORRECTIONS, EpisodeSource
from rt1.data.sources.concat import DefaultInstruction, JoinedSource, MappedSource, embodiments_of, origin
from rt1.data.sources.images import decode_image
from rt1.errors import DataError
from rt1.testing import check_source

MakeSource = Callable[..., Any]

TWO = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 2, high=(1.0,) * 2),), bins=16)


def _last_two(actions: FloatArray) -> FloatArray:
    return actions[:, 1:].copy()


def test_a_joined_source_keeps_the_protocol(make_source: MakeSource) -> None:
    joined = JoinedSource([make_source(3, 2), make_source(4)])
    assert isinstance(joined, EpisodeSource)
    check_source(joined)


def test_joined_details_are_those_that_all_share_and_the_corrections_of_any(make_source: MakeSource) -> None:
    recorded, corrected = make_source(3), make_source(4)
    recorded.details = {"control_rate": 10.0, "env": {"suite": "points"}, "seed": 1}
    corrected.details = {**recorded.details, "seed": 2, CORRECTIONS: True}
    shared = {"control_rate": 10.0, "env": {"suite": "points"}}
    assert JoinedSource([recorded, recorded]).details == recorded.details
    assert JoinedSource([recorded, corrected]).details == {**shared, CORRECTIONS: True}
    assert JoinedSource([recorded, make_source(2)]).details == {}


def test_episodes_are_counted_through_the_sources(make_source: MakeSource) -> None:
    one, two = make_source(3, 2), make_source(4)
    two.name = "other"
    joined = JoinedSource([one, two])
    assert joined.name == "memory+other"
    assert joined.lengths.tolist() == [3, 2, 4]
    assert [joined.part(episode) for episode in range(3)] == [(one, 0), (one, 1), (two, 0)]
    assert joined.instruction(1) == one.instruction(1)
    assert joined.task(2) == two.task(0)
    assert joined.encoded_images(2, 1, 3) == two.images[0][1:3]
    np.testing.assert_array_equal(joined.actions(2, 1, 3), two.moves[0][1:3])
    np.testing.assert_array_equal(joined.text_embedding(1), one.text_embedding(1))
    with pytest.raises(IndexError, match=r"episode 3\. It has the episodes 0\.\.2"):
        joined.part(3)


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no sources to join"):
        JoinedSource([])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"bins": 32}, "16 and 32 bins"),
        ({"parts": TWO.parts}, "the dimensions move_0, move_1, move_2 and move_0, move_1"),
        (
            {"parts": (Continuous(name="move", low=(-1.0,) * 3, high=(2.0,) * 3),)},
            r"the bounds -1\.\.1, -1\.\.1, -1\.\.1 and -1\.\.2, -1\.\.2, -1\.\.2",
        ),
    ],
)
def test_sources_with_different_action_specs_are_refused_unless_mapped(
    change: dict[str, Any], difference: str, make_source: MakeSource
) -> None:
    one, two = make_source(3), make_source(3)
    two.name, two.action_spec = "other", dataclasses.replace(two.action_spec, **change)
    with pytest.raises(DataError, match=rf"memory and other .*action specs .*{difference}"):
        JoinedSource([one, two])


def test_a_mapped_source_can_be_joined(make_source: MakeSource) -> None:
    mapped, plain = MappedSource(make_source(3), TWO, _last_two), make_source(4)
    plain.moves, plain.action_spec = [_last_two(plain.moves[0])], TWO
    joined = JoinedSource([mapped, plain])
    np.testing.assert_array_equal(joined.actions(0, 1, 3), make_source(3).moves[0][1:3, 1:])
    assert joined.action_spec == TWO
    check_source(mapped)


def test_a_mapping_of_another_size_is_refused_at_once(make_source: MakeSource) -> None:
    message = r"memory, episode 0: the mapping returned float32 \(1, 3\)\. It must return float32 \(1, 2\)"
    with pytest.raises(DataError, match=message):
        MappedSource(make_source(3), TWO, lambda actions: actions)


def test_the_origin_lies_below_joining_and_mapping(make_source: MakeSource) -> None:
    inner = make_source(2, 2)
    outer = JoinedSource([make_source(3), MappedSource(JoinedSource([make_source(1), inner]), TWO, _last_two).source])
    assert origin(outer, 3) == (inner, 1)
    assert origin(inner, 1) == (inner, 1)


def test_images_of_a_blue_first_source_come_out_red_first(make_source: MakeSource) -> None:
    plain, swapped = make_source(2), make_source(2)
    swapped.bgr = True
    joined = JoinedSource([plain, MappedSource(swapped, swapped.action_spec, lambda actions: actions)])
    as_stored = decode_image(plain.images[0][1])
    np.testing.assert_array_equal(joined.images(0, 1, 2)[0], as_stored)
    np.testing.assert_array_equal(joined.images(1, 1, 2)[0], cv2.cvtColor(as_stored, cv2.COLOR_BGR2RGB))


def test_the_default_instruction_is_that_of_the_episodes_without_one(make_source: MakeSource) -> None:
    source = make_source(2, 3, 1)
    source.instruction = lambda episode: ["push", " ", ""][episode]
    given = DefaultInstruction(source, "wait")
    assert [given.instruction(episode) for episode in range(3)] == ["push", "wait", "wait"]
    assert given.action_spec == source.action_spec
    assert [given.text_embedding(episode) for episode in range(3)] == [None] * 3
    assert origin(given, 1) == (source, 1)
    check_source(given)


def test_embeddings_of_different_encoders_are_not_mixed(make_source: MakeSource) -> None:
    one, two = make_source(3), make_source(3)
    one.text_encoder = two.text_encoder = {"name": "same"}
    assert JoinedSource([one, two]).text_encoder == {"name": "same"}
    two.text_encoder = {"name": "another"}
    joined = JoinedSource([one, two])
    assert joined.text_encoder is None
    with pytest.raises(DataError, match=r"memory\+memory .*encoders"):
        joined.text_embedding(0)


def _loader(*parts: WeightedSource) -> Loader:
    def cut(lengths: NDArray[np.int64], episodes: NDArray[np.int64]) -> Windows:
        return Windows(lengths=lengths, episodes=episodes, window=2)

    data = split_sources(parts, cut=cut, held_out=0.0, seed=0)
    source = data.source
    return Loader(source, data.train, text=np.eye(len(source.lengths), 8, dtype=np.float32), batch_size=4, seed=0)


def _part(source: Any, embodiment: str | None = None) -> WeightedSource:
    return WeightedSource(source=source, embodiment=embodiment)


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
    with pytest.raises(DataError, match=r"arm and hand are both .*'robot'.*different action specs.*name another"):
        JoinedSource([arm, hand], embodiments=["robot", "robot"])
    with pytest.raises(DataError, match='heads = "separate"'):
        JoinedSource([arm, hand])


def test_what_heads_cannot_share_and_an_empty_name_are_refused(make_source: MakeSource) -> None:
    arm, hand = make_source(3, name="arm"), make_source(3, bins=32, name="hand")
    with pytest.raises(DataError, match=r"different numbers of bins: arm 16, hand 32\. The heads of a network share"):
        JoinedSource([arm, hand], embodiments=["arm", None])
    with pytest.raises(DataError, match="the name of an embodiment is empty"):
        JoinedSource([arm, arm], embodiments=["arm", ""])


def test_several_embodiments_have_no_one_action_spec(make_source: MakeSource) -> None:
    joined = JoinedSource([make_source(3), make_source(3, dimensions=5)], embodiments=["arm", "hand"])
    with pytest.raises(
        DataError, match=r"has the embodiments arm, hand, each with an action spec of its own\. Give the"
    ):
        _ = joined.action_spec


def test_an_action_that_cannot_be_encoded_is_named(make_source: MakeSource) -> None:
    arm, hand = make_source(4, name="arm"), make_source(4, dimensions=5, name="hand")
    hand.moves[0][2, 4] = np.nan
    loader = _loader(_part(arm, "arm"), _part(hand, "hand"))
    with pytest.raises(DataError, match=r"hand, episode 0, steps 1\.\.2: the action is NaN"):
        loader.take(np.array([0, 1, 4]))
