"""Harvesting a text table: from our own small source, from real data, and from data that cannot give one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.text_table import harvest_text_table
from rt1.errors import DataError
from rt1.text.encoder import USE_LARGE_5, TableEncoder, check_same_encoder


@pytest.fixture
def source(make_source: Callable[..., Any]) -> Any:
    return make_source(3, 2, 4)


def test_every_instruction_gets_the_vector_stored_with_it(source: Any, tmp_path: Path) -> None:
    table = harvest_text_table(source, tmp_path / "table", encoder_name="memory")
    assert table.sentences == ("close the drawer", "open the drawer")
    np.testing.assert_array_equal(table.encode(["open the drawer", "close the drawer"]), source.embeddings)
    assert TableEncoder.load(tmp_path / "table").identity == table.identity
    assert table.identity.name == "memory"


def test_a_real_data_set_gives_google_s_vectors(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bridge"
    folder.mkdir()
    for path in (shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0").iterdir():
        (folder / path.name).symlink_to(path)
    layout = RLDSLayout(image_key="observation/image_0", embedding_key="language_embedding")
    source = RLDSSource(folder, layout=layout)
    table = harvest_text_table(source, tmp_path / "use.safetensors", encoder_name=USE_LARGE_5.name)
    assert table.sentences == (
        "flip pot upright which is in sink",
        "put carrot on plate",
        "put cup from counter or drying rack into sink",
        "turn lever vertical to front",
    )
    check_same_encoder(USE_LARGE_5, table.identity)
    for episode in range(len(source.lengths)):
        np.testing.assert_array_equal(table.encode([source.instruction(episode)])[0], source.text_embedding(episode))


def test_one_instruction_with_two_vectors_is_refused_by_name(source: Any, tmp_path: Path) -> None:
    source.text_embedding = lambda episode: np.full(8, episode, np.float32)
    with pytest.raises(ValueError, match=r"'open the drawer' .*different vectors"):
        harvest_text_table(source, tmp_path / "table", encoder_name="memory")
    assert list(tmp_path.iterdir()) == []


def test_episodes_without_an_instruction_are_left_out_and_counted(source: Any, tmp_path: Path) -> None:
    source.instruction = lambda episode: ("", "close the drawer", " ")[episode]
    with pytest.warns(UserWarning, match="memory: 2 episodes .*instruction"):
        table = harvest_text_table(source, tmp_path / "table", encoder_name="memory")
    assert table.sentences == ("close the drawer",)
    source.instruction = lambda _: ""
    with pytest.raises(DataError, match=r"3 episodes .*instruction"):
        harvest_text_table(source, tmp_path / "none", encoder_name="memory")


def test_an_episode_without_an_embedding_is_refused(source: Any, tmp_path: Path) -> None:
    source.text_embedding = lambda episode: None if episode == 1 else source.embeddings[0]
    with pytest.raises(DataError, match=r"memory, episode 1 .*text embedding"):
        harvest_text_table(source, tmp_path / "table", encoder_name="memory")
