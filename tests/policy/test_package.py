"""Packages: what they hold, that they act as the policy they were made from, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rt1 import Policy
from rt1.checkpoint import TrainingState, load_info, load_model, save_checkpoint
from rt1.errors import CheckpointError, DataError, ExportError, SaveError
from rt1.policy.export.exporter import _table
from rt1.policy.exported import stored_table
from rt1.policy.exported_manifest import read_manifest, sha256
from rt1.policy.open import weights_hash
from rt1.policy.package import LARGEST_TABLE, PackageSettings, package
from rt1.text.encoder import TableEncoder, TextEncoder, TextEncoderIdentity

RESULTS = {"tasks": [{"task": "open", "trials": 20, "success": 0.95, "interval95": [0.764, 0.991]}]}


@pytest.fixture
def run(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A run folder whose checkpoint has training state."""
    source = checkpoint()
    training = TrainingState(progress={"update": 1}, tensors={"moment": torch.zeros(2)})
    save_checkpoint(tmp_path / "run" / "last", model=load_model(source), info=load_info(source), training=training)
    return tmp_path / "run"


def test_a_package_holds_float16_weights_instructions_results_and_a_card(
    run: Path, sentences: TableEncoder, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(RESULTS))
    settings = PackageSettings(
        precision="float16", instructions=("open the drawer",), results=results, license="apache-2.0"
    )
    out = package(run, tmp_path / "arm", settings, encoder=sentences)
    files = {"README.md", "checkpoint.json", "model.safetensors", "instructions.safetensors", "results.json"}
    assert {path.name for path in out.iterdir()} == files
    card = (out / "README.md").read_text()
    assert [word for word in ('license: "apache-2.0"', "95 % (76..99 %)", "# arm") if word not in card] == []
    with safe_open(out / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds <= {torch.float16, torch.int64}
    half, full = load_model(out).state_dict(), load_model(run).state_dict()
    assert {tensor.dtype for tensor in half.values()} == {tensor.dtype for tensor in full.values()}
    assert all(torch.allclose(half[name], full[name], rtol=1e-3, atol=1e-7) for name in full)


def test_results_of_other_weights_or_another_action_spec_are_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({**RESULTS, "weights": weights_hash(run / "last")}))
    settings = PackageSettings(precision="float16", results=file)
    first = package(run, tmp_path / "first", settings)
    again = package(first, tmp_path / "again", PackageSettings())  # the results travel, and name the new weights
    assert json.loads((again / "results.json").read_text())["weights"] == weights_hash(again)
    assert "95 % (76..99 %)" in (again / "README.md").read_text()
    with pytest.raises(DataError, match=r"other weights.*again"):
        package(again, tmp_path / "third", settings)  # float16 rounded the weights
    info = load_info(run)
    spec = dataclasses.replace(info.action_spec, parts=tuple(reversed(info.action_spec.parts)))
    save_checkpoint(tmp_path / "swapped", model=load_model(run), info=dataclasses.replace(info, action_spec=spec))
    with pytest.raises(DataError, match=r"another action spec than .*swapped"):
        package(tmp_path / "swapped", tmp_path / "third", settings)
    assert not (tmp_path / "third").exists()


def test_a_value_beyond_float16_keeps_its_tensor_in_float32(run: Path, tmp_path: Path) -> None:
    model = load_model(run)
    with torch.no_grad():
        model.transformer.output.bias[0] = 1e6
    save_checkpoint(tmp_path / "large", model=model, info=load_info(run))
    out = package(tmp_path / "large", tmp_path / "out", PackageSettings(precision="float16"))
    stored = load_file(out / "model.safetensors")
    assert stored["transformer.output.bias"].dtype == torch.float32
    assert stored["transformer.output.weight"].dtype == torch.float16
    assert load_model(out).transformer.output.bias[0] == 1e6


def test_a_package_reads_its_instructions_without_a_text_encoder(
    run: Path, sentences: TableEncoder, tmp_path: Path
) -> None:
    out = package(run, tmp_path / "arm", PackageSettings(instructions=sentences.sentences), encoder=sentences)
    policy, original = Policy.from_checkpoint(out), Policy.from_checkpoint(run, text_encoder=sentences)
    image = np.random.default_rng(0).integers(0, 255, size=(40, 50, 3), dtype=np.uint8)
    for instruction in sentences.sentences:
        policy.reset(instruction)
        original.reset(instruction)
        assert np.array_equal(policy.logits(image), original.logits(image))
    with pytest.raises(ValueError, match=r"unknown instruction 'open the drawr', did you mean 'open the drawer'") as no:
        policy.reset("open the drawr")
    assert "\n" not in str(no.value)


def test_a_package_of_a_package_keeps_its_instructions(run: Path, sentences: TableEncoder, tmp_path: Path) -> None:
    settings = PackageSettings(instructions=("open the drawer",))
    first = package(run, tmp_path / "first", settings, encoder=sentences)
    again = package(first, tmp_path / "again", PackageSettings())
    assert TableEncoder.load(again / "instructions.safetensors").sentences == ("open the drawer",)
    exported = _table(load_info(first), None, (), stored_table(first))
    assert exported is not None
    assert exported.sentences == ("open the drawer",)


