"""Encoders of Hugging Face, tiny ones made here: BERT, T5 and CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Metaspace, Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import UnigramTrainer

from rt1.errors import DataError
from rt1.text.encoder import TextEncoder
from rt1.text.hugging_face import HuggingFaceEncoder
from rt1.text.load import load_identified, load_text_encoder
from rt1.text.pieces import check_different, encode_known

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "open", "close", "the", "drawer", "door", "now"]


def _save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=12
    ).save_pretrained(folder)


def _model(kind: str) -> Any:
    small = {"vocab_size": len(WORDS), "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    if kind == "bert":
        config = transformers.BertConfig(hidden_size=8, max_position_embeddings=12, **small)
        return transformers.BertModel(config)
    if kind == "clip":
        config = transformers.CLIPTextConfig(hidden_size=8, max_position_embeddings=12, eos_token_id=3, **small)
        return transformers.CLIPTextModel(config)
    t5 = transformers.T5Config(vocab_size=len(WORDS), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(t5)


@pytest.fixture(scope="module", params=["bert", "t5", "clip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    _model(request.param).save_pretrained(path)
    _save_tokenizer(path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_sentence_gets_the_same_vector_alone_and_among_others(folder: Path) -> None:
    encoder = HuggingFaceEncoder(str(folder))
    assert isinstance(encoder, TextEncoder)
    together = encoder.encode(["open the drawer", "close", "open the door now"])
    assert together.shape == (3, 8)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[0], encoder.encode(["open the drawer"])[0], atol=1e-6)
    assert np.abs(together[0] - together[2]).max() > 1e-4


def test_pooling_takes_the_first_the_last_the_mean_or_all_tokens(folder: Path) -> None:
    text = ["open the drawer"]
    tokens = HuggingFaceEncoder(str(folder), pooling="tokens", tokens=7).encode(text).reshape(7, 8)
    assert not tokens[5:].any()
    assert np.abs(tokens[:5]).min(axis=1).all()
    for pooling, expected in (("cls", tokens[0]), ("eos", tokens[4]), ("mean", tokens[:5].mean(0))):
        found = load_text_encoder(f"hf:{folder}:{pooling}").encode(text)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_token_ids_may_be_given_in_place_of_sentences(folder: Path) -> None:
    encoder = HuggingFaceEncoder(str(folder))
    ids = [2, 4, 6, 7, 3]
    np.testing.assert_array_equal(encoder.encode([ids]), encoder.encode(["open the drawer"]))


def test_the_identity_names_it_so_that_it_can_be_loaded_again(folder: Path) -> None:
    encoder = load_text_encoder(f"hf:{folder}:tokens=7")
    assert encoder.identity.tokens == 7
    assert encoder.identity.width == 56
    again = load_identified(encoder.identity)
    np.testing.assert_array_equal(again.encode(["close the door"]), encoder.encode(["close the door"]))


def test_words_that_the_tokenizer_does_not_know_are_named(folder: Path) -> None:
    encoder = load_text_encoder(f"hf:{folder}")
    for _ in range(2):  # encoded, then read from the cache
        with pytest.warns(UserWarning, match=r"'grab the handle'.*'grab', 'handle'"):
            encoder.encode(["grab the handle", "open the door"])
    with pytest.raises(ValueError, match=r"does not know: 'grab'"):
        encode_known(encoder, "grab the door")
    with pytest.warns(UserWarning, match="does not know"):
        vectors = encoder.encode(["open the jar", "open the lid"])
    with pytest.raises(DataError, match=r"'open the jar', 'open the lid'"):
        check_different(["open the jar", "open the lid"], vectors, encoder)


def test_a_multilingual_folder_tells_instructions_in_several_scripts_apart(tmp_path: Path) -> None:
    sentences = ["open the drawer", "打开抽屉", "关闭抽屉", "दराज खोलो", "دراج بند کرو", "закрой ящик"]
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.train_from_iterator(
        sentences, UnigramTrainer(vocab_size=90, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>")
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", model_max_length=40
    ).save_pretrained(tmp_path)
    small = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    config = transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=42, pad_token_id=1, **small
    )
    transformers.XLMRobertaModel(config).save_pretrained(tmp_path)
    encoder = load_text_encoder(f"hf:{tmp_path}")
    vectors = encoder.encode(sentences)
    check_different(sentences, vectors, encoder)
    np.testing.assert_allclose(encode_known(encoder, "打开抽屉"), vectors[1], atol=1e-6)
    with pytest.raises(ValueError, match=r"does not know: .*🙂"):
        encode_known(encoder, "open the 🙂")


def test_changed_weights_are_another_encoder(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    identity = HuggingFaceEncoder(str(copy)).identity
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="Vectors of two encoders"):
        load_identified(identity)


def test_what_cannot_be_encoded_is_refused(folder: Path) -> None:
    encoder = HuggingFaceEncoder(str(folder), pooling="tokens", tokens=4)
    with pytest.raises(ValueError, match=r"instruction 1 \('open the drawer'\) .*5 tokens.*1 to 4.*tokens=N"):
        encoder.encode(["open", "open the drawer"])
    with pytest.raises(ValueError, match="must say something"):
        encoder.encode([""])
    with pytest.raises(ValueError, match=r"has 14 tokens. .* takes 1 to 12"):
        HuggingFaceEncoder(str(folder)).encode(["the " * 12])
    with pytest.raises(ValueError, match=r"13 tokens .*at most 12"):
        load_text_encoder(f"hf:{folder}:tokens=13")


def test_an_encoder_that_is_nowhere_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cache.*hf download nobody/nothing"):
        load_text_encoder("hf:nobody/nothing")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be used as a text encoder"):
        load_text_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize("ending", ["median", "tokens", "tokens=1", "mean=3"])
def test_an_unknown_pooling_is_refused(ending: str) -> None:
    with pytest.raises(ValueError, match=r"pooling is mean, cls, eos or tokens=N|a number of at least 2"):
        load_text_encoder(f"hf:name:{ending}")
