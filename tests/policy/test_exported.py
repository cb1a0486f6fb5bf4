"""The exported policy on a robot: without torch, with the network's numbers, and with plain refusals."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.errors import ExportError, PolicyError
from rt1.policy.exported import ExportedPolicy, import_openvino, load_exported
from rt1.policy.exported_manifest import Manifest, read_manifest
from rt1.policy.policy import Policy
from rt1.text.encoder import TableEncoder

Images = list[NDArray[np.uint8]]

WITHOUT_TORCH = """
import json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "cv2", "rich"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, NoTorch())
import numpy as np
from rt1.policy.exported import load_exported

folder, images = sys.argv[1:]
policy = load_exported(folder, threads=1)
policy.reset("open the drawer")
logits = [policy.logits(image) for image in np.load(images)]
action = policy.act(np.load(images)[0])
print(json.dumps({"logits": np.array(logits).tolist(), "action": {k: v.tolist() for k, v in action.items()}}))
"""


class Counting:
    """Graphs that note what they are given: an image token is the image's mean, the logits are the memory."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.memories: list[FloatArray] = []

    def tokenize(self, image_1HWC: FloatArray, text_1E: FloatArray) -> FloatArray:
        return np.full((1, 4, 16), image_1HWC.mean() + text_1E.sum(), dtype=np.float32)

    def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
        assert text_1E is None
        self.steps.append(int(step_1[0]))
        self.memories.append(token_1TKE[0, : self.steps[-1] + 1, 0, 0].copy())
        return np.zeros((1, 3, 16), dtype=np.float32)


@pytest.fixture
def manifest(torch_export: tuple[Path, Path]) -> Manifest:
    return read_manifest(torch_export[1])


def test_without_torch_it_gives_the_networks_logits_and_actions(
    onnx_export: tuple[Path, Path], sentences: TableEncoder, images: Images, tmp_path: Path
) -> None:
    checkpoint, folder = onnx_export
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, folder, tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    policy = Policy.from_checkpoint(checkpoint, text_encoder=sentences)
    policy.reset("open the drawer")
    wanted = [policy.logits(image) for image in images]
    np.testing.assert_allclose(np.array(answer["logits"]), wanted, rtol=0, atol=2e-4)
    action = policy.act(images[0])
    assert {name: value.tolist() for name, value in action.items()} == answer["action"]


def test_the_memory_grows_to_the_window_then_forgets_the_oldest_image(manifest: Manifest) -> None:
    graphs = Counting()
    policy = ExportedPolicy(manifest, graphs)
    policy.reset(np.zeros(8, dtype=np.float32))
    for grey in (0, 51, 102, 153, 204):
        policy.act(np.full((48, 48, 3), grey, dtype=np.uint8))
    assert graphs.steps == [0, 1, 2, 2, 2]
    np.testing.assert_allclose(graphs.memories[1], [0.0, 0.2], atol=1e-6)
    np.testing.assert_allclose(graphs.memories[4], [0.4, 0.6, 0.8], atol=1e-6)


def test_a_reset_forgets_the_images_and_takes_the_new_instruction(manifest: Manifest) -> None:
    graphs = Counting()
    policy = ExportedPolicy(manifest, graphs)
    white = np.full((48, 48, 3), 255, dtype=np.uint8)
    policy.reset(np.zeros(8, dtype=np.float32))
    policy.act(white)
    policy.act(white)
    policy.reset(np.ones(8, dtype=np.float32))
    policy.act(white)
    assert graphs.steps == [0, 1, 0]
    np.testing.assert_allclose(graphs.memories[2], [9.0], atol=1e-6)


