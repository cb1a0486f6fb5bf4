"""What an exported folder says of itself, and that it is held against its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.errors import ExportError
from rt1.policy.exported_manifest import MANIFEST_FILE, Manifest, read_manifest, sha256

SIZES = {
    "window": 3,
    "image_size": [48, 48],
    "grid": [6, 6],
    "text_width": 8,
    "vocabulary": 0,
    "guidance": False,
    "image_tokens": 4,
    "token_width": 16,
    "parameters": 9,
}


@pytest.fixture
def folder(torch_export: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of an export."""
    return Path(shutil.copytree(torch_export[1], tmp_path / "copy"))


@pytest.fixture
def rewrite(folder: Path) -> Callable[..., None]:
    """Change entries of the copy's description."""

    def change(**entries: Any) -> None:
        data = json.loads((folder / MANIFEST_FILE).read_text())
        (folder / MANIFEST_FILE).write_text(json.dumps({**data, **entries}))

    return change


def test_the_description_survives_json(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_the_description_tells_what_was_exported_and_how_well(folder: Path, torch_export: tuple[Path, Path]) -> None:
    manifest = read_manifest(folder)
    assert (manifest.kind, manifest.precision, manifest.control_rate) == ("torch-export", "fp32", 3.0)
    assert (manifest.sizes.window, manifest.sizes.image_size) == (3, (48, 48))
    assert manifest.versions["torch"]
    assert manifest.weights == sha256(torch_export[0] / "model.safetensors")
    assert manifest.text_encoder is not None
    assert manifest.comparison is not None
    assert manifest.comparison.steps == 14
    assert sorted(manifest.files) == ["condition.pt2", "decoder.pt2", "reference.safetensors", "tokenizer.pt2"]


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no export\.json"):
        read_manifest(tmp_path)


def test_a_changed_or_missing_file_is_noticed(folder: Path) -> None:
    graph = folder / "decoder.pt2"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ExportError, match=r"decoder\.pt2 .*missing"):
        read_manifest(folder)
    graph.unlink()
    with pytest.raises(ExportError, match=r"decoder\.pt2 is missing"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["decoder.pt2", "reference.safetensors"])
def test_a_file_that_the_description_does_not_know_is_refused(
    name: str, folder: Path, rewrite: Callable[..., None]
) -> None:
    rewrite(files={key: value for key, value in read_manifest(folder).files.items() if key != name})
    with pytest.raises(ExportError, match=f"{name} is missing or not the file"):
        read_manifest(folder)


def test_a_description_cannot_point_outside_its_folder(folder: Path, rewrite: Callable[..., None]) -> None:
    files = read_manifest(folder).files
    (folder.parent / "secret").write_text("secret")
    rewrite(files={**files, "../secret": "0"})
    with pytest.raises(ExportError, match=r"'../secret' is a path"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 99}, "its format is 99. This version of rt1 reads format 3. Export again"),
        ({"kind": "onx"}, "unknown export format 'onx', did you mean 'onnx'"),
        ({"format": 2}, "its format is 2. .*Export again"),
        ({"precision": "int9"}, "unknown precision 'int9', did you mean 'int8'"),
        ({"sizes": {**SIZES, "window": 0}}, "window is 0, must be at least 1"),
        ({"sizes": {"window": "six"}}, "sizes.window is 'six', must be of type int"),
        ({"action_spec": None}, "cannot be used"),
        ({"files": 3}, "cannot be used"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    folder: Path, rewrite: Callable[..., None], entries: dict[str, Any], message: str
) -> None:
    rewrite(**entries)
    with pytest.raises(ExportError, match=message):
        read_manifest(folder)


def test_a_changed_action_spec_is_noticed_and_an_export_without_a_digest_is_read(
    folder: Path, rewrite: Callable[..., None]
) -> None:
    data = json.loads((folder / MANIFEST_FILE).read_text())
    spec = {**data["action_spec"], "temperature": 0.5}
    rewrite(action_spec=spec)
    with pytest.raises(ExportError, match=r"export\.json was changed"):
        read_manifest(folder)
    rewrite(digest=None)
    assert read_manifest(folder).action_spec.temperature == 0.5


def test_text_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text("{")
    with pytest.raises(ExportError, match="is not JSON"):
        read_manifest(folder)
