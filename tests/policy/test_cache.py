"""Exports in the user's cache: made once, made again when damaged or of other weights, never half written."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from rt1.common.folders import replacing_alone
from rt1.errors import ExportError, LockedError, SaveError
from rt1.policy import cache
from rt1.policy.cache import cached_export
from rt1.policy.engines.base import engine_choice
from rt1.policy.export.exporter import EXPORT_FILES, ExportSettings
from rt1.policy.exported_manifest import MANIFEST_FILE
from rt1.policy.policy import Policy

ONNX = engine_choice("onnx")


@pytest.fixture
def made(onnx_export: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The exports that were made so far, each a copy of one made earlier, in a cache of this test."""
    folders: list[Path] = []

    def export(checkpoint: Path, out: Path, settings: ExportSettings) -> None:
        assert (checkpoint, settings.to) == (onnx_export[0], "onnx")
        with replacing_alone(out, holding=EXPORT_FILES) as temporary:
            folders.append(out)
            shutil.copytree(onnx_export[1], temporary)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "export", export)
    return folders


def test_an_export_is_made_once_for_these_weights(onnx_export: tuple[Path, Path], made: list[Path]) -> None:
    policy = Policy.from_checkpoint(onnx_export[0], engine="onnx", threads=1)
    assert policy.engine == "onnx"
    assert cached_export(onnx_export[0], ONNX) == made[0]
    assert len(made) == 1
    assert made[0].parent.name == "engines"


def test_a_damaged_export_is_made_again_with_one_line(
    onnx_export: tuple[Path, Path], made: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = cached_export(onnx_export[0], ONNX)
    (folder / "decoder.onnx").write_bytes(b"half")
    caplog.clear()
    assert cached_export(onnx_export[0], ONNX) == folder
    assert len(made) == 2
    lines = [record.getMessage() for record in caplog.records]
    assert "decoder.onnx is missing or not the file" in lines[0]
    assert not any("\n" in line for line in lines)


def test_an_export_of_other_weights_is_made_again(
    onnx_export: tuple[Path, Path], made: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = cached_export(onnx_export[0], ONNX)
    data = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps({**data, "weights": "0" * 64, "digest": None}))
    cached_export(onnx_export[0], ONNX)
    assert len(made) == 2
    assert "export of other weights" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_read_only_cache_gives_way_to_a_temporary_folder(
    onnx_export: tuple[Path, Path], made: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "rt1").mkdir(mode=0o500)
    assert (cached_export(onnx_export[0], ONNX) / MANIFEST_FILE).is_file()
    assert not made[0].is_relative_to(tmp_path)


def test_a_full_cache_gives_way_to_a_temporary_folder(
    onnx_export: tuple[Path, Path], made: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rt1").mkdir()
    (tmp_path / "rt1" / "engines").write_text("in the way")
    folder = cached_export(onnx_export[0], ONNX)
    assert (folder / MANIFEST_FILE).is_file()
    assert made == [folder]
    assert "temporary folder: could not save" in caplog.text


def test_without_space_in_the_temporary_folder_either_it_is_one_error(
    onnx_export: tuple[Path, Path], made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(_checkpoint: Path, out: Path, _settings: ExportSettings) -> None:
        made.append(out)
        raise SaveError(f"could not save {out}: no space")

    monkeypatch.setattr(cache, "export", export)
    with pytest.raises(SaveError, match="no space"):
        cached_export(onnx_export[0], ONNX)
    assert len(made) == 2


def test_a_second_process_waits_for_the_first_one_s_export(onnx_export: tuple[Path, Path], made: list[Path]) -> None:
    folder = cached_export(onnx_export[0], ONNX)
    shutil.rmtree(folder)
    entered = threading.Event()

    def first() -> None:
        with replacing_alone(folder, holding=EXPORT_FILES) as temporary:
            entered.set()
            time.sleep(0.5)
            shutil.copytree(onnx_export[1], temporary)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    assert cached_export(onnx_export[0], ONNX) == folder
    thread.join()
    assert len(made) == 1


def test_an_export_whose_process_was_killed_is_made_by_the_one_that_waits(
    onnx_export: tuple[Path, Path], made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = vars(cache)["export"]

    def killed(_checkpoint: Path, out: Path, _settings: ExportSettings) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_name(f".{out.name}.lock").write_text("1 here")
        monkeypatch.setattr(cache, "export", export)
        raise LockedError("another process exports it")

    monkeypatch.setattr(cache, "export", killed)
    assert (cached_export(onnx_export[0], ONNX) / MANIFEST_FILE).is_file()
    assert len(made) == 1


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    onnx_export: tuple[Path, Path], made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ExportError, match=r"openvino needs openvino. Run: pip install 'rt1\[openvino\]'"):
        cached_export(onnx_export[0], engine_choice("openvino"))
    assert not made


def test_a_device_is_for_torch_alone(onnx_export: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="device is cuda, the engine onnx runs on the CPU"):
        Policy.from_checkpoint(onnx_export[0], engine="onnx", device="cuda")
