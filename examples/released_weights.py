"""Google's weights: convert a TensorFlow or JAX checkpoint and let it act on one image.

python released_weights.py tensorflow robotics_transformer/trained_checkpoints/rt1main checkpoints/rt1main
python released_weights.py flax rt_1_x_jax checkpoints/rt1x
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rt1 import Policy
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.pretrained.convert import convert_flax, convert_tensorflow
from rt1.text.encoder import USE_LARGE_5


def main() -> None:
    """Convert, load, act."""
    parser = argparse.ArgumentParser(description="Convert Google's weights and let them act on one image.")
    parser.add_argument("kind", choices=["tensorflow", "flax"])
    parser.add_argument("path", type=Path, help="checkpoint prefix, SavedModel folder, or flax file")
    parser.add_argument("out", type=Path, help="folder of the converted checkpoint")
    parser.add_argument("--config", help="rt1main, rt1x, ... or a JSON file; inferred if not given")
    arguments = parser.parse_args()

    convert = convert_flax if arguments.kind == "flax" else convert_tensorflow
    converted = convert(arguments.path, config=arguments.config)
    info = CheckpointInfo(
        model=converted.model.config,
        action_spec=converted.configuration.action,
        text_encoder=USE_LARGE_5,
        provenance={"source": converted.report.source},
    )
    save_checkpoint(arguments.out, model=converted.model, info=info)

    # A stand-in of the right width and length. For sentences, give from_checkpoint a text_encoder: a table of
    # rt1.data.text_table (TableEncoder.load), or Universal Sentence Encoder as an ONNX file (rt1.text.use.UseOnnx).
    embedding = np.random.default_rng(0).normal(size=USE_LARGE_5.width).astype(np.float32)
    image = np.full((256, 320, 3), 128, dtype=np.uint8)  # what the camera of Google's robots gives: RGB, 256x320

    policy = Policy.from_checkpoint(arguments.out)
    policy.reset(embedding / np.linalg.norm(embedding))
    for name, value in policy.act(image).items():
        print(f"{name:40} {np.round(value, 3)}")


if __name__ == "__main__":
    main()
