"""The thread of the playground: commands in, views out, errors as one line, and an end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rt1.actions import FloatArray
from rt1.play.messages import Command
from rt1.play.playground import Playground
from rt1.play.worker import Worker

ReadView = Callable[[bytes], dict[str, Any]]


class Watched:
    """A worker whose views are all kept."""

    def __init__(self, playground: Playground, read_view: ReadView) -> None:
        self.worker = Worker(playground)
        self.views: queue.Queue[dict[str, Any]] = queue.Queue()
        self.worker.listeners.add(lambda: self.views.put(read_view(self.worker.latest)))

    def ask(self, name: str, value: Any = None) -> None:
        self.worker.submit(Command(name=name, value=value))

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            view = self.views.get(timeout=20)
            if condition(view):
                return view

    def until_phase(self, phase: str) -> dict[str, Any]:
        return self.until(lambda view: view["phase"] == phase)


@pytest.fixture
def watched(playground: Playground, read_view: ReadView) -> Iterator[Watched]:
    playground.set_speed(20)
    made = Watched(playground, read_view)
    made.worker.open()
    yield made
    made.worker.close()


def _raise_it(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_run_goes_to_its_end_step_by_step(watched: Watched) -> None:
    watched.ask("start")
    watched.until_phase("running")
    assert [watched.views.get(timeout=20)["step"] for _ in range(3)] == [1, 2, 3]
    assert 3 < watched.until_phase("over")["step"] <= 12


def test_after_a_stop_no_step_is_taken(watched: Watched, world: Any) -> None:
    watched.ask("start")
    watched.until(lambda view: view["step"] == 2)
    watched.ask("stop")
    stopped = watched.until_phase("stopped")
    watched.ask("speed", 20.0)  # the answer shows that the thread has gone on
    after = watched.until(lambda view: bool(view["speed"]))
    assert after["step"] == stopped["step"] == len(world.opened[0].executed)


def test_a_refused_command_shows_its_reason_until_the_next_one(watched: Watched) -> None:
    watched.ask("instruct", "do a dance")
    view = watched.until(lambda view: view["error"] is not None)
    assert "do a dance" in view["error"]
    assert view["instruction"] == "open the drawer"
    watched.ask("instruct", "close the drawer")
    assert watched.until(lambda view: view["instruction"] == "close the drawer")["error"] is None


def test_a_simulator_that_fails_shows_one_line_and_a_reset_mends_it(
    watched: Watched, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.opened[0].step = _raise_it(RuntimeError("the arm\nbroke"))
    watched.ask("start")
    view = watched.until_phase("failed")
    assert view["error"] == "RuntimeError: the arm broke"
    assert "Traceback" in caplog.text  # for whoever mends it, not for the page
    watched.ask("reset", 0)
    assert watched.until_phase("opening")["image_bytes"] == 0
    assert watched.until_phase("stopped")["error"] is None


def test_a_task_whose_own_instruction_is_refused_says_so_and_can_be_told_another(
    playground: Playground, read_view: ReadView
) -> None:
    playground.tasks = ("mute",)
    watched = Watched(playground, read_view)
    watched.worker.open()
    view = watched.until_phase("stopped")
    assert "say nothing" in view["error"]
    assert view["instruction"] is None
    watched.worker.close()


def test_an_environment_that_does_not_open_ends_it_before_it_starts(playground: Playground, world: Any) -> None:
    world.before_open = _raise_it(ValueError("no simulator here"))
    worker = Worker(playground)
    with pytest.raises(ValueError, match="no simulator here"):
        worker.open()
    worker.close()
    assert not any(thread.name == "rt1-play" for thread in threading.enumerate())


def test_everything_runs_in_one_thread_which_ends_and_closes_the_environment(
    playground: Playground, world: Any, read_view: ReadView
) -> None:
    threads = set()
    watched = Watched(playground, read_view)
    world.before_open = lambda: threads.add(threading.current_thread())
    watched.worker.open()
    step = world.opened[0].step

    def noted(action: FloatArray) -> Any:
        threads.add(threading.current_thread())
        return step(action)

    world.opened[0].step = noted
    watched.ask("start")
    watched.until(lambda view: view["step"] == 1)
    watched.ask("task", "far")
    watched.until(lambda view: view["task"] == "far" and view["phase"] == "stopped")
    watched.worker.close()
    assert [thread.name for thread in threads] == ["rt1-play"]
    assert all(env.closed for env in world.opened)
    assert not threads.pop().is_alive()


def test_more_commands_than_a_person_sends_are_refused(playground: Playground) -> None:
    worker = Worker(playground)  # not opened: nothing takes them
    for _ in range(32):
        worker.submit(Command(name="stop"))
    with pytest.raises(ValueError, match="commands wait already"):
        worker.submit(Command(name="stop"))
