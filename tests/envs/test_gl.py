"""The software GL library is chosen once, and a missing one is one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from rt1.envs import gl
from rt1.envs.gl import choose_gl, choose_gl_early, open_renderer
from rt1.errors import RenderingError


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that this machine has these GL libraries and no others, and that the user chose none."""

    def have(*names: str) -> None:
        monkeypatch.setattr(gl, "find_library", lambda name: f"lib{name}.so" if name in names else None)

    monkeypatch.setenv("MUJOCO_GL", "kept by the fixture for its end")
    monkeypatch.delenv("MUJOCO_GL")
    return have


@pytest.mark.parametrize(
    ("names", "choice"), [(("OSMesa", "EGL", "GL"), "osmesa"), (("OSMesa",), "osmesa"), (("EGL", "GL"), "egl")]
)
def test_the_software_gl_that_is_there_is_chosen(
    libraries: Callable[..., None], names: tuple[str, ...], choice: str
) -> None:
    libraries(*names)
    assert choose_gl() == choice
    assert os.environ["MUJOCO_GL"] == choice


@pytest.mark.parametrize("names", [(), ("EGL",), ("GL",)])
def test_without_a_gl_library_the_message_says_what_to_install(
    libraries: Callable[..., None], names: tuple[str, ...]
) -> None:
    libraries(*names)
    with pytest.raises(RenderingError, match=r"no GL library .* apt-get install .* libosmesa6"):
        choose_gl_early(required=True)
    assert "MUJOCO_GL" not in os.environ


def test_physics_and_experts_need_no_gl_library(libraries: Callable[..., None]) -> None:
    libraries()
    choose_gl_early(required=False)
    assert "MUJOCO_GL" not in os.environ


def test_the_users_choice_of_gl_stands(libraries: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    libraries("OSMesa")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert choose_gl() == "glfw"


def test_a_renderer_that_does_not_open_is_one_line_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")

    def fail() -> Any:
        raise AttributeError("no eglQueryString")

    with pytest.raises(RenderingError, match=r"MUJOCO_GL=glfw .*eglQueryString.*libosmesa6"):
        open_renderer(fail)
