"""Reference steps: an export that does not act as where it was made is refused, with the figure of agreement."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rt1.actions import FloatArray
from rt1.errors import ExportError
from rt1.policy.exported import ExportedPolicy
from rt1.policy.exported_manifest import MANIFEST_FILE, REFERENCE_FILE, Manifest, read_manifest, sha256
from rt1.policy.exported_reference import check_reference, save_reference
from rt1.policy.exported_torch import load_exported


class Seeing:
    """Graphs whose tokens follow the image; some of them are wrong, as on a processor whose sums saturate."""

    def __init__(self, *, wrong: int = 0, value: float = 1.0) -> None:
        self.wrong, self.value = wrong, value
        self.step = 0

    def tokenize(self, image_1HWC: FloatArray, text_1E: FloatArray) -> FloatArray:
        return np.full((1, 4, 16), image_1HWC.mean() + text_1E.sum(), dtype=np.float32)

    def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
        assert text_1E is None
        logits = np.zeros((1, 3, 16), dtype=np.float32)
        logits[0, :, int(40 * token_1TKE[0, step_1[0], 0, 0]) % 8] = 1.0
        if self.step < self.wrong:
            logits[0, 0, 15] = 2.0 * self.value
        self.step += 1
        return logits


@pytest.fixture
def manifest(torch_export: tuple[Path, Path]) -> Manifest:
    return read_manifest(torch_export[1])


@pytest.fixture
def folder(manifest: Manifest, images: list[NDArray[np.uint8]], tmp_path: Path) -> Path:
    """A folder with the reference steps of :class:`Seeing`."""
    policy = ExportedPolicy(manifest, Seeing())
    save_reference(policy, tmp_path, manifest, embedding=np.zeros(16)[::2], images=images)
    return tmp_path


def test_one_more_step_than_the_window_is_stored_at_the_network_s_size(folder: Path) -> None:
    arrays = load_file(folder / REFERENCE_FILE)
    assert {name: array.shape for name, array in arrays.items()} == {
        "embedding": (8,),
        "images": (4, 48, 48, 3),
        "logits": (4, 3, 16),
    }


def test_an_export_that_acts_as_where_it_was_made_is_taken(folder: Path, manifest: Manifest) -> None:
    policy = ExportedPolicy(manifest, Seeing())
    check_reference(policy, folder, manifest)
    assert load_file(folder / REFERENCE_FILE)["logits"].argmax(-1).any()


@pytest.mark.parametrize(("wrong", "figure"), [(1, "91.7%"), (4, "66.7%")])
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_an_export_that_acts_otherwise_is_refused_with_the_figure(
    wrong: int, figure: str, value: float, folder: Path, manifest: Manifest
) -> None:
    policy = ExportedPolicy(manifest, Seeing(wrong=wrong, value=value))
    with pytest.raises(ExportError, match=f"{figure} .*12 clear tokens .*99%") as caught:
        check_reference(policy, folder, manifest)
    assert "\n" not in str(caught.value)


def test_a_token_that_the_comparison_s_difference_can_change_is_not_clear(folder: Path, manifest: Manifest) -> None:
    assert manifest.comparison is not None
    noisy = replace(manifest, comparison=replace(manifest.comparison, logit_difference=0.49))
    with pytest.raises(ExportError, match="of the 12 clear tokens"):
        check_reference(ExportedPolicy(noisy, Seeing(wrong=4)), folder, noisy)
    noisy = replace(manifest, comparison=replace(manifest.comparison, logit_difference=0.51))
    with pytest.warns(UserWarning, match="no clear token"):
        check_reference(ExportedPolicy(noisy, Seeing(wrong=4)), folder, noisy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_bytes(b"{"), "cannot be read"),
        (lambda file: file.unlink(), "cannot be read"),
        (lambda file: save_file({"images": np.zeros(3)}, file), "holds other reference steps"),
    ],
)
def test_reference_steps_that_cannot_be_used_are_refused(
    change: Callable[[Path], Any], message: str, folder: Path, manifest: Manifest
) -> None:
    change(folder / REFERENCE_FILE)
    with pytest.raises(ExportError, match=rf"reference\.safetensors .*{message}"):
        check_reference(ExportedPolicy(manifest, Seeing()), folder, manifest)


@pytest.mark.parametrize("made", ["onnx", "torch"])
def test_a_loaded_export_has_taken_its_reference_steps(
    made: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(f"{made}_export")[1], tmp_path / "copy"))
    assert load_exported(folder, threads=1).manifest == read_manifest(folder)
    arrays = load_file(folder / REFERENCE_FILE)
    arrays["logits"] = np.roll(arrays["logits"], 1, axis=-1)  # as if this machine chose the next token
    save_file(arrays, folder / REFERENCE_FILE)
    data = json.loads((folder / MANIFEST_FILE).read_text())
    data["files"][REFERENCE_FILE] = sha256(folder / REFERENCE_FILE)
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(ExportError, match=r"\d+\.\d% .*clear tokens"):
        load_exported(folder, threads=1)
