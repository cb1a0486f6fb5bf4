"""Released weights to our network: the readers of TensorFlow, flax and ImageNet files."""

from __future__ import annotations

from rt1.pretrained.flax import convert_flax
from rt1.pretrained.imagenet import convert_imagenet, load_imagenet
from rt1.pretrained.layout import Conversion, ConversionReport
from rt1.pretrained.tensorflow import convert_tensorflow

__all__ = [
    "Conversion",
    "ConversionReport",
    "convert_flax",
    "convert_imagenet",
    "convert_tensorflow",
    "load_imagenet",
]
