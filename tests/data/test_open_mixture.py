"""Several data sets by the command line's words: weights, options of each, one action spec, held-out episodes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import WeightedSource, open_mixture, split_sources
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.mixture import Mixture
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.sources.concat import embodiments_of, origin
from rt1.errors import DataError

PLAIN = DataOptions()


@pytest.fixture
def folders(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    """Recordings ``one`` (5 episodes) and ``two`` (3 episodes), and ``wide``, whose bounds are twice as wide."""
    wide = make_source(4, 4)
    wide.action_spec = _spec(2.0)
    for name, source in (("one", make_source(4, 6, 5, 4, 7)), ("two", make_source(6, 5, 8)), ("wide", wide)):
        write_recording(tmp_path / name, source)
    return tmp_path


def _spec(bound: float, **changes: Any) -> ActionSpec:
    part = Continuous(name="move", low=(-bound,) * 3, high=(bound,) * 3)
    return ActionSpec(**{"parts": (part,), "bins": 16, **changes})


def _cut(lengths: NDArray[np.int64], episodes: NDArray[np.int64]) -> Windows:
    return Windows(lengths=lengths, episodes=episodes, window=3)


def test_folders_are_opened_in_their_order_with_the_weights_behind_them(folders: Path) -> None:
    one, two = open_mixture([f"{folders}/one=3", f"{folders}/two=0.5"], PLAIN)
    assert (one.source.lengths.tolist(), one.weight) == ([4, 6, 5, 4, 7], 3.0)
    assert (two.source.lengths.tolist(), two.weight) == ([6, 5, 8], 0.5)


def test_without_weights_all_count_alike_and_one_folder_needs_none(folders: Path) -> None:
    assert [each.weight for each in open_mixture([folders / "one", folders / "two"], PLAIN)] == [1.0, 1.0]
    (alone,) = open_mixture([folders / "one"], PLAIN)
    assert alone.source.name == "memory"


def test_a_folder_whose_name_has_an_equals_sign_is_a_folder(folders: Path) -> None:
    (folders / "one").rename(folders / "lr=3")
    (alone,) = open_mixture([folders / "lr=3"], PLAIN)
    assert (len(alone.source.lengths), alone.weight) == (5, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one=3", "two"], "two has no weight and others have. Give every data set one: FOLDER=WEIGHT"),
        (["one=much", "two=1"], "the weight in .*one=much is 'much'. Give FOLDER=WEIGHT with a number above 0"),
        (["one=0", "two=1"], r"the weight of .*one is 0\.0"),
        (["one=nan", "two=1"], "the weight of .*one is nan"),
        (["one=1e308", "two=1"], r"one is 1e\+308"),
        (["one", "wide"], r"different action specs \(the bounds .*\)\. Map one"),
        ([], "no data set is named"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(folders: Path, words: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_mixture([f"{folders}/{word}" for word in words], PLAIN)
    assert "\n" not in str(error.value)


TOML = """
[[parts]]
data = "one"
weight = 2

