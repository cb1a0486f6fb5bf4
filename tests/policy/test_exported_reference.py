"""Reference steps: an export that does not act as the network is refused, with the figure of agreement."""

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
from rt1.policy import exported
from rt1.policy.engines.base import Engine
from rt1.policy.exported import open_export
from rt1.policy.exported_manifest import MANIFEST_FILE, REFERENCE_FILE, Manifest, Sizes, read_manifest, sha256
from rt1.policy.exported_reference import check_reference, save_reference
from rt1.policy.stepper import Stepper

Images = list[NDArray[np.uint8]]


class Seeing(Engine):
    """Its tokens follow the image; some of them are wrong, as on a processor whose sums saturate."""

    name, precision = "seeing", "fp32"

    def __init__(self, sizes: Sizes, *, wrong: int = 0, value: float = 1.0) -> None:
        self.sizes, self.wrong, self.value = sizes, wrong, value
        self.step = 0

    def condition(self, text_SE: FloatArray, *, dropped: bool) -> FloatArray:
        assert not dropped
        return text_SE

    def encode(self, image_SHWC: FloatArray, condition: FloatArray) -> tuple[FloatArray, FloatArray]:
        token = np.full((1, 4, 16), image_SHWC.mean() + condition.sum(), dtype=np.float32)
        return token, np.ones((1, 4, 36), np.float32)

    def decode(self, token_STKE: FloatArray, step_S: NDArray[np.int64], condition: FloatArray) -> FloatArray:
        assert len(condition) == 1
        logits = np.zeros((1, 3, 16), dtype=np.float32)
        logits[0, :, int(40 * token_STKE[0, step_S[0], 0, 0]) % 8] = 1.0
        if self.step < self.wrong:
            logits[0, 0, 15] = 2.0 * self.value
        self.step += 1
        return logits


@pytest.fixture
def manifest(torch_export: tuple[Path, Path]) -> Manifest:
    return read_manifest(torch_export[1])


@pytest.fixture
def folder(manifest: Manifest, images: Images, tmp_path: Path) -> Path:
    """A folder with the reference steps of :class:`Seeing`: three episodes of four steps."""
    trials = [(np.zeros(16)[::2], images[:4])] * 3
    save_reference(Stepper(Seeing(manifest.sizes)), tmp_path, manifest, trials)
    return tmp_path


def test_steps_are_stored_at_the_network_s_size(folder: Path) -> None:
    arrays = load_file(folder / REFERENCE_FILE)
    assert {name: array.shape for name, array in arrays.items()} == {
        "embeddings": (3, 8),
        "images": (3, 4, 48, 48, 3),
        "logits": (3, 4, 3, 16),
    }


def test_no_more_steps_are_stored_than_200_clear_tokens_need(
    manifest: Manifest, images: Images, tmp_path: Path
) -> None:
    trials = [(np.zeros(8), images)] * 100  # 8 steps of 3 clear tokens each
    save_reference(Stepper(Seeing(manifest.sizes)), tmp_path, manifest, trials)
    assert load_file(tmp_path / REFERENCE_FILE)["logits"].shape == (9, 8, 3, 16)


def test_a_network_that_is_never_sure_stores_a_limited_number_of_steps(
    manifest: Manifest, images: Images, tmp_path: Path
) -> None:
    assert manifest.comparison is not None
    noisy = replace(manifest, comparison=replace(manifest.comparison, logit_difference=9.0))
    save_reference(Stepper(Seeing(manifest.sizes)), tmp_path, noisy, [(np.zeros(8), images)] * 100)
    assert load_file(tmp_path / REFERENCE_FILE)["logits"].shape == (32, 8, 3, 16)


def test_an_export_that_acts_as_the_network_is_taken(folder: Path, manifest: Manifest) -> None:
    check_reference(Stepper(Seeing(manifest.sizes)), folder, manifest)
    assert load_file(folder / REFERENCE_FILE)["logits"].argmax(-1).any()


@pytest.mark.parametrize(("wrong", "figure"), [(1, "97.2%"), (4, "88.9%")])
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_an_export_that_acts_otherwise_is_refused_with_the_figure(
    wrong: int, figure: str, value: float, folder: Path, manifest: Manifest
) -> None:
    stepper = Stepper(Seeing(manifest.sizes, wrong=wrong, value=value))
    with pytest.raises(ExportError, match=f"{figure} .*36 clear tokens .*99%") as caught:
        check_reference(stepper, folder, manifest)
    assert "\n" not in str(caught.value)


