"""Download from and upload to the Hugging Face Hub through its library, with one-line errors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import rt1
from rt1.errors import CheckpointError, RT1Error, first_line

RepositoryKind = Literal["model", "dataset"]
ErrorKind = Callable[[str], RT1Error]

_INSTALL = "pip install 'rt1[hub]'"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@cache
def download(
    repository: str,
    *,
    revision: str | None = None,
    kind: RepositoryKind = "model",
    only: tuple[str, ...] | None = None,
    error: ErrorKind = CheckpointError,
) -> Path:
    """Return the folder of a repository in the library's cache. The files that are missing there are downloaded.

    Without a network the cached files are used. The Hub is asked once per process.

    Args:
        repository: ``user/name``.
        revision: branch, tag or commit. None: the main branch.
        kind: what the repository holds.
        only: patterns of the files that are needed. None: all files.
        error: class of the error to raise.

    Raises:
        RT1Error: of the class ``error``: the library is not installed, no such repository or revision, or no network
            and no cached copy.
    """
    address = repository if revision is None else f"{repository}@{revision}"
    _check_installed(address, error)
    from huggingface_hub import snapshot_download

    with reaching(address, error=error):
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                repo_type=kind,
                allow_patterns=None if only is None else list(only),
                library_name="rt1",
                library_version=rt1.__version__,
            )
        )


def upload(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    replaced: Sequence[str] = (),
) -> str:
    """Upload a folder to a model repository, which is created if it is missing. Return the address of the commit.

    Args:
        folder: files to upload.
        repository: ``user/name``.
        private: create a private repository.
        revision: branch, created if it is missing. None: the main branch.
        replaced: patterns of older files to delete, where the folder does not hold them.

    Raises:
        CheckpointError: the library is not installed, no token, no network, no right to write there, or ``private``
            for a repository that is public.
    """
    _check_installed(repository, CheckpointError)
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise CheckpointError(f"{repository} needs a token of the Hugging Face Hub to write. First {_LOG_IN}")
    api = HfApi(library_name="rt1", library_version=rt1.__version__)
    with reaching(repository):
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise CheckpointError(f"{repository} exists and is public. Leave out --private, or give another name")
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message="Upload by rt1",
            delete_patterns=list(replaced),
        )
    return str(commit.commit_url)


def _check_installed(address: str, error: ErrorKind) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise error(f"{address} is no folder here. To use the Hugging Face Hub run: {_INSTALL}")


@contextmanager
def reaching(address: str, *, error: ErrorKind = CheckpointError) -> Iterator[None]:
    """Raise one line with the address for what the Hub's library raises."""
    try:
        yield
    except RT1Error:
        raise
    except Exception as reason:
        raise error(f"{address} {_problem(reason, address)}") from reason


def _problem(reason: Exception, address: str) -> str:
    """Return what is wrong and the cure, after the address."""
    from huggingface_hub import errors

    revision = address.partition("@")[2] or "main"
    kinds: dict[type[Exception], str] = {  # the first that fits
        errors.GatedRepoError: f"is gated on the Hugging Face Hub. Ask for access on its page, then {_LOG_IN}",
        errors.RepositoryNotFoundError: "is no folder here and no repository of the Hugging Face Hub that you may "
        f"read. Check the name, or {_LOG_IN}",
        errors.RevisionNotFoundError: f"has no revision {revision!r}. Give a branch, tag or commit of it behind @",
        errors.HFValidationError: f"is no name of a repository ({first_line(reason)}). Give user/name",
        errors.LocalEntryNotFoundError: f"is no folder here and not in the cache, and {_unreachable(reason)}, or give "
        "a folder",
    }
    if text := next((text for kind, text in kinds.items() if isinstance(reason, kind)), None):
        return text
    statuses = {
        401: "cannot be used: the Hugging Face Hub refuses the token. Run `hf auth login` again, or change HF_TOKEN",
        403: "cannot be written with your token. Use a token with write access, or another user name",
    }
    status = getattr(getattr(reason, "response", None), "status_code", None)
    return statuses.get(status or 0) or f"cannot be used: {_unreachable(reason)}"


def _unreachable(reason: Exception) -> str:
    """Return why the Hub did not answer, and the cure."""
    from huggingface_hub import errors

    cause = reason.__cause__ or reason
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it"
    text = f"the Hugging Face Hub cannot be reached ({type(cause).__name__}: {first_line(cause)})"
    return f"{text}. Check the network and HF_ENDPOINT"
