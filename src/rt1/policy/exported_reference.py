"""Reference steps: an export proves on each machine that it acts as the network does. No torch.

A runtime chooses its kernels by processor, and a kernel can be wrong without an error: int8 sums can saturate.

Shape letters: M episodes, N steps, E text embedding, A action dimensions, V bins.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rt1.actions import FloatArray
from rt1.errors import ExportError
from rt1.policy.agreement import CLEAR_GAP, NOTHING_COMPARED, compare_logits
from rt1.policy.exported_image import prepare_image
from rt1.policy.exported_manifest import REFERENCE_FILE, Manifest
from rt1.policy.stepper import Stepper

CLEAR_TOKENS = 200
"""Clear tokens that the reference steps hold, where the network gives so many."""
MOST_STEPS = 256
"""Reference steps that are stored at most."""


def save_reference(
    network: Stepper, folder: Path, manifest: Manifest, trials: Iterable[tuple[NDArray[Any], Sequence[NDArray[Any]]]]
) -> None:
    """Write reference steps and the network's logits for them.

    Args:
        network: what the export was made from.
        folder: folder of the export.
        manifest: its description, compared already.
        trials: episodes of a text embedding (E,) and RGB images, all of one length. As many are taken as give
            ``CLEAR_TOKENS`` clear tokens, at most ``MOST_STEPS`` steps.
    """
    size, gap, clear, steps = manifest.sizes.image_size, _gap(manifest), 0, 0
    episodes: list[tuple[FloatArray, NDArray[np.uint8], FloatArray]] = []
    for embedding, images in trials:
        steps += len(images)
        if episodes and (clear >= CLEAR_TOKENS or steps > MOST_STEPS):
            break
        stretched = np.stack([np.rint(255.0 * prepare_image(image, size)).astype(np.uint8) for image in images])
        logits = network.episode_logits(embedding, stretched)
        episodes.append((np.asarray(embedding, np.float32), stretched, logits))
        clear += compare_logits(logits, logits, gap=gap).clear_tokens
    names = ("embeddings", "images", "logits")
    arrays = (np.ascontiguousarray(np.stack(values)) for values in zip(*episodes, strict=True))
    save_file(dict(zip(names, arrays, strict=True)), folder / REFERENCE_FILE)


def check_reference(stepper: Stepper, folder: Path, manifest: Manifest) -> None:
    """Take the reference steps of an export on this machine. Warn where they have no clear token.

    Raises:
        ExportError: fewer of their clear tokens are equal than the export asks for, or they cannot be read.
    """
    assert manifest.comparison is not None
    gap, least = _gap(manifest), manifest.comparison.least_agreement
    embedding_ME, image_MNHWC, expected_MNAV = _read(folder / REFERENCE_FILE, manifest)
    agreement = NOTHING_COMPARED
    for embedding_E, image_NHWC, expected_NAV in zip(embedding_ME, image_MNHWC, expected_MNAV, strict=True):
        logits_NAV = stepper.episode_logits(embedding_E, image_NHWC)
        if logits_NAV.shape != expected_NAV.shape:
            size, bins = logits_NAV.shape[1:]
            raise ExportError(
                f"{folder} has graphs of {size} dimensions of {bins} bins, its action spec has {expected_NAV.shape[1]} "
                f"of {expected_NAV.shape[2]}. Export again"
            )
        agreement += compare_logits(expected_NAV, logits_NAV, gap=gap)
    if not agreement.clear_tokens:
        warnings.warn(
            f"{folder} has no clear token in its reference steps, so this machine is not checked. Export with --data",
            stacklevel=4,
        )
    if agreement.clear_agreement < least:
        raise ExportError(
            f"{folder} chooses {agreement.clear_agreement:.1%} of the {agreement.clear_tokens} clear tokens of its "
            f"reference steps on this machine, at least {least:.0%} must agree. Export again here, or in fp32"
        )


def _gap(manifest: Manifest) -> float:
    """Return the gap of a clear token.

    In int8 another number of threads moves the logits as much as the precision itself does. So the gap is above twice
    the difference that the comparison found.
    """
    return max(CLEAR_GAP, 2.0 * (manifest.comparison.logit_difference if manifest.comparison else 0.0))


def _read(file: Path, manifest: Manifest) -> tuple[FloatArray, NDArray[np.uint8], FloatArray]:
    sizes, spec = manifest.sizes, manifest.action_spec
    try:
        arrays = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ExportError(f"{file} cannot be read: {error}. Restore it from a copy, or export again") from error
    steps = arrays["images"].shape[:2] if "images" in arrays and arrays["images"].size else (0, 0)
    expected = {
        "embeddings": (np.float32, (steps[0], sizes.text_width)),
        "images": (np.uint8, (*steps, *sizes.image_size, 3)),
        "logits": (np.float32, (*steps, spec.size, spec.bins)),
    }
    if {name: (array.dtype.type, array.shape) for name, array in arrays.items()} != expected:
        raise ExportError(f"{file} holds other reference steps than {file.parent} takes. Export again")
    return arrays["embeddings"], arrays["images"], arrays["logits"]