def test_robots_that_share_the_graphs_have_memories_of_their_own(manifest: Manifest) -> None:
    graphs = Counting()
    one = ExportedPolicy(manifest, graphs)
    one.reset(np.zeros(8, dtype=np.float32))
    other = one.new_session()
    other.reset(np.zeros(8, dtype=np.float32))
    for policy, grey in ((one, 0), (other, 255), (one, 0)):
        policy.act(np.full((48, 48, 3), grey, dtype=np.uint8))
    assert graphs.steps == [0, 0, 1]
    np.testing.assert_allclose(graphs.memories[2], [0.0, 0.0], atol=1e-6)


def test_what_was_given_is_not_kept_by_reference(manifest: Manifest) -> None:
    graphs = Counting()
    policy = ExportedPolicy(manifest, graphs)
    embedding = np.zeros(8, dtype=np.float32)
    policy.reset(embedding)
    embedding[:] = 1.0
    policy.act(np.zeros((48, 48, 3), dtype=np.uint8))
    np.testing.assert_array_equal(graphs.memories[0], [0.0])


def test_an_export_whose_logits_are_not_finite_does_not_act(manifest: Manifest) -> None:
    class Broken(Counting):
        def decode(self, token_1TKE: FloatArray, step_1: NDArray[np.int64], text_1E: FloatArray | None) -> FloatArray:
            return super().decode(token_1TKE, step_1, text_1E) * np.float32(np.nan)

    policy = ExportedPolicy(manifest, Broken())
    policy.reset(np.zeros(8, dtype=np.float32))
    with pytest.raises(PolicyError, match="48 of 48 logits are not finite"):
        policy.act(np.zeros((48, 48, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"size 1e\+20"):
        policy.reset(np.full(8, 1e20, dtype=np.float32))


def test_acting_before_the_first_reset_is_refused(manifest: Manifest) -> None:
    with pytest.raises(RuntimeError, match="before reset"):
        ExportedPolicy(manifest, Counting()).act(np.zeros((48, 48, 3), dtype=np.uint8))


def test_an_embedding_of_another_encoder_is_refused(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match=r"\(7,\).*\(8,\)"):
        ExportedPolicy(manifest, Counting()).reset(np.zeros(7, dtype=np.float32))


def test_a_sentence_without_a_table_says_how_to_get_one(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match=r"'table' .*--instructions"):
        ExportedPolicy(manifest, Counting()).reset("open the drawer")
    with pytest.raises(ValueError, match="no table of text embeddings, only"):
        ExportedPolicy(replace(manifest, text_encoder=None), Counting()).reset("open the drawer")


def test_a_sentence_that_the_table_lacks_is_answered_with_the_closest(
    manifest: Manifest, sentences: TableEncoder
) -> None:
    policy = ExportedPolicy(manifest, Counting(), encoder=sentences)
    with pytest.raises(ValueError, match=r"'open the door'.*'open the drawer'.*embedding"):
        policy.reset("open the door")


def test_another_encoder_than_the_networks_is_refused(onnx_export: tuple[Path, Path]) -> None:
    other = TableEncoder({"open the drawer": np.ones(8)}, "other")
    with pytest.raises(ValueError, match=r"'other' .* but 'table' .* is needed"):
        load_exported(onnx_export[1], encoder=other)


def test_the_networks_own_encoder_can_be_given(onnx_export: tuple[Path, Path], sentences: TableEncoder) -> None:
    policy = load_exported(onnx_export[1], encoder=sentences)
    policy.reset("close the drawer")
    assert policy.act(np.zeros((48, 48, 3), dtype=np.uint8)).keys() == {"move", "end"}


def test_a_format_that_needs_torch_names_the_module_that_loads_it(torch_export: tuple[Path, Path]) -> None:
    with pytest.raises(ExportError, match="exported_torch"):
        load_exported(torch_export[1])


def test_openvino_is_imported_without_its_usage_reports() -> None:
    if importlib.util.find_spec("openvino") is None:  # importorskip would import it, reports and all
        pytest.skip("openvino is not installed; it comes with the extra openvino")
    code = (
        "import sys; from rt1.policy.exported import import_openvino; import_openvino(); "
        "print('openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert import_openvino().Core().available_devices
