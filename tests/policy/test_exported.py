"""An exported folder as a policy: without torch, with the network's numbers, and with plain refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.errors import ExportError
from rt1.policy.exported import is_export, load_graphs, open_export, version_of
from rt1.policy.exported_manifest import Format, read_manifest
from rt1.policy.policy import Policy
from rt1.text.encoder import TableEncoder

Images = list[NDArray[np.uint8]]

WITHOUT_TORCH = """
import json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "cv2", "psutil", "rich", "tyro"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, NoTorch())
import numpy as np
from rt1 import Policy

folder, images = sys.argv[1:]
policy = Policy.from_export(folder, threads=1)
policy.reset("open the drawer")
logits = [policy.logits(image) for image in np.load(images)]
action = policy.act(np.load(images)[0])
maps = policy.attention_maps().sum((1, 2)).tolist()
result = {"logits": np.array(logits).tolist(), "action": {k: v.tolist() for k, v in action.items()}, "maps": maps}
print(json.dumps(result))
"""


@pytest.fixture
def policy(onnx_export: tuple[Path, Path]) -> Policy:
    return Policy.from_export(onnx_export[1], threads=1)


def test_without_torch_it_gives_the_networks_logits_actions_and_maps(
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
    np.testing.assert_allclose(answer["maps"], 1.0, rtol=1e-5)


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
def test_robots_in_one_batch_get_what_each_gets_from_the_network_alone(
    to: Format,
    kind: str,
    exported: Callable[[Format, str], tuple[Path, Path]],
    images: Images,
) -> None:
    source, folder = exported(to, kind)
    policy, network = Policy.from_export(folder, threads=1), Policy.from_checkpoint(source)
    embeddings = np.random.default_rng(4).integers(1, 9, (3, 8)).astype(np.float32)
    alone = [network.stepper.episode_logits(embedding, images[n:]) for n, embedding in enumerate(embeddings)]
    states = [policy.start(embedding) for embedding in embeddings]
    for step in range(5):  # the third robot begins last
        robots = range(3 if step else 2)
        shown = [images[robot + step - robot // 2] for robot in robots]
        logits = policy.step([states[robot] for robot in robots], shown)
        for robot in robots:
            np.testing.assert_allclose(logits[robot], alone[robot][step - robot // 2], rtol=0, atol=5e-4)
    np.testing.assert_allclose(policy.stepper.attention_maps(states[0]).sum((1, 2)), 1.0, rtol=1e-4)


def test_in_int8_a_robot_with_a_huge_text_embedding_changes_nothing_for_another(
    int8_export: Path, images: Images
) -> None:
    policy = Policy.from_export(int8_export, threads=1)
    alone, joined, huge = (policy.start(np.ones(policy.sizes.text_width, np.float32)) for _ in range(3))
    huge.condition = 1e4 * huge.condition
    expected = policy.step([alone], images[:1])[0]
    np.testing.assert_array_equal(policy.step([huge, joined], [images[1], images[0]])[1], expected)


def test_guidance_is_the_network_s(
    exported: Callable[[Format, str], tuple[Path, Path]], images: Images, embedding: FloatArray
) -> None:
    source, folder = exported("onnx", "word pieces")
    policy = Policy.from_export(folder, cond_scale=2.0, threads=1)
    network = Policy.from_checkpoint(source, cond_scale=2.0)
    expected = network.stepper.episode_logits(embedding, images[:4])
    np.testing.assert_allclose(policy.stepper.episode_logits(embedding, images[:4]), expected, rtol=0, atol=5e-4)
    plain = Policy.from_checkpoint(source).stepper.episode_logits(embedding, images[:4])
    assert np.abs(expected - plain).max() > 1e-2


def test_guidance_is_refused_for_an_export_that_has_none(onnx_export: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"cond_scale is 2\.0.*text\.drop"):
        Policy.from_export(onnx_export[1], cond_scale=2.0)


def test_a_policy_of_an_export_is_named_by_its_library_and_has_no_torch_network(policy: Policy) -> None:
    assert policy.engine == "onnx"
    assert policy.sizes.window == 3
    with pytest.raises(AttributeError, match="onnx has no torch network"):
        _ = policy.model


def test_a_checkpoint_s_place_takes_an_export_too(onnx_export: tuple[Path, Path]) -> None:
    checkpoint, folder = onnx_export
    assert (is_export(folder), is_export(checkpoint)) == (True, False)
    for engine in ("auto", "onnx", "onnx:fp32"):
        assert Policy.from_checkpoint(folder, engine=engine, threads=1).engine == "onnx"
    with pytest.raises(ExportError, match="is an export for onnx, not for openvino"):
        Policy.from_checkpoint(folder, engine="openvino")
    with pytest.raises(ExportError, match="device is cuda"):
        Policy.from_checkpoint(folder, device="cuda")
    with pytest.raises(ExportError, match=r"one embodiment\. Leave out the name 'left'"):
        Policy.from_checkpoint(folder, embodiment="left")


def test_a_sentence_without_a_table_says_how_to_get_one(torch_export: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"'table' .*--instructions"):
        Policy.from_export(torch_export[1]).reset("open the drawer")


def test_a_sentence_that_the_table_lacks_is_answered_with_the_closest(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"'open the door'.*'open the drawer'.*embedding"):
        policy.reset("open the door")


def test_another_encoder_than_the_networks_is_refused(onnx_export: tuple[Path, Path]) -> None:
    other = TableEncoder({"open the drawer": np.ones(8)}, "other")
    with pytest.raises(ValueError, match=r"'other' .* but 'table' .* is needed"):
        Policy.from_export(onnx_export[1], text_encoder=other)


def test_the_networks_own_encoder_can_be_given(onnx_export: tuple[Path, Path], sentences: TableEncoder) -> None:
    policy = Policy.from_export(onnx_export[1], text_encoder=sentences)
    policy.reset("close the drawer")
    assert policy.act(np.zeros((48, 48, 3), dtype=np.uint8)).keys() == {"move", "end"}


def test_a_graph_that_does_not_load_is_one_line(onnx_export: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(onnx_export[1], tmp_path / "copy"))
    (folder / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"does not load in onnx here: .*Export again on this machine") as caught:
        load_graphs(folder, read_manifest(onnx_export[1]))
    assert "\n" not in str(caught.value)


def test_a_library_that_is_not_installed_is_named(
    onnx_export: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
        open_export(onnx_export[1])


def test_the_version_of_a_package_whose_distribution_has_another_name_is_the_module_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert version_of("numpy") == np.__version__
    monkeypatch.setitem(sys.modules, "runtime_of_another_name", SimpleNamespace(__version__="1.2"))
    assert version_of("runtime_of_another_name") == "1.2"


@pytest.mark.parametrize("name", ["condition", "tokenizer", "decoder"])
def test_what_a_step_returned_is_not_changed_by_later_steps(name: str, torch_export: tuple[Path, Path]) -> None:
    engine: Any = load_graphs(torch_export[1], replace(read_manifest(torch_export[1])))
    condition = engine.condition(np.ones((1, 8), np.float32), dropped=False)
    image, tokens = np.ones((1, 48, 48, 3), np.float32), np.ones((1, 3, 4, 16), np.float32)
    calls: dict[str, Callable[[float], FloatArray]] = {
        "condition": lambda scale: engine.condition(scale * np.ones((1, 8), np.float32), dropped=False),
        "tokenizer": lambda scale: engine.encode(np.float32(scale) * image, condition)[0],
        "decoder": lambda scale: engine.decode(np.float32(scale) * tokens, np.array([2]), condition),
    }
    first = calls[name](1.0)
    copy = first.copy()
    assert not np.array_equal(calls[name](0.5), copy)
    np.testing.assert_array_equal(first, copy)
