"""Universal Sentence Encoder from an ONNX file: a stand-in of the same form, other files, and what is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.text.encoder import USE_LARGE_5, TextEncoder, TextEncoderIdentity, check_same_encoder
from rt1.text.load import load_text_encoder
from rt1.text.use import UseOnnx

WriteModel = Callable[..., Path]
NUMBERS = {"open the drawer": 1.0, "close the drawer": 2.0, "OPEN": 3.0}


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """Write a model that multiplies the number of a sentence by 0, 1, ..., 511 (or less)."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    make, kinds = onnx.helper, onnx.TensorProto

    def write(*, width: int = 512, shape: tuple[Any, ...] = ("B",), upper: str = "", second: bool = False) -> Path:
        number = {"keys_strings": list(NUMBERS), "values_floats": list(NUMBERS.values()), "default_float": -1.0}
        nodes = [
            make.make_node("LabelEncoder", ["upper" if upper else "text"], ["number"], domain="ai.onnx.ml", **number),
            make.make_node("Reshape", ["number", "column"], ["column_of_numbers"]),
            make.make_node("MatMul", ["column_of_numbers", "row"], ["vector"]),
        ]
        if upper:
            nodes.insert(0, make.make_node(upper, ["text"], ["upper"], domain="ai.onnx.contrib"))
        outputs = [make.make_tensor_value_info("vector", kinds.FLOAT, ["B", width])]
        if second:
            outputs.append(make.make_tensor_value_info("number", kinds.FLOAT, list(shape)))
        graph = make.make_graph(
            nodes,
            "stand-in",
            [make.make_tensor_value_info("text", kinds.STRING, list(shape))],
            outputs,
            initializer=[
                make.make_tensor("column", kinds.INT64, [2], [-1, 1]),
                make.make_tensor("row", kinds.FLOAT, [1, width], np.arange(width, dtype=np.float32)),
            ],
        )
        versions = {"": 17, "ai.onnx.ml": 2, "ai.onnx.contrib": 1}
        operators = [make.make_opsetid(domain, version) for domain, version in versions.items()]
        path = tmp_path / "use.onnx"
        onnx.save(make.make_model(graph, opset_imports=operators, ir_version=8), path)
        return path

    return write


def test_sentences_go_in_and_their_vectors_come_out_in_order(write_model: WriteModel) -> None:
    encoder = UseOnnx(write_model())
    encoded = encoder.encode(["close the drawer", "öffne die Schublade", "open the drawer"])
    assert isinstance(encoder, TextEncoder)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, np.outer([2, -1, 1], np.arange(512)))
    assert encoder.encode([]).shape == (0, 512)
    with pytest.raises(ValueError, match="instruction 0 is ' '"):
        encoder.encode([" "])


def test_a_model_of_one_sentence_at_a_time_will_do(write_model: WriteModel) -> None:
    encoded = UseOnnx(write_model(shape=(1,))).encode(["close the drawer", "open the drawer"])
    np.testing.assert_array_equal(encoded[:, 3], [6, 3])


def test_the_file_is_taken_for_google_s_encoder_and_its_hash_tells_it_from_others(write_model: WriteModel) -> None:
    path = write_model()
    identity = UseOnnx(path).identity
    assert identity.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    check_same_encoder(USE_LARGE_5, identity)
    other = TextEncoderIdentity(name=USE_LARGE_5.name, sha256="0" * 64, width=512)
    with pytest.raises(ValueError, match=r"'universal-sentence-encoder-large/5' .* is needed"):
        check_same_encoder(other, identity)


def test_the_path_of_an_onnx_file_loads_it(write_model: WriteModel) -> None:
    path = write_model()
    encoder = load_text_encoder(str(path))
    assert isinstance(encoder, UseOnnx)
    assert encoder.identity == UseOnnx(path).identity


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            {"width": 384},
            r"the inputs text: tensor\(string\) \['B'\] and the outputs vector: tensor\(float\) \['B', 384\]",
        ),
        ({"second": True}, r"vector: tensor\(float\) \['B', 512\], number: tensor\(float\) \['B'\]"),
        ({"shape": ("B", 1)}, r"text: tensor\(string\) \['B', 1\]"),
        ({"shape": (32,)}, r"text: tensor\(string\) \[32\]"),
    ],
)
def test_another_form_is_refused_with_what_the_file_has(
    change: dict[str, Any], found: str, write_model: WriteModel
) -> None:
    with pytest.raises(ValueError, match=rf"use\.onnx .*{found}.*strings") as caught:
        UseOnnx(write_model(**change))
    assert "\n" not in str(caught.value)


def test_operators_that_nobody_has_are_named(write_model: WriteModel) -> None:
    message = r"cannot be loaded by onnxruntime: .*NoSuchOperator.*. Run `pip install onnxruntime-extensions`, or"
    with pytest.raises(ValueError, match=message) as caught:
        UseOnnx(write_model(upper="NoSuchOperator"))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_extensions") is None, reason="onnxruntime-extensions is not installed"
)
def test_operators_of_onnxruntime_extensions_are_taken_from_there(write_model: WriteModel) -> None:
    assert UseOnnx(write_model(upper="StringUpper")).encode(["open"])[0, 1] == 3


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = tmp_path / "use.onnx"
    with pytest.raises(ValueError, match=r"use\.onnx .*not exist"):
        UseOnnx(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"use\.onnx .*Protobuf parsing failed"):
        UseOnnx(path)


def test_a_missing_onnxruntime_is_one_line_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "use.onnx"
    path.touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"onnxruntime.*pip install 'rt1\[use\]'"):
        UseOnnx(path)
