"""Uploads to a Hub, and one line for each reason why one is not possible."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.hub import READ_ONLY_TOKEN, TOKEN, LocalHub, set_endpoint

from rt1.errors import CheckpointError
from rt1.hub.client import upload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two files."""
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "checkpoint.json").write_text("{}")
    return folder


def test_a_folder_is_uploaded_to_a_new_private_repository(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = upload(folder, "user/arm", private=True)
    files = hub.files["models/user/arm"]["main"]
    assert {name: files[name] for name in ("README.md", "checkpoint.json")} == {
        "README.md": b"---\nlicense: mit\n---\n",
        "checkpoint.json": b"{}",
    }
    assert hub.private == {"user/arm"}
    assert address.endswith(f"user/arm/commit/{hub.commit('models/user/arm', 'main')}")


def test_files_of_an_earlier_upload_are_replaced_on_a_branch(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (folder / "instructions.safetensors").write_bytes(b"old")
    upload(folder, "user/arm")
    (folder / "instructions.safetensors").unlink()
    upload(folder, "user/arm", revision="next", replaced=("instructions.safetensors", "checkpoint.json"))
    revisions = hub.files["models/user/arm"]
    assert "instructions.safetensors" in revisions["main"]
    assert {*revisions["next"]} == {".gitattributes", "README.md", "checkpoint.json"}


def test_a_private_upload_to_a_public_repository_is_refused(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    upload(folder, "user/arm")
    (folder / "secret.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"user/arm .*public.*--private"):
        upload(folder, "user/arm", private=True)
    assert "secret.json" not in hub.files["models/user/arm"]["main"]
    upload(folder, "user/other", private=True)
    upload(folder, "user/other", private=True)
    assert hub.private == {"user/other"}


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (None, "needs a token .*hf auth login"),
        ("hf_wrong", "cannot be used: .*refuses the token"),
        (READ_ONLY_TOKEN, "cannot be written with your token"),
    ],
)
def test_a_token_that_does_not_do_is_one_line(
    token: str | None, problem: str, hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=f"user/arm {problem}") as refusal:
        upload(folder, "user/arm")
    assert "\n" not in str(refusal.value)
    assert hub.files == {}


def test_no_network_is_one_line(hub_cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"user/arm cannot be used: .*cannot be reached") as refusal:
        upload(folder, "user/arm")
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"user/arm cannot be used: .*HF_HUB_OFFLINE is set"):
        upload(folder, "user/arm")
    assert not hub_cache.exists()