def test_an_export_is_packaged_as_it_is(torch_export: tuple[Path, Path], tmp_path: Path) -> None:
    out = package(torch_export[1], tmp_path / "out", PackageSettings(license="mit"), address="user/arm")
    assert read_manifest(out) == read_manifest(torch_export[1])
    card = (out / "README.md").read_text()
    assert [word for word in ('license: "mit"', 'from_pretrained("user/arm")', "# arm") if word not in card] == []
    with pytest.raises(ValueError, match=r"is an export, .*precision"):
        package(out, tmp_path / "more", PackageSettings(precision="float16"))


class _Encoder:
    """An encoder with an identity of its own."""

    def __init__(self, width: int) -> None:
        self.identity = TextEncoderIdentity(name="wide", sha256="0" * 64, width=width)

    def encode(self, instructions: list[str]) -> np.ndarray:
        return np.ones((len(instructions), self.identity.width), dtype=np.float32)


def test_the_sentences_of_the_tasks_are_stored_unless_they_are_large(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(tmp_path / "plain")
    lines: list[str] = []
    encoder: TextEncoder = _Encoder(load_info(folder).model.text_width)  # type: ignore[assignment]
    info = dataclasses.replace(load_info(folder), text_encoder=encoder.identity)
    save_checkpoint(folder, model=load_model(folder), info=info)
    out = package(folder, tmp_path / "out", PackageSettings(), encoder=encoder, say=lines.append)
    stored = TableEncoder.load(out / "instructions.safetensors").sentences
    assert len(stored) >= 4  # two tasks and their paraphrases
    assert lines == []
    monkeypatch.setattr("rt1.policy.package.LARGEST_TABLE", 10)
    out = package(folder, tmp_path / "out", PackageSettings(), encoder=encoder, say=lines.append)
    assert not (out / "instructions.safetensors").exists()
    assert "more than 10" in lines[0]
    assert LARGEST_TABLE > 10


def test_a_card_that_was_changed_is_copied_and_a_malformed_one_refused(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="the check of a card needs PyYAML: the extra hub")
    card = run / "last" / "README.md"
    lines: list[str] = []
    changed = card.read_text().replace("# run", "# My arm")
    card.write_text(changed)
    out = package(run, tmp_path / "out", PackageSettings(), say=lines.append)
    assert (out / "README.md").read_text() == changed
    assert any("changed by hand" in line for line in lines)
    card.unlink()
    package(run, tmp_path / "out", PackageSettings())
    assert (out / "README.md").read_text() == changed
    card.write_text(changed.replace("library_name: rt1", "library_name: [rt1"))
    with pytest.raises(CheckpointError, match=r"last/README\.md, line"):
        package(run, tmp_path / "out", PackageSettings())
    assert (out / "README.md").read_text() == changed


def test_an_export_with_a_file_outside_of_its_folder_is_refused(
    torch_export: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(torch_export[1], tmp_path / "in" / "export")
    manifest = json.loads((folder / "export.json").read_text())
    for path in (tmp_path / "in" / "NOTES.md", folder / "NOTES.md"):
        path.write_text("secret")
    for name in ("../NOTES.md", str(tmp_path / "in" / "NOTES.md")):
        files = {**manifest["files"], name: sha256(folder / "NOTES.md")}
        (folder / "export.json").write_text(json.dumps({**manifest, "files": files}))
        with pytest.raises(ExportError, match="is a path"):
            package(folder, tmp_path / "out" / "package", PackageSettings())
    assert not list((tmp_path / "out").rglob("NOTES.md"))


def test_a_package_within_its_checkpoint_is_refused(run: Path) -> None:
    with pytest.raises(SaveError, match="last/inner lies in"):
        package(run, run / "last" / "inner", PackageSettings())
    assert not (run / "last" / "inner").exists()


@pytest.mark.parametrize("license_name", ["", "a b", "mit\n"])
def test_a_license_is_an_identifier(license_name: str) -> None:
    with pytest.raises(ValueError, match="license is"):
        PackageSettings(license=license_name)


@pytest.mark.parametrize("provenance", [{"env": "points"}, {"env": [1]}, {"env": {"suite": "metaworld"}, "tasks": [1]}])
def test_a_checkpoint_with_odd_provenance_is_packaged_without_its_instructions(
    provenance: dict[str, object], run: Path, tmp_path: Path
) -> None:
    info = dataclasses.replace(load_info(run), provenance=provenance)
    save_checkpoint(tmp_path / "odd", model=load_model(run), info=info)
    lines: list[str] = []
    package(tmp_path / "odd", tmp_path / "out", PackageSettings(), say=lines.append)
    assert "not stored" in lines[0]


def test_a_run_is_never_replaced_by_its_package(run: Path) -> None:
    with pytest.raises(SaveError, match="training"):
        package(run, run / "last", PackageSettings())
    assert (run / "last" / "training.safetensors").is_file()