[[parts]]
data = "two"
weight = 1.0
action_keys = ["KEY"]
"""
JSON = '{"parts": [{"data": "one", "weight": 2}, {"data": "two", "weight": 1.0, "action_keys": ["KEY"]}]}'


@pytest.mark.parametrize(("name", "content"), [("m.toml", TOML), ("m.json", JSON)])
def test_a_mixture_file_gives_every_data_set_its_own_options(folders: Path, name: str, content: str) -> None:
    (folders / name).write_text(content.replace("KEY", "action"))
    one, two = open_mixture([folders / name], PLAIN)
    assert [one.weight, two.weight] == [2.0, 1.0]
    assert [len(each.source.lengths) for each in (one, two)] == [5, 3]
    (folders / name).write_text(content.replace("KEY", "actoin"))
    with pytest.raises(DataError, match="unknown RLDS key 'actoin'"):
        open_mixture([folders / name], PLAIN)


def test_the_widest_bounds_hold_the_actions_of_all(folders: Path) -> None:
    (folders / "m.json").write_text('{"bounds": "widest", "parts": [{"data": "one"}, {"data": "wide"}]}')
    one, wide = open_mixture([folders / "m.json"], PLAIN)
    assert one.source.action_spec == wide.source.action_spec == _spec(2.0)
    assert origin(one.source, 3)[0].action_spec == _spec(1.0)


@pytest.mark.parametrize("change", [{"bins": 32}, {"parts": (Continuous(name="other", low=(-1.0,), high=(1.0,)),)}])
def test_the_widest_bounds_of_other_actions_are_refused(
    folders: Path, make_source: Callable[..., Any], write_recording: Callable[..., Path], change: dict[str, Any]
) -> None:
    source = make_source(4, 4)
    source.action_spec = _spec(1.0, **change)
    source.moves = [moves[:, : source.action_spec.size] for moves in source.moves]
    write_recording(folders / "other", source)
    (folders / "m.json").write_text('{"bounds": "widest", "parts": [{"data": "one"}, {"data": "other"}]}')
    with pytest.raises(DataError, match="different action specs"):
        open_mixture([folders / "m.json"], PLAIN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("parts = 3", "parts is 3, must be a list"),
        ("[[parts]]\ndta = 'one'", "did you mean 'data'"),
        ("[[parts]]\nweight = 1.0", "Give every required setting"),
        ("[[parts]]\ndata = 'one'\nweight = 'much'", "weight is 'much', must be of type float"),
        ("[[parts]", r"m\.toml is not TOML"),
        ("parts = []", "no data set is named"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("[[parts]]\ndata = '" + "x" * 300 + "'", "File name too long"),
    ],
)
def test_a_wrong_mixture_file_says_what_is_wrong_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.toml").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        open_mixture([tmp_path / "m.toml"], PLAIN)
    assert "\n" not in str(error.value)


def test_a_mixture_file_stands_alone(folders: Path) -> None:
    (folders / "m.json").write_text('{"parts": [{"data": "one"}]}')
    with pytest.raises(DataError, match="Give it alone"):
        open_mixture([folders / "m.json", folders / "two"], PLAIN)
    with pytest.raises(DataError, match="--image-key, --skip-corrupt"):
        open_mixture([folders / "m.json"], DataOptions(skip_corrupt=True, image_key="observation/image"))
    with pytest.raises(DataError, match="No such file"):
        open_mixture([folders / "none.toml"], PLAIN)


def test_open_x_sets_have_the_weights_of_the_table(tmp_path: Path) -> None:
    parts = [{"data": "a", "open_x": "fractal20220817_data"}, {"data": "b"}]
    (tmp_path / "m.json").write_text(json.dumps({"parts": parts}))
    with pytest.raises(DataError, match="b has no weight and others have"):
        open_mixture([tmp_path / "m.json"], PLAIN)


def test_the_real_bridge_sample_mixes_with_itself_by_the_tables_weight(shared: Path, tmp_path: Path) -> None:
    original = shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0"
    folder = tmp_path / "bridge"
    folder.mkdir()
    for file in original.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    part = {"data": "bridge", "open_x": "bridge_dataset"}
    (tmp_path / "m.json").write_text(json.dumps({"parts": [part, {**part, "split": "val", "weight": 25}]}))
    train, val = open_mixture([tmp_path / "m.json"], PLAIN)
    assert (train.weight, val.weight) == (50.0, 25.0)
    data = split_sources((train, val), cut=_cut, held_out=0.2, seed=0)
    assert isinstance(data.train, Mixture)
    parts, _ = data.train.schedule(np.arange(300))
    assert np.bincount(parts).tolist() == [200, 100]


def test_every_source_holds_out_its_share_and_no_episode_is_in_both(make_source: Callable[..., Any]) -> None:
    sources = [WeightedSource(source=make_source(*[5] * count), weight=count) for count in (20, 10)]
    data = split_sources(sources, cut=_cut, held_out=0.2, seed=1)
    assert isinstance(data.held_out, Mixture)
    assert [len(part.episodes) for part in data.held_out.parts if isinstance(part, Windows)] == [4, 2]
    trained = np.setdiff1d(np.arange(30), data.held_out_episodes)
    for samples, chosen in ((data.train, trained), (data.held_out, data.held_out_episodes)):
        assert np.array_equal(np.unique(samples.places(np.arange(len(samples))).episodes), chosen)


@pytest.mark.parametrize("group", [0, 2])
def test_mixed_sources_are_read_where_each_has_its_windows(make_source: Callable[..., Any], group: int) -> None:
    def cut(lengths: NDArray[np.int64], episodes: NDArray[np.int64]) -> Windows | Clips:
        windows = Windows(lengths=lengths, episodes=episodes[:1], window=2)
        return Clips(windows=windows, group=group) if group else windows

    sources = [WeightedSource(source=make_source(4, 3)), WeightedSource(source=make_source(6))]
    data = split_sources(sources, cut=cut, held_out=0.0, seed=0)
    assert isinstance(data.train, Mixture)
    assert data.source.lengths.tolist() == [4, 3, 6]
    episodes = data.train.places(np.arange(len(data.train))).episodes.tolist()
    assert episodes == [0] * len(data.train.parts[0]) + [2] * len(data.train.parts[1])


def test_one_source_stays_itself(make_source: Callable[..., Any]) -> None:
    source = make_source(5, 5, 5, 5)
    data = split_sources([WeightedSource(source=source)], cut=_cut, held_out=0.25, seed=0)
    assert data.source is source
    assert isinstance(data.train, Windows)
    assert len(data.held_out_episodes) == 1
    assert split_sources([WeightedSource(source=source)], cut=_cut, held_out=0.0, seed=0).held_out is None


def test_a_source_that_cannot_be_split_is_named(make_source: Callable[..., Any]) -> None:
    single, empty = make_source(5), dataclasses.replace(make_source(5), lengths=np.zeros(0, np.int64))
    single.name = empty.name = "lonely"
    for source, message in ((single, "lonely: held_out is 0.1 of 1 episodes"), (empty, "lonely has no episodes")):
        with pytest.raises(DataError, match=message):
            split_sources([WeightedSource(source=source)], cut=_cut, held_out=0.1, seed=0)


def test_a_loader_takes_what_was_split(make_source: Callable[..., Any]) -> None:
    sources = [WeightedSource(source=make_source(*[5] * 4), weight=weight) for weight in (3.0, 1.0)]
    data = split_sources(sources, cut=_cut, held_out=0.25, seed=0)
    text = np.zeros((8, 2), np.float32)
    loader = Loader(data.source, data.train, text=text, batch_size=8, seed=0)
    batch = loader.batch(0)
    assert sum(episode < 4 for episode in batch.episodes) == 6


def _mixture_file(folders: Path, text: str) -> Path:
    (folders / "mixture.toml").write_text(text)
    return folders / "mixture.toml"


def test_a_mixture_file_gives_each_embodiment_a_head_of_its_own(folders: Path) -> None:
    parts = '[[parts]]\ndata = "one"\n[[parts]]\ndata = "wide"\nembodiment = "wide"\n[[parts]]\ndata = "two"\n'
    opened = open_mixture([_mixture_file(folders, 'heads = "separate"\n' + parts)], PLAIN)
    assert [each.embodiment for each in opened] == ["memory", "wide", "memory"]
    data = split_sources(opened, cut=_cut, held_out=0.25, seed=0)
    found = embodiments_of(data.source)
    assert {name: spec.high.tolist() for name, spec in found.specs.items()} == {"memory": [1.0] * 3, "wide": [2.0] * 3}
    assert found.heads.tolist() == [0] * 5 + [1] * 2 + [0] * 3


def test_widest_bounds_are_those_of_one_embodiment(folders: Path) -> None:
    parts = "".join(f'[[parts]]\ndata = "{name}"\nembodiment = "{of}"\n' for name, of in _OWNERS)
    opened = open_mixture([_mixture_file(folders, 'heads = "separate"\nbounds = "widest"\n' + parts)], PLAIN)
    assert [each.source.action_spec.high.tolist() for each in opened] == [[2.0] * 3, [1.0] * 3, [2.0] * 3]


_OWNERS = (("one", "big"), ("two", "small"), ("wide", "big"))


def test_two_specs_with_one_name_and_a_name_without_heads_are_refused(folders: Path) -> None:
    parts = "".join(f'[[parts]]\ndata = "{name}"\nembodiment = "arm"\n' for name in ("one", "wide"))
    with pytest.raises(DataError, match=r"'arm'.*different action specs"):
        open_mixture([_mixture_file(folders, 'heads = "separate"\n' + parts)], PLAIN)
    with pytest.raises(DataError, match=r"'arm'.*heads"):
        open_mixture([_mixture_file(folders, parts)], PLAIN)


def test_a_mixture_file_can_set_the_bins_of_all(folders: Path) -> None:
    opened = open_mixture(
        [_mixture_file(folders, 'bins = 32\n[[parts]]\ndata = "one"\n[[parts]]\ndata = "two"\n')], PLAIN
    )
    assert [each.source.action_spec for each in opened] == [_spec(1.0, bins=32)] * 2
    (alone,) = open_mixture([folders / "one"], PLAIN)
    np.testing.assert_array_equal(opened[0].source.actions(0, 0, 4), alone.source.actions(0, 0, 4))
    assert opened[0].source.details == alone.source.details  # type: ignore[attr-defined]


def test_a_folder_with_a_line_break_in_its_name_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mixture.json"
    file.write_text('{"parts": [{"data": "a\\nb"}]}')
    with pytest.raises(DataError, match="printable") as refused:
        open_mixture([file], DataOptions())
    assert "\n" not in str(refused.value)


def test_a_part_of_a_mixture_file_has_a_layout_and_bounds_of_its_own(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra 'hdf5' is not installed")
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/images/cam_high"] = np.zeros((3, 4, 4, 3), np.uint8)
        file["action"] = np.arange(3, dtype=np.float32)
    part = 'data = "episode_0.hdf5"\nlayout = "aloha"\ninstruction = "go"\nbounds = ["-1", "5"]\n'
    (tmp_path / "mixture.toml").write_text(f"[[parts]]\n{part}")
    (opened,) = open_mixture([tmp_path / "mixture.toml"], DataOptions())
    assert (opened.source.action_spec.low.tolist(), opened.source.action_spec.high.tolist()) == ([-1], [5])
    assert opened.source.instruction(0) == "go"
