"""Reference steps: an export proves on each machine that it acts as where it was made. No torch.

A runtime chooses its kernels by processor, and a kernel can be wrong without an error: int8 sums can saturate.

Shape letters: N steps, E text embedding, A action dimensions, V bins.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rt1.actions import FloatArray
from rt1.errors import ExportError
from rt1.policy.agreement import CLEAR_GAP, LEAST_AGREEMENT, compare_logits
from rt1.policy.base import BasePolicy
from rt1.policy.exported_image import prepare_image
from rt1.policy.exported_manifest import REFERENCE_FILE, Manifest


def save_reference(
    policy: BasePolicy, folder: Path, manifest: Manifest, *, embedding: NDArray[Any], images: Sequence[NDArray[Any]]
) -> None:
    """Write reference steps of a compared export with their logits.

    Args:
        policy: the export.
        folder: its folder.
        manifest: its description.
        embedding: text embedding (E,), stored as float32.
        images: RGB images of an episode; one more than the window holds is stored, at the network's size.
    """
    images = images[: manifest.sizes.window + 1]
    unit_NHWC = np.stack([prepare_image(image, manifest.sizes.image_size) for image in images])
    image_NHWC = np.rint(255.0 * unit_NHWC).astype(np.uint8)
    embedding = np.ascontiguousarray(embedding, dtype=np.float32)
    arrays = {"embedding": embedding, "images": image_NHWC, "logits": policy.episode_logits(embedding, image_NHWC)}
    save_file(arrays, folder / REFERENCE_FILE)


def check_reference(policy: BasePolicy, folder: Path, manifest: Manifest) -> None:
    """Take the reference steps of an export on this machine; warn where they have no clear token.

    In int8 another number of threads moves the logits as much as the precision itself does. So a token is clear here
    only where its gap is above twice the difference that the comparison found.

    Raises:
        ExportError: fewer than 99 % of their clear tokens are chosen, or they cannot be read.
    """
    embedding_E, image_NHWC, expected_NAV = _read(folder / REFERENCE_FILE, manifest)
    difference = 0.0 if manifest.comparison is None else manifest.comparison.logit_difference
    gap = max(CLEAR_GAP, 2.0 * difference)
    agreement = compare_logits(expected_NAV, policy.episode_logits(embedding_E, image_NHWC), gap=gap)
    if not agreement.clear_tokens:
        warnings.warn(
            f"{folder} has no clear token in its reference steps, so this machine is not checked; export with --data",
            stacklevel=4,
        )
    if agreement.clear_agreement < LEAST_AGREEMENT:
        raise ExportError(
            f"{folder} chooses {agreement.clear_agreement:.1%} of the {agreement.clear_tokens} clear tokens of its "
            f"reference steps on this machine, at least {LEAST_AGREEMENT:.0%} must agree; export again here, or in fp32"
        )


def _read(file: Path, manifest: Manifest) -> tuple[FloatArray, NDArray[np.uint8], FloatArray]:
    sizes, spec, steps = manifest.sizes, manifest.action_spec, manifest.sizes.window + 1
    expected = {
        "embedding": (np.float32, (sizes.text_width,)),
        "images": (np.uint8, (steps, *sizes.image_size, 3)),
        "logits": (np.float32, (steps, spec.size, spec.bins)),
    }
    try:
        arrays = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ExportError(f"{file} cannot be read: {error}; restore it from a copy, or export again") from error
    if {name: (array.dtype.type, array.shape) for name, array in arrays.items()} != expected:
        raise ExportError(f"{file} holds other reference steps than {file.parent} takes; export again")
    return arrays["embedding"], arrays["images"], arrays["logits"]
