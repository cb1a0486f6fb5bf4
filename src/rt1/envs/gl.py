"""The software GL library that MuJoCo renders with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from ctypes.util import find_library
from typing import Any

from rt1.errors import RenderingError


def choose_gl() -> str:
    """Set ``MUJOCO_GL`` to the software GL found on this machine, unless the user set it. Return the choice.

    Raises:
        RenderingError: neither OSMesa nor EGL (with libGL) is installed.
    """
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    if find_library("OSMesa"):
        choice = "osmesa"
    elif find_library("EGL") and find_library("GL"):
        choice = "egl"
    else:
        raise RenderingError(
            "no GL library for headless rendering: neither OSMesa nor EGL with libGL is installed. "
            "On Debian or Ubuntu run: apt-get install -y --no-install-recommends libosmesa6"
        )
    os.environ["MUJOCO_GL"] = choice
    return choice


def open_renderer(make: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW's, which the error below repeats
            return make()
    except Exception as error:  # MuJoCo's GL back ends fail with whatever they met first
        raise RenderingError(
            f"MuJoCo could not open a renderer with MUJOCO_GL={os.environ.get('MUJOCO_GL')} ({error}). "
            "On Debian or Ubuntu run: apt-get install -y --no-install-recommends libosmesa6, and unset MUJOCO_GL"
        ) from error


def choose_gl_early(*, required: bool) -> None:
    """Choose the GL back end before the first import of MuJoCo, which reads it once and for all."""
    try:
        choose_gl()
    except RenderingError:
        if required:
            raise
