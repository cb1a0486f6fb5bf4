"""A run, a checkpoint or an exported folder as an engine. A checkpoint needs torch, most exports do not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rt1.errors import CheckpointError, ExportError
from rt1.hub.names import policy_path
from rt1.policy.engines.base import AUTO, Engine, engine_choice
from rt1.policy.exported import is_export, open_export
from rt1.policy.exported_manifest import MANIFEST_FILE, Manifest, read_manifest

if TYPE_CHECKING:
    from rt1.checkpoint import CheckpointInfo


def policy_folder(path: Path | str) -> Path:
    """Return the folder that holds a policy: an exported folder itself, or the checkpoint that ``path`` means."""
    path = policy_path(path)
    if is_export(path):
        return path
    from rt1.checkpoint import resolve

    return resolve(path)


def describe(path: Path | str, *, embodiment: str | None = None) -> CheckpointInfo | Manifest:
    """Return what a run, checkpoint or exported folder says of itself.

    Raises:
        CheckpointError: the checkpoint cannot be used, or has no such embodiment.
        ExportError: the export cannot be used, or acts as another embodiment.
    """
    folder = policy_path(path)
    if not is_export(folder):
        from rt1.checkpoint import load_info

        return load_info(path, embodiment=embodiment)
    manifest = read_manifest(folder)
    if embodiment not in (None, manifest.provenance.get("embodiment")):
        raise ExportError(f"{path} is an export of one embodiment. Leave out the name {embodiment!r}, or export it")
    return manifest


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of a policy's weights and action specs, which results of an evaluation name.

    Weights in float16 have the hash of the same values in float32. An export has that of its manifest, which holds the
    hashes of its files.

    Args:
        folder: as :func:`policy_folder` returns it.
    """
    if is_export(folder):
        return hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    from rt1.checkpoint import MODEL_FILE, load_whole_info, robots_of
    from rt1.model.weights import read_safetensors

    specs = {name: robot.action_spec.to_json() for name, robot in robots_of(load_whole_info(folder)).items()}
    digest = hashlib.sha256(json.dumps(specs).encode())
    tensors, _ = read_safetensors(folder / MODEL_FILE, error=CheckpointError, cure="Use another checkpoint")
    for name, tensor in sorted(tensors.items()):
        values = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_engine(
    path: Path | str,
    engine: str = "torch",
    *,
    embodiment: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Engine:
    """Return the engine that runs a checkpoint.

    Args:
        path: checkpoint or run folder.
        engine: as :func:`rt1.policy.engines.base.engine_choice` takes it, or ``auto`` for the fastest that agrees.
        embodiment: which one acts, where the network has several.
        device: where torch runs it, see :class:`TorchEngine`.
        threads: threads of the other engines. The library decides if None.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ValueError: an unknown engine, or one that does not run here.
    """
    from rt1.checkpoint import load_model
    from rt1.policy.auto import fastest
    from rt1.policy.cache import cached_export
    from rt1.policy.engines.torch import TorchEngine

    choice = fastest(path, embodiment=embodiment, device=device) if engine == AUTO else engine_choice(engine)
    if choice.name != "torch":
        if device not in ("cpu", AUTO):
            raise ValueError(
                f"device is {device}, the engine {choice} runs on the CPU. Use --engine torch for a device"
            )
        folder = cached_export(path, choice, embodiment=embodiment)
        return open_export(folder, threads=threads)[0]
    return TorchEngine(load_model(path, embodiment=embodiment), precision=choice.precision, device=device)
