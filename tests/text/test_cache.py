"""Text embeddings kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.text.cache import CachedEncoder, cache_folder
from rt1.text.encoder import TextEncoderIdentity


class Counting:
    """An encoder that notes what it is asked for."""

    def __init__(self, name: str = "counting") -> None:
        self.identity = TextEncoderIdentity(name=name, sha256="ab", width=2)
        self.asked: list[list[str]] = []

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(instructions))
        return np.array([[len(text), ord(text[0])] for text in instructions], dtype=np.float32)


def test_a_sentence_is_encoded_once_for_all_who_ask(tmp_path: Path) -> None:
    encoder = Counting()
    first = CachedEncoder(encoder, tmp_path).encode(["open", "shut", "open"])
    assert first.tolist() == [[4, ord("o")], [4, ord("s")], [4, ord("o")]]
    assert encoder.asked == [["open", "shut"]]
    again = CachedEncoder(encoder, tmp_path).encode(["shut", "push"])
    assert again.tolist() == [[4, ord("s")], [4, ord("p")]]
    assert encoder.asked == [["open", "shut"], ["push"]]


def test_another_encoder_does_not_get_these_vectors(tmp_path: Path) -> None:
    CachedEncoder(Counting(), tmp_path).encode(["open"])
    other = Counting("other")
    CachedEncoder(other, tmp_path).encode(["open"])
    assert other.asked == [["open"]]


def test_half_a_file_is_made_again(tmp_path: Path) -> None:
    encoder = Counting()
    CachedEncoder(encoder, tmp_path).encode(["open"])
    (file,) = tmp_path.rglob("*.f32")
    file.write_bytes(file.read_bytes()[:4])
    assert CachedEncoder(encoder, tmp_path).encode(["open"]).tolist() == [[4, ord("o")]]
    assert len(encoder.asked) == 2


def test_the_folder_is_in_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rt1" / "text"
