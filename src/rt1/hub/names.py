"""Names to folders: a policy shipped with this package, a repository of the Hugging Face Hub, or a folder here."""

from __future__ import annotations

import re
from pathlib import Path

from rt1.common.suggest import unknown_name
from rt1.errors import CheckpointError, DataError
from rt1.hub.client import download

SHIPPED = Path(__file__).parents[1] / "shipped"
"""One folder for each shipped policy, named as the policy."""

POLICY_FILES = ("*.json", "*.safetensors", "*.md", "*.onnx", "*.xml", "*.bin")
"""What is downloaded of a policy. Programs of torch (``.pt2``) are not: they can run code."""

_REPOSITORY = re.compile(r"(?:hf:/{1,2})?(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")
_DATASET = re.compile(
    r"hf:/{1,2}datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<folder>[^@]+?))?/?"
)


def shipped_names() -> list[str]:
    """Return the names of the policies that are shipped with this package."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []


def shipped_name(folder: Path) -> str | None:
    """Return the name of the shipped policy in a folder, None for a folder elsewhere."""
    return folder.name if folder.absolute().parent == SHIPPED.absolute() else None


def policy_path(name: Path | str) -> Path:
    """Return the folder that the name of a policy stands for.

    - An existing path is itself.
    - A name without ``/`` is a policy shipped with this package.
    - ``user/name`` is a repository of the Hugging Face Hub, ``user/name@revision`` a branch, tag or commit of it.
      It is downloaded unless a folder ``user`` exists here. ``hf://user/name`` is always a repository.

    Any other path is returned as it is.

    Raises:
        CheckpointError: a name that is neither, or a repository that cannot be downloaded.
    """
    path = Path(name)
    if path.exists():
        return path
    match = _REPOSITORY.fullmatch(str(name))
    if match is not None and (str(name).startswith("hf:") or not Path(path.parts[0]).exists()):
        return download(match["repository"], revision=match["revision"], only=POLICY_FILES)
    if len(path.parts) == 1:
        if path.name not in shipped_names():
            cure = "Give a checkpoint folder, the output folder of a training run, or user/name on the Hugging Face Hub"
            raise CheckpointError(f"{unknown_name('policy', str(name), shipped_names())}. {cure}")
        return SHIPPED / path
    return path


def check_repository(name: str) -> None:
    """Raise :class:`CheckpointError` unless a name is ``user/name``."""
    match = _REPOSITORY.fullmatch(name)
    if match is None or match["repository"] != name:
        raise CheckpointError(f"{name!r} is no repository, must be USER/NAME. Name a branch with --revision")


def dataset_path(name: Path | str) -> Path:
    """Return the folder of a data set: that of ``hf://datasets/user/name[@revision][/folder]``, or the path itself.

    Raises:
        DataError: the repository cannot be downloaded, or lacks the folder.
    """
    match = _DATASET.fullmatch(str(name))
    if match is None:
        return Path(name)
    folder = match["folder"]
    root = download(
        match["repository"],
        revision=match["revision"],
        kind="dataset",
        only=None if folder is None else (f"{folder}/*",),
        error=DataError,
    )
    path = root if folder is None else root / folder
    if not path.is_dir() or ".." in path.parts:
        raise DataError(f"hf://datasets/{match['repository']} has no folder {folder!r}. Check the address")
    return path
