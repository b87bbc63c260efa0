"""One name, one task; and names that say where the code is."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from soniq.errors import DuplicateTask, InvalidOption, UnknownTask
from soniq.job.options import TaskOptions
from soniq.job.registry import Registry
from soniq.job.task import Task, default_name


def send(user_id: int) -> None: ...


def other(user_id: int) -> None: ...


def task(name: str = "send", function: Any = send) -> Task[..., Any]:
    return Task(function, name, TaskOptions())


def test_tasks_are_found_by_name() -> None:
    registry = Registry()
    first, second = task("b"), task("a", other)
    registry.add(first)
    registry.add(second)
    assert registry.get("b") is registry.find("b") is first
    assert registry.names() == ["a", "b"]
    assert (len(registry), set(registry)) == (2, {first, second})
    assert registry.find("c") is None


def test_an_unknown_name_gets_the_nearest_and_a_way_out() -> None:
    registry = Registry()
    registry.add(task("emails.send_welcome"))
    with pytest.raises(UnknownTask, match=r"Nearest: emails\.send_welcome\. .*TaskRef"):
        registry.get("emails.send_welcom")
    with pytest.raises(UnknownTask, match=r"^(?!.*Nearest)"):
        registry.get("zzz")


def test_two_functions_of_one_name_are_refused_and_both_named() -> None:
    registry = Registry()
    first = task()
    registry.add(first)
    with pytest.raises(DuplicateTask) as caught:
        registry.add(task(function=other))
    assert all(word in str(caught.value) for word in ("'send'", ".send (", ".other (", "name="))
    assert registry.get("send") is first


def test_the_same_function_declared_again_takes_the_old_ones_place() -> None:
    """As after a module was reloaded."""
    registry = Registry()
    registry.add(task())
    again = task()
    registry.add(again)
    assert registry.get("send") is again


@pytest.mark.parametrize("name", ["", "  ", "x" * 256, "a\0b", "\ud800", None, 5])
def test_bad_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidOption, match="task's name"):
        Registry().add(task(name))


def test_names_must_match_the_pattern_in_full() -> None:
    registry = Registry(r"[a-z]+\.[a-z]+")
    registry.add(task("mail.send"))
    for name in ("send", "mail.send2", "x mail.send"):
        with pytest.raises(InvalidOption, match="task_name_pattern"):
            registry.add(task(name))


def test_a_module_that_is_run_names_its_tasks_as_one_that_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def handler() -> None: ...

    assert default_name(handler).startswith(f"{__name__}.test_a_module")
    handler.__module__, handler.__qualname__ = "__main__", "handler"
    run = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", run)
    run.__file__ = "/somewhere/jobs.py"
    assert default_name(handler) == "jobs.handler"
    for spec, name in (("shop.jobs", "shop.jobs.handler"), ("shop.__main__", "shop.handler")):
        run.__spec__ = SimpleNamespace(name=spec)  # type: ignore[assignment]
        assert default_name(handler) == name
    run.__spec__, run.__file__ = None, None
    assert default_name(handler) == "__main__.handler"


def test_options_make_a_twin_and_leave_the_task_alone() -> None:
    one = task()
    twin = one.options(queue="q", priority=5).options(priority=6)
    assert (twin.chosen.queue, twin.chosen.priority) == ("q", 6)
    assert one.chosen.queue is None
    assert (twin.name, twin.function) == (one.name, one.function)
    assert twin(1) is None
    assert repr(twin) == "<Task 'send'>"


def test_what_a_functions_other_decorators_left_on_it_changes_no_task() -> None:
    """All that lay on the function was laid over the task: its name, its options, its handler."""

    def decorated(user_id: int) -> int:
        """Send."""
        return user_id

    decorated.name = decorated.arguments = decorated.function = None  # type: ignore[attr-defined]
    made = task("send", decorated)
    assert (made.name, made.function, made(1)) == ("send", decorated, 1)
    assert made.arguments.bind((1,), {}) == {"user_id": 1}
    assert (made.__doc__, made.__wrapped__) == ("Send.", decorated)  # type: ignore[attr-defined]
