"""Policies and data sets by name: shipped, on the Hub, with and without a network, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.hub import LocalHub, set_endpoint

from rt1 import Policy
from rt1.checkpoint import load_info
from rt1.errors import CheckpointError, DataError
from rt1.hub import names
from rt1.hub.client import download
from rt1.hub.names import check_repository, dataset_path, policy_path, shipped_names


@pytest.fixture
def shipped(checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped policies with one of them."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "tiny-arm").symlink_to(checkpoint())
    monkeypatch.setattr(names, "SHIPPED", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.usefixtures("shipped")
def test_a_shipped_policy_acts_by_its_name() -> None:
    policy = Policy.from_pretrained("tiny-arm")
    policy.reset(np.ones(8, dtype=np.float32))
    assert shipped_names() == ["tiny-arm"]
    assert policy.act(np.zeros((48, 48, 3), dtype=np.uint8))["move"].shape == (2,)


def test_an_unknown_name_gets_did_you_mean(shipped: Path) -> None:
    assert shipped.is_dir()
    with pytest.raises(CheckpointError, match="unknown policy 'tiny-amr', did you mean 'tiny-arm'"):
        Policy.from_pretrained("tiny-amr")


def test_a_folder_wins_over_a_name(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-arm").mkdir()
    assert policy_path("tiny-arm") == Path("tiny-arm")
    assert policy_path(Path("user") / "deep" / "path") == Path("user/deep/path")
    assert policy_path(shipped / "none") == shipped / "none"


def test_a_damaged_shipped_policy_is_named_with_its_file(shipped: Path) -> None:
    folder = shipped / "broken"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"broken holds no checkpoint\.json"):
        Policy.from_pretrained("broken")
    (folder / "checkpoint.json").write_bytes((shipped / "tiny-arm" / "checkpoint.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"broken/model\.safetensors is missing"):
        Policy.from_pretrained("broken")
    (folder / "model.safetensors").write_bytes((shipped / "tiny-arm" / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"broken/model\.safetensors is not a whole"):
        Policy.from_pretrained("broken")


def test_a_policy_of_the_hub_is_downloaded_once_and_then_works_without_a_network(
    hub: LocalHub, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint()
    hub.add("user/arm", source)
    assert Policy.from_pretrained("user/arm").action_spec == load_info(source).action_spec
    asked = hub.requests
    assert load_info("user/arm") == load_info(Path("hf://user/arm")) == load_info(source)
    assert hub.requests == asked
    download.cache_clear()
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert load_info("user/arm") == load_info(source)


def test_offline_mode_asks_nobody(
    hub: LocalHub, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.add("user/arm", checkpoint())
    first = policy_path("user/arm")
    download.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = hub.requests
    assert policy_path("user/arm") == first
    with pytest.raises(CheckpointError, match=r"user/leg .*not in the cache, and HF_HUB_OFFLINE is set"):
        policy_path("user/leg")
    assert hub.requests == asked


def test_a_revision_is_pinned(hub: LocalHub, checkpoint: Callable[..., Path]) -> None:
    old, new = checkpoint(), checkpoint("maxvit")
    hub.add("user/arm", old, revision="v1")
    hub.add("user/arm", new)
    assert load_info("user/arm@v1") == load_info(old)
    assert load_info("user/arm") == load_info(new)
    assert load_info(f"user/arm@{hub.commit('models/user/arm', 'v1')}") == load_info(old)
    with pytest.raises(CheckpointError, match="user/arm@v2 has no revision 'v2'"):
        load_info("user/arm@v2")


def test_only_files_that_cannot_run_code_are_downloaded(
    hub: LocalHub, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = checkpoint()
    (source / "model.pt2").write_bytes(b"program")
    (source / "setup.py").write_text("print()")
    hub.add("user/arm", source)
    names = {path.name for path in policy_path("user/arm").iterdir()}
    assert names == {"README.md", "checkpoint.json", "model.safetensors"}
    assert tmp_path.is_dir()


def test_a_name_that_the_hub_does_not_have_is_one_line(hub: LocalHub) -> None:
    with pytest.raises(CheckpointError, match="user/none is no folder here and no repository") as refusal:
        policy_path("user/none")
    assert "\n" not in str(refusal.value)
    assert hub.requests


def test_no_network_and_no_cache_is_one_line(hub_cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"user/arm .*not in the cache, .*cannot be reached") as refusal:
        policy_path("user/arm")
    assert "\n" not in str(refusal.value)
    assert not hub_cache.exists() or not list(hub_cache.glob("**/*.safetensors"))


def test_a_mistyped_path_is_not_asked_for_on_the_hub(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match="runs/mien is not there"):
        load_info("runs/mien")
    assert hub.requests == 0


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt1.hub.client.importlib.util.find_spec", lambda _: None)
    download.cache_clear()
    with pytest.raises(CheckpointError, match=r"user/arm is no folder here. .*rt1\[hub\]"):
        policy_path("user/arm")


@pytest.mark.parametrize("name", ["arm", "a/b/c", "user/arm@v1", "../arm", "hf://user/arm", ""])
def test_a_name_to_push_to_is_user_and_name(name: str) -> None:
    with pytest.raises(CheckpointError, match="must be USER/NAME"):
        check_repository(name)


def test_a_data_set_of_the_hub_is_a_folder(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "set" / "part").mkdir(parents=True)
    (tmp_path / "set" / "part" / "features.json").write_text("{}")
    (tmp_path / "set" / "large.bin").write_bytes(b"0" * 100)
    hub.add("user/set", tmp_path / "set", kind="datasets")
    assert dataset_path("data/mine") == Path("data/mine")
    folder = dataset_path(Path("hf://datasets/user/set/part"))
    assert [path.name for path in folder.parent.iterdir()] == ["part"]
    assert {path.name for path in dataset_path("hf://datasets/user/set@main").iterdir()} == {"part", "large.bin"}
    for address in ("hf://datasets/user/set/none", "hf://datasets/user/set/../set"):
        with pytest.raises(DataError, match="has no folder"):
            dataset_path(address)
    with pytest.raises(DataError, match=r"user/none .*no repository"):
        dataset_path("hf://datasets/user/none")


@pytest.mark.parametrize("build", ["build_wheel", "build_sdist"])
def test_shipped_policies_and_the_template_of_the_card_are_part_of_the_distribution(build: str, tmp_path: Path) -> None:
    program = f"import sys, hatchling.build as b; print(b.{build}(sys.argv[1]))"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, capture_output=True, check=True)
    (file,) = tmp_path.iterdir()
    with tarfile.open(file) if build == "build_sdist" else zipfile.ZipFile(file) as archive:
        members = archive.getnames() if isinstance(archive, tarfile.TarFile) else archive.namelist()
    for name in ("rt1/shipped/README.md", "rt1/hub/templates/model_card.md"):
        assert any(member.endswith(name) for member in members)
