"""An export acts as its checkpoint does, or it is not kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.errors import ExportError, SaveError
from rt1.policy.export.exporter import ExportSettings, export
from rt1.policy.exported_manifest import MANIFEST_FILE, Format, Manifest, read_manifest
from rt1.policy.policy import Policy
from rt1.text.encoder import TableEncoder

TORCH = ExportSettings(to="torch-export")
Images = list[NDArray[np.uint8]]


def _compared(manifest: Manifest) -> Any:
    assert manifest.comparison is not None
    return manifest.comparison


def _assert_acts_as(checkpoint: Path, folder: Path, images: Images, embedding: FloatArray) -> None:
    exported, policy = Policy.from_export(folder), Policy.from_checkpoint(checkpoint)
    for _ in range(2):
        exported.reset(embedding)
        policy.reset(embedding)
        for image in images:
            action, logits = exported.act_with_logits(image)
            wanted_action, wanted = policy.act_with_logits(image)
            np.testing.assert_allclose(logits, wanted, rtol=0, atol=2e-4)
            for name, value in wanted_action.items():
                np.testing.assert_array_equal(action[name], value)
    # The comparison would say nothing of a network that answers every image alike.
    assert np.abs(exported.logits(images[0]) - exported.logits(images[1])).max() > 0.01


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("onnx", "rt1"),
        ("onnx", "maxvit"),
        ("onnx", "word pieces"),
        ("openvino", "rt1x"),
        ("torch-export", "rt1x"),
    ],
)
def test_each_format_gives_the_logits_of_the_network_before_and_after_images_are_forgotten(
    to: Format,
    kind: str,
    exported: Callable[[Format, str], tuple[Path, Path]],
    images: Images,
    embedding: FloatArray,
) -> None:
    source, folder = exported(to, kind)
    _assert_acts_as(source, folder, images, embedding)
    found = _compared(read_manifest(folder))
    assert (found.steps, found.images, found.tokens) == (14, "generated", 14 * 3)
    assert found.logit_difference <= 1e-4 * found.largest_logit


@pytest.mark.slow  # the C++ compiler takes its time
def test_compiled_code_gives_the_logits_of_the_network(
    torch_export: tuple[Path, Path], tmp_path: Path, images: Images, embedding: FloatArray
) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler; install g++")
    export(torch_export[0], tmp_path / "export", ExportSettings(to="aoti"))
    _assert_acts_as(torch_export[0], tmp_path / "export", images, embedding)


def test_int8_is_close_and_its_distance_is_noted(int8_export: Path) -> None:
    _assert_close_but_not_equal(read_manifest(int8_export))


def test_bf16_is_close_and_its_distance_is_noted(
    torch_export: tuple[Path, Path], skip_without: Callable[[Format], None], tmp_path: Path
) -> None:
    skip_without("openvino")
    manifest = export(torch_export[0], tmp_path / "export", ExportSettings(to="openvino", precision="bf16"))
    if _compared(manifest).logit_difference <= 1e-4 * _compared(manifest).largest_logit:
        pytest.skip("OpenVINO computes a bf16 export in fp32 on this processor")
    _assert_close_but_not_equal(manifest)


def _assert_close_but_not_equal(manifest: Manifest) -> None:
    assert manifest.precision != "fp32"
    assert 1e-4 < _compared(manifest).logit_difference / _compared(manifest).largest_logit < 0.1


def test_the_figures_and_the_files_are_in_the_folder(torch_export: tuple[Path, Path]) -> None:
    manifest = read_manifest(torch_export[1])
    names = sorted(file.name for file in torch_export[1].iterdir())
    assert names == [
        "README.md",
        "condition.pt2",
        "decoder.pt2",
        "export.json",
        "reference.safetensors",
        "tokenizer.pt2",
    ]
    assert _compared(manifest).tokens_agreeing == 14 * 3
    assert list(torch_export[1].parent.iterdir()) == [torch_export[1]]


def test_an_export_that_differs_too_much_is_not_kept(torch_export: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, _ = torch_export
    with pytest.raises(ExportError, match=r"logits differ .* the tolerance is 0 of that. Nothing was kept. Raise"):
        export(checkpoint, tmp_path / "export", ExportSettings(to="torch-export", tolerance=0.0))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_one_before(torch_export: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, _ = torch_export
    out = tmp_path / "export"
    export(checkpoint, out, TORCH)
    before = (out / MANIFEST_FILE).read_bytes()
    with pytest.raises(ExportError, match="Nothing was kept"):
        export(checkpoint, out, ExportSettings(to="torch-export", tolerance=0.0))
    assert (out / MANIFEST_FILE).read_bytes() == before
    assert read_manifest(out).kind == "torch-export"
    assert list(tmp_path.iterdir()) == [out]


def test_recorded_images_take_the_place_of_generated_ones(
    torch_export: tuple[Path, Path], tmp_path: Path, make_source: Callable[..., Any]
) -> None:
    manifest = export(
        torch_export[0],
        tmp_path / "export",
        ExportSettings(to="torch-export", steps=5, episodes=3),
        source=make_source(4, 6),
    )
    assert (_compared(manifest).images, _compared(manifest).steps) == ("recorded", 15)


def test_the_sentences_of_a_table_are_stored_and_asked_for_by_name(
    torch_export: tuple[Path, Path], tmp_path: Path, sentences: TableEncoder, images: Images
) -> None:
    export(torch_export[0], tmp_path / "export", TORCH, encoder=sentences)
    exported, policy = (
        Policy.from_export(tmp_path / "export"),
        Policy.from_checkpoint(torch_export[0], text_encoder=sentences),
    )
    for sentence in sentences.sentences:
        exported.reset(sentence)
        policy.reset(sentence)
        np.testing.assert_allclose(exported.logits(images[0]), policy.logits(images[0]), rtol=0, atol=2e-4)


def test_a_sentence_that_cannot_be_encoded_stops_the_export(
    torch_export: tuple[Path, Path], tmp_path: Path, sentences: TableEncoder
) -> None:
    with pytest.raises(ValueError, match="unknown instruction 'open the window'"):
        export(
            torch_export[0],
            tmp_path / "export",
            ExportSettings(to="torch-export", instructions=("open the window",)),
            encoder=sentences,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(torch_export: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SaveError, match=r"holds notes\.txt, which replacing it would remove"):
        export(torch_export[0], tmp_path, TORCH)
    with pytest.raises(SaveError, match=r"notes\.txt is a file"):
        export(torch_export[0], tmp_path / "notes.txt", TORCH)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_is_not_taken_for_an_export(torch_export: tuple[Path, Path]) -> None:
    checkpoint, _ = torch_export
    before = sorted(checkpoint.iterdir())
    with pytest.raises(SaveError, match="which replacing it would remove"):
        export(checkpoint, checkpoint, TORCH)
    assert sorted(checkpoint.iterdir()) == before


def test_what_was_left_of_a_killed_export_is_cleared_away(torch_export: tuple[Path, Path], tmp_path: Path) -> None:
    half = tmp_path / ".export.writing-1"
    half.mkdir()
    (half / "tokenizer.pt2").write_bytes(b"half")
    export(torch_export[0], tmp_path / "export", TORCH)
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]


def test_the_description_is_plain_json(torch_export: tuple[Path, Path]) -> None:
    data = json.loads((torch_export[1] / MANIFEST_FILE).read_text())
    assert data["sizes"] == {
        "window": 3,
        "image_size": [48, 48],
        "grid": [6, 6],
        "text_width": 8,
        "vocabulary": 0,
        "guidance": False,
        "image_tokens": 4,
        "token_width": 16,
        "parameters": 4648,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tolerance": -1.0}, "tolerance is -1.0, must be at least 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"agreement": 1.5}, r"agreement is 1.5"),
        ({"episodes": 1}, "episodes is 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportSettings(to="onnx", **values)


def test_episodes_must_be_longer_than_the_window(torch_export: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps is 3, must be more than the window of 3 images"):
        export(torch_export[0], tmp_path / "export", ExportSettings(to="torch-export", steps=3))
    assert ExportSettings(to="onnx").steps_for(6) == 10
