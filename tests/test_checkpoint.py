"""Checkpoints: what is saved comes back, and what cannot be used is refused by file and reason."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rt1.actions import ActionSpec, Continuous
from rt1.checkpoint import CheckpointInfo, TrainingState, load_info, load_model, load_training, resolve, save_checkpoint
from rt1.errors import CheckpointError, SaveError
from rt1.model.rt1 import RT1
from rt1.policy.exported_manifest import MANIFEST_FILE
from rt1.text.encoder import TextEncoderIdentity

SPEC = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(0.1, 1.0, 2.0)),), bins=16)


def _info(model: RT1) -> CheckpointInfo:
    return CheckpointInfo(
        model=model.config,
        action_spec=SPEC,
        text_encoder=TextEncoderIdentity(name="table", sha256="a" * 64, width=8),
        control_rate=10.0,
        provenance={"update": 7, "episodes": [1, 2], "heldout_loss": 0.1 + 0.2},
    )


@pytest.fixture
def model(make_network: Callable[..., RT1]) -> RT1:
    return make_network()


@pytest.fixture
def saved(model: RT1, tmp_path: Path) -> Path:
    """A checkpoint that can act and resume."""
    training = TrainingState(progress={"update": 7, "best": 0.1}, tensors={"step/a": torch.tensor(7.0)})
    return save_checkpoint(tmp_path / "run" / "last", model=model, info=_info(model), training=training)


def _rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def _refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_loaded_network_gives_the_same_logits(model: RT1, saved: Path) -> None:
    images = torch.randint(0, 256, (2, 2, 40, 56, 3), dtype=torch.uint8)
    text = torch.randn(2, 8)
    loaded = load_model(saved)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded.predict(images, text), model.predict(images, text))


def test_a_network_in_channels_last_memory_comes_back_too(model: RT1, tmp_path: Path) -> None:
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    info = _info(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loaded = load_model(save_checkpoint(tmp_path / "c", model=model, info=info))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_everything_a_checkpoint_says_of_itself_comes_back(model: RT1, saved: Path) -> None:
    assert load_info(saved) == _info(model)
    training = load_training(saved)
    assert training.progress == {"update": 7, "best": 0.1}
    assert training.tensors["step/a"].item() == 7.0


def test_a_checkpoint_without_encoder_and_rate_comes_back(model: RT1, tmp_path: Path) -> None:
    info = CheckpointInfo(model=model.config, action_spec=SPEC, text_encoder=None)
    assert load_info(save_checkpoint(tmp_path / "c", model=model, info=info)) == info


def test_saving_again_replaces_the_whole_folder(model: RT1, saved: Path) -> None:
    save_checkpoint(saved, model=model, info=_info(model))
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "checkpoint.json", "model.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["last"]
    with pytest.raises(CheckpointError, match=r"training\.json is missing"):
        load_training(saved)


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_named_with_the_reason(
    name: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_unless_it_is_locked(path: Path, *words: Any, **more: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied")  # root may read everything
        return open(path, *words, **more)  # noqa: PTH123

    monkeypatch.setattr(Path, "open", open_unless_it_is_locked)
    with pytest.raises(CheckpointError, match=rf"{name}.*Permission denied"):
        load_model(saved)


def test_a_folder_with_other_files_is_not_replaced(model: RT1, saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(SaveError, match=r"last holds notes\.txt, which replacing it would remove"):
        save_checkpoint(saved, model=model, info=_info(model))
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("changes", [{"bins": 32}, {"parts": (Continuous(name="move", low=(0.0,), high=(1.0,)),)}])
def test_a_spec_of_another_network_is_not_saved(changes: dict[str, Any], model: RT1, tmp_path: Path) -> None:
    info = dataclasses.replace(_info(model), action_spec=dataclasses.replace(SPEC, **changes))
    with pytest.raises(CheckpointError, match=r"the network 3 of 16. Give the spec the network was built for"):
        save_checkpoint(tmp_path / "c", model=model, info=info)
    assert not (tmp_path / "c").exists()


def test_a_run_folder_means_its_last_checkpoint_and_else_its_best(model: RT1, saved: Path) -> None:
    run = saved.parent
    save_checkpoint(run / "best", model=model, info=_info(model))
    assert resolve(saved) == saved
    assert resolve(str(run)) == run / "last"
    (run / "last" / "checkpoint.json").unlink()
    assert resolve(run) == run / "best"


def test_a_folder_that_is_not_there_or_holds_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "nowhere is not there. Give a checkpoint folder or the output folder" in _refused(tmp_path / "nowhere")
    assert "holds no checkpoint.json, last/ or best/. Give a checkpoint folder" in _refused(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("{}")
    assert "Policy.from_export" in _refused(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json"])
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{saved / name} is missing. A checkpoint needs it. Restore")):
        load_model(saved) if name.startswith("model") else load_training(saved)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_are_refused(kept: int, saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = _refused(saved)
    assert f"{file} is not a whole safetensors file" in message
    assert "Restore it from a copy" in message


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\xff"])
def test_a_damaged_description_is_refused(content: str, saved: Path) -> None:
    (saved / "checkpoint.json").write_bytes(content.encode("latin-1"))
    message = _refused(saved)
    assert str(saved / "checkpoint.json") in message
    assert "Restore it from a copy" in message


@pytest.mark.parametrize("value", [0, 2, "1", None])
def test_another_format_is_refused(value: object, saved: Path) -> None:
    _rewrite(saved / "checkpoint.json", lambda data: data.update(format=value))
    assert f"has format {value!r}. This version of rt1 reads format 1. Use the version that wrote it" in _refused(saved)


@pytest.mark.parametrize("key", ["model", "action_spec", "text_encoder", "control_rate", "provenance"])
def test_a_description_that_lacks_something_is_refused(key: str, saved: Path) -> None:
    _rewrite(saved / "checkpoint.json", lambda data: data.pop(key))
    assert f"checkpoint.json lacks '{key}'. Restore it from a copy" in _refused(saved)


def test_an_unknown_setting_of_the_network_is_refused(saved: Path) -> None:
    _rewrite(saved / "checkpoint.json", lambda data: data["model"].update(windov=3))
    assert "unknown setting of checkpoint.model 'windov', did you mean 'window'?" in _refused(saved)


def test_weights_of_other_shapes_are_refused(saved: Path) -> None:
    _rewrite(saved / "checkpoint.json", lambda data: data["model"].update(window=3))
    message = _refused(saved)
    assert re.search(r"transformer\.position_LD has shape \(.*\), the configuration needs \(.*\)", message)
    assert "do not belong together" in message


@pytest.mark.parametrize("change", ["lacks", "has the unknown tensor"])
def test_weights_with_a_tensor_less_or_more_are_refused(change: str, saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    moved = tensors.pop("transformer.position_LD")
    if change != "lacks":
        tensors |= {"transformer.position_LD": moved, "zz": torch.zeros(1)}
    save_file(tensors, saved / "model.safetensors")
    name = "transformer.position_LD" if change == "lacks" else "zz"
    assert f"{change} {name}. Its description and weights do not belong together" in _refused(saved)


def test_a_full_disk_leaves_the_checkpoint_before(model: RT1, saved: Path, full_disk: Callable[[int], None]) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    full_disk(8192)
    with pytest.raises(SaveError) as caught:
        save_checkpoint(saved, model=model, info=_info(model))
    assert str(caught.value).startswith(f"could not save {saved}: ")
    assert str(caught.value).endswith("What was there before is untouched. Free space or choose another folder")
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def test_a_crash_in_the_middle_of_saving_leaves_the_checkpoint_before(model: RT1, saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    broken = TrainingState(progress={"update": object()}, tensors={})  # fails when the weights are already written
    with pytest.raises(TypeError):
        save_checkpoint(saved, model=model, info=_info(model), training=broken)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def _with_weight(saved: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Change one tensor of a checkpoint; return its name."""
    tensors, name = load_file(saved / "model.safetensors"), "transformer.output.weight"
    tensors[name] = change(tensors[name])
    save_file(tensors, saved / "model.safetensors")
    return name


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.fill_(float("nan")), "not finite"),
        (lambda t: t.index_fill_(0, torch.tensor([3]), float("-inf")), "not finite"),
        (lambda t: t.double().fill_(1e300), "of size 1e\\+300. At most 1e\\+10 is sane"),
        (lambda t: t.int(), "is int32, must be float16, bfloat16, float32 or float64"),
        (lambda t: t.bool(), "is bool"),
        (lambda t: t.to(torch.complex64), "is complex64"),
    ],
)
def test_weights_that_no_network_can_act_with_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], problem: str, saved: Path
) -> None:
    name = _with_weight(saved, change)
    assert re.search(f"model.safetensors: {name} .*{problem}", _refused(saved))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floats_are_converted(kind: torch.dtype, model: RT1, saved: Path) -> None:
    name = _with_weight(saved, lambda tensor: tensor.to(kind))
    loaded = load_model(saved).state_dict()[name]
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, model.state_dict()[name], rtol=1e-2, atol=1e-3)