def test_a_limit_that_was_lowered_at_the_export_is_lower_here_too(folder: Path, manifest: Manifest) -> None:
    assert manifest.comparison is not None
    lenient = replace(manifest, comparison=replace(manifest.comparison, least_agreement=0.85))
    check_reference(Stepper(Seeing(manifest.sizes, wrong=4)), folder, lenient)
    with pytest.raises(ExportError, match="at least 85% must agree"):
        check_reference(Stepper(Seeing(manifest.sizes, wrong=9)), folder, lenient)


def test_a_token_that_the_comparison_s_difference_can_change_is_not_clear(folder: Path, manifest: Manifest) -> None:
    assert manifest.comparison is not None
    noisy = replace(manifest, comparison=replace(manifest.comparison, logit_difference=0.49))
    with pytest.raises(ExportError, match="of the 36 clear tokens"):
        check_reference(Stepper(Seeing(noisy.sizes, wrong=4)), folder, noisy)
    noisy = replace(manifest, comparison=replace(manifest.comparison, logit_difference=0.51))
    with pytest.warns(UserWarning, match="no clear token"):
        check_reference(Stepper(Seeing(noisy.sizes, wrong=4)), folder, noisy)


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
        check_reference(Stepper(Seeing(manifest.sizes)), folder, manifest)


def test_reference_steps_of_another_number_of_bins_than_the_graphs_are_refused(
    folder: Path, manifest: Manifest
) -> None:
    arrays = load_file(folder / REFERENCE_FILE)
    save_file({**arrays, "logits": arrays["logits"][..., :15].copy()}, folder / REFERENCE_FILE)
    fewer = replace(manifest, action_spec=replace(manifest.action_spec, bins=15))
    with pytest.raises(ExportError, match="graphs of 3 dimensions of 16 bins, its action spec has 3 of 15"):
        check_reference(Stepper(Seeing(manifest.sizes)), folder, fewer)


def test_an_export_that_agreed_is_remembered_for_this_machine_and_library(
    torch_export: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checks = Path(shutil.copytree(torch_export[1], tmp_path / "copy")), []
    monkeypatch.setattr(exported, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(exported, "check_reference", lambda *_: checks.append(1))

    def is_checked() -> bool:
        checks.clear()
        open_export(folder)
        return bool(checks)

    assert [is_checked(), is_checked()] == [True, False]
    for change in ("instructions", "processor"):
        monkeypatch.setattr(exported, change, lambda: "another")
        assert [is_checked(), is_checked()] == [True, False]
    monkeypatch.setattr(exported, "version_of", lambda _: "0.1")
    assert [is_checked(), is_checked()] == [True, False]
    data = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps({**data, "weights": "0" * 64, "digest": None}))
    assert [is_checked(), is_checked()] == [True, False]


def test_an_export_that_does_not_agree_is_checked_each_time(
    torch_export: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ExportError("0% agree")

    monkeypatch.setattr(exported, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(exported, "check_reference", refuse)
    for _ in range(2):
        with pytest.raises(ExportError, match="0%"):
            open_export(torch_export[1])


@pytest.mark.parametrize("made", ["onnx", "torch"])
def test_an_opened_export_has_taken_its_reference_steps(
    made: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(f"{made}_export")[1], tmp_path / "copy"))
    assert open_export(folder, threads=1)[1] == read_manifest(folder)
    arrays = load_file(folder / REFERENCE_FILE)
    assert arrays["logits"].shape[0] * arrays["logits"].shape[1] * 3 >= 200
    arrays["logits"] = np.roll(arrays["logits"], 1, axis=-1)  # as if this machine chose the next token
    save_file(arrays, folder / REFERENCE_FILE)
    data = json.loads((folder / MANIFEST_FILE).read_text())
    data["files"][REFERENCE_FILE] = sha256(folder / REFERENCE_FILE)
    del data["digest"]
    (folder / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(ExportError, match=r"\d+\.\d% .*clear tokens"):
        open_export(folder, threads=1)
