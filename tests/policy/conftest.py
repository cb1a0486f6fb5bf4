"""Fixtures of the policy tests: the exports that the export tests make, too."""

from __future__ import annotations

from tests.export.conftest import (
    checkpoint,
    embedding,
    images,
    int8_export,
    onnx_export,
    sentences,
    skip_without,
    torch_export,
)

__all__ = [
    "checkpoint",
    "embedding",
    "images",
    "int8_export",
    "onnx_export",
    "sentences",
    "skip_without",
    "torch_export",
]
