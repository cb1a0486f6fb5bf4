"""The page in a real browser: it shows the run, drives it, fits a phone, and asks nobody else for anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"width": 390, "height": 844}
QUIET = ("--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update")
TIMEOUT_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, the system's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(BROWSERS)} on PATH; on Debian run: apt-get install -y chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, served: Any) -> Iterator[Callable[..., Any]]:
    """Open the page in a window of its own; whatever it complains about or asks of others fails the test."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def ask(url: str) -> None:
        if urlsplit(url).scheme != "data" and urlsplit(url).netloc != f"127.0.0.1:{served.port}":
            wrong.append(url)

    def launch(**choices: Any) -> Any:
        contexts.append(browser.new_context(**choices))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: ask(request.url))
        page.on("websocket", lambda socket: ask(socket.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(served.origin)
        _wait_for_text(page, "phase", "stopped")
        return page

    yield launch
    for context in contexts:
        context.close()
    assert wrong == []


def _wait_until(page: Any, condition: Callable[[], bool]) -> None:
    """Look again and again; the browser's own waiting would need ``eval``, which the page forbids."""
    for _ in range(TIMEOUT_MS // 20):
        if condition():
            return
        page.wait_for_timeout(20)
    pytest.fail(f"it did not come to pass. The page shows: {page.inner_text('main')}")


def _wait_for_text(page: Any, place: str, text: str) -> None:
    _wait_until(page, lambda: text in page.text_content(f"#{place}"))


def _drawn(page: Any, place: str) -> str:
    """Return what is on a canvas."""
    return str(page.eval_on_selector(place, "canvas => canvas.toDataURL()"))


def _wait_for_another_drawing(page: Any, place: str, before: str) -> None:
    _wait_until(page, lambda: _drawn(page, place) != before)


def test_start_moves_images_and_bars_until_stop(open_page: Callable[..., Any], world: Any) -> None:
    world.opened[0].max_steps = 10_000
    page = open_page()
    places = ("#image", "#dimensions li:nth-child(1) canvas", "#maps label:nth-child(1) canvas")
    before = [_drawn(page, place) for place in places]
    page.click("#start")
    for place, drawing in zip(places, before, strict=True):
        _wait_for_another_drawing(page, place, drawing)
    _wait_for_text(page, "phase", "running")
    _wait_for_text(page, "latency", "p95")
    _wait_for_text(page, "rate", ".")
    assert "of 16" in page.inner_text("#dimensions li:nth-child(1) .value")
    page.click("#stop")
    _wait_for_text(page, "phase", "stopped")
    step = page.inner_text("#step")
    page.select_option("#speed", "4")
    _wait_for_text(page, "rate", "40 Hz")
    assert page.inner_text("#step") == step


def test_another_instruction_makes_the_policy_forget_and_a_reset_puts_the_scene_back(
    open_page: Callable[..., Any], world: Any
) -> None:
    world.opened[0].max_steps = 10_000
    page = open_page()
    first = _drawn(page, "#image")
    page.click("#start")
    _wait_for_text(page, "caption", "remembers 3")
    page.keyboard.press("Escape")
    _wait_for_text(page, "phase", "stopped")
    page.fill("#instruction", "close the drawer")
    page.keyboard.press("Enter")
    _wait_for_text(page, "current", "close the drawer")
    _wait_for_text(page, "caption", "remembers 0")
    assert not page.inner_text("#step").startswith("0 of")
    page.click("#reset")
    _wait_for_text(page, "step", "0 of")
    assert _drawn(page, "#image") == first
    page.fill("#number", "7")
    page.click("#reset")
    _wait_for_another_drawing(page, "#image", first)


def test_what_the_policy_does_not_understand_is_one_line_in_an_alert(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.is_hidden("#error")
    page.fill("#instruction", "<b>do a dance</b>")
    page.click("text=Send")
    alert = page.get_by_role("alert")
    alert.wait_for(state="visible")
    assert "<b>do a dance</b>" in alert.inner_text()
    assert "\n" not in alert.inner_text()
    page.fill("#instruction", "close the drawer")
    page.click("text=Send")
    alert.wait_for(state="hidden")


def test_a_simulator_that_fails_says_so_and_can_be_reset(open_page: Callable[..., Any], world: Any) -> None:
    def fail(_action: object) -> None:
        raise ValueError("the arm broke")

    world.opened[0].step = fail
    page = open_page()
    page.click("#start")
    _wait_for_text(page, "error", "the arm broke")
    _wait_for_text(page, "phase", "failed")
    page.click("#reset")
    _wait_for_text(page, "phase", "stopped")
    assert page.is_hidden("#error")


def test_the_lamp_lights_when_the_goal_is_reached(open_page: Callable[..., Any], world: Any) -> None:
    step = world.opened[0].step
    world.opened[0].step = lambda action: replace(step(action), success=True, done=True)
    page = open_page()
    assert (page.inner_text("#success"), page.get_attribute("#lamp", "class")) == ("not reached", None)
    page.click("#start")
    _wait_for_text(page, "phase", "episode over")
    assert (page.inner_text("#success"), page.get_attribute("#lamp", "class")) == ("reached", "on")
    page.click("#start")  # the next start
    _wait_until(page, lambda: page.input_value("#number") == "1")


def test_another_task_and_another_map_can_be_chosen(open_page: Callable[..., Any], world: Any) -> None:
    page = open_page()
    page.select_option("#task", "far")
    _wait_for_text(page, "current", "close the drawer")
    assert len(world.opened) == 2
    page.click("#start")
    _wait_for_text(page, "phase", "episode over")
    alone = _drawn(page, "#image")
    page.get_by_role("radio", name="map 2").check(force=True)
    _wait_for_another_drawing(page, "#image", alone)
    page.get_by_role("radio", name="image alone").check(force=True)
    assert _drawn(page, "#image") == alone


def test_the_name_of_a_task_is_shown_as_it_is(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.locator("#task option").last.text_content() == "<script>alert(1)</script>"
    assert page.locator("script").count() == 1  # its own, in the head


def test_a_second_window_shows_the_same_run(open_page: Callable[..., Any]) -> None:
    one, two = open_page(), open_page()
    one.click("#start")
    _wait_for_text(two, "phase", "episode over")
    _wait_for_text(one, "phase", "episode over")
    assert one.inner_text("#step") == two.inner_text("#step")
    assert one.inner_text("#success") == two.inner_text("#success")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_with_fingers(open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True, color_scheme=scheme)
    page.tap("#start")
    _wait_for_text(page, "phase", "episode over")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for control in ("#task", "#instruction", "#start", "#stop", "#reset", "#number", "#speed"):
        box = page.locator(control).bounding_box()
        assert box["height"] >= 44
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(open_page: Callable[..., Any]) -> None:
    page = open_page()
    names = []
    for _ in range(20):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    for name in ("start", "stop", "reset", "task", "instruction", "Send", "number", "speed"):
        assert name in names
    for role, name in (
        ("combobox", "Task"),
        ("combobox", "Instruction"),
        ("combobox", "Speed"),
        ("spinbutton", "Reset to start number"),
        ("button", "Start"),
        ("radio", "map 1"),
        ("img", "The scene"),
    ):
        assert page.get_by_role(role, name=name).count() == 1


def test_it_says_when_the_server_has_gone(browser: Any, served: Any) -> None:
    page = browser.new_page()
    page.goto(served.origin)
    _wait_for_text(page, "phase", "stopped")
    served.stop()
    _wait_for_text(page, "phase", "no connection")
    assert "Does rt1 play still run?" in page.get_by_role("alert").inner_text()
    page.close()