def test_counters_stay_whole_numbers(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    name = next(name for name in tensors if name.endswith("num_batches_tracked"))
    save_file({**tensors, name: tensors[name].float()}, saved / "model.safetensors")
    assert f"{name} is float32, must be uint8" in _refused(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["model"]["transformer"].update(layers=10**9), "layers is 1000000000"),
        (lambda data: data["model"].update(window=500), "position_LD has shape"),
        (lambda data: data["model"].update(window=10**9), "tokens. At most"),
        (lambda data: data["model"].update(token_width=10**18), "token_width is 1000000000000000000"),
        (lambda data: data["model"]["transformer"].update(dropout=10**400), "too large"),
        (lambda data: data["model"]["efficientnet"].update(width=1e400), "width is inf"),
        (lambda data: data["model"]["efficientnet"].update(depth=1e400), "depth is inf"),
        (lambda data: data["action_spec"].update(bins=15), "the action spec has 3 dimensions of 15 bins"),
        (lambda data: data["action_spec"].update(bins=16.5), "bins is 16.5"),
        (lambda data: data.update(provenance=[]), "provenance is []"),
        (lambda data: data.update(control_rate="4"), "control_rate is '4'"),
        (lambda data: data.update(text_encoder={"name": "x", "sha256": "", "width": 1e400}), "width is inf"),
        (lambda data: data.update(action_spec=[]), "action spec is []"),
        (lambda data: data.update(embodiments=[3]), "an embodiment is 3"),
    ],
)
def test_a_mistyped_or_hostile_description_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], None], message: str, saved: Path
) -> None:
    _rewrite(saved / "checkpoint.json", change)
    assert message in _refused(saved)


def test_a_description_nested_too_deeply_is_refused(saved: Path) -> None:
    (saved / "checkpoint.json").write_text("[" * 100_000)
    assert "nested too deeply" in _refused(saved)


def test_moments_that_are_not_finite_are_refused(saved: Path) -> None:
    save_file({"step/a": torch.tensor(float("nan"))}, saved / "training.safetensors")
    with pytest.raises(CheckpointError, match=r"training\.safetensors: step/a holds a value that is not finite"):
        load_training(saved)


def test_a_model_card_that_somebody_changed_stays_and_another_one_is_renewed(model: RT1, saved: Path) -> None:
    info = dataclasses.replace(_info(model), provenance={"preset": "other"})
    save_checkpoint(saved, model=model, info=info)
    assert 'preset: "other"' in (saved / "README.md").read_text()
    (saved / "README.md").write_text("my card")
    save_checkpoint(saved, model=model, info=_info(model))
    assert (saved / "README.md").read_text() == "my card"
