"""Call the handler with what the application wants around it: hooks and middleware.

A `def` hook or middleware of a `def` task runs in the job's thread; otherwise on the loop. A hook
that fails is logged and harms nobody; a middleware is part of the job.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from ..job.hooks import Hooks
from ..job.outcome import Signal, TimedOut
from .attempt import Attempt, Why

log = logging.getLogger("soniq.worker")

Function = Callable[..., Any]


class Around(NamedTuple):
    """Some of an application's hooks; of its middleware the innermost first."""

    before: tuple[Function, ...]
    after: tuple[Function, ...]
    on_error: tuple[Function, ...]
    middleware: tuple[Function, ...]


class Calls:
    """The hooks that an application has by now, sorted by where they run.

    Sorting is done once, because asking for each job cost more than a short job does.

    Attributes:
        plain: There are none, so the handler may be called directly.
        loopless: None is `async def`, so a `def` handler needs no loop around its thread.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._all = _those(hooks, lambda function: True)
        self._in_thread = _those(hooks, lambda function: not _is_async(function))
        self._on_loop = _those(hooks, _is_async)
        self.plain = not hooks
        self.loopless = not any(self._on_loop)

    async def on_loop(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an `async def` handler, everything around it on the loop."""
        context = attempt.build_context()
        around = self._all
        if around.before:
            await _hooks(around.before, context)
        handler = partial(attempt.task.function, *args, **kwargs)
        try:
            result = await _chained(around.middleware, context, handler)
        except Signal as signal:
            result = signal
        result = _settled(attempt, result)
        if around.after:
            await _hooks(around.after, context, result)
        return result

    async def around_thread(self, attempt: Attempt, run: Callable[[], Awaitable[Any]]) -> Any:
        """Call what runs a `def` handler in its thread, `async def` hooks around it on the loop."""
        if self.loopless:
            return await run()
        context = attempt.build_context()
        around = self._on_loop
        await _hooks(around.before, context)
        result = await _chained(around.middleware, context, run)
        await _hooks(around.after, context, result)
        return result

    def in_thread(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a `def` handler and the `def` hooks around it; this runs in the job's thread."""
        try:
            if self.plain:
                return attempt.task.function(*args, **kwargs)
            return self._call_in_thread(attempt, args, kwargs)
        except GeneratorExit as error:  # it would close the coroutines that wait for this thread
            raise RuntimeError("the handler raised GeneratorExit") from error

    def _call_in_thread(
        self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        context = attempt.build_context()
        around = self._in_thread
        attempt.told = False  # middleware may call the handler again
        for hook in around.before:
            _logged(hook, context)
        call: Function = partial(attempt.task.function, *args, **kwargs)
        for middleware in around.middleware:
            call = partial(middleware, context, call)
        try:
            result = _settled(attempt, _answer(call))
        except Signal:
            raise
        except BaseException as error:
            if attempt.why in {None, Why.TIMEOUT}:  # what was told to stop has not failed
                self.failed_in_thread(attempt, error)
            raise
        for hook in around.after:
            _logged(hook, context, result)
        return result

    def owes_thread(self, attempt: Attempt) -> bool:
        """Tell whether there are `def` error hooks that a thread is to call, and has not."""
        return attempt.threaded and not attempt.told and bool(self._in_thread.on_error)

    def failed_in_thread(self, attempt: Attempt, error: BaseException) -> None:
        """Call the `def` error hooks of a `def` handler, once; this runs in a thread."""
        if self.owes_thread(attempt):
            attempt.told = True
            for hook in self._in_thread.on_error:
                _logged(hook, attempt.build_context(), error)

    async def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Call the error hooks that do not run in the job's thread."""
        hooks = (self._on_loop if attempt.threaded else self._all).on_error
        if hooks and not attempt.reported:
            await _hooks(hooks, attempt.build_context(), error)


def _those(hooks: Hooks, wanted: Callable[[Function], bool]) -> Around:
    before, after, on_error, middleware = (
        tuple(filter(wanted, each))
        for each in (hooks.before, hooks.after, hooks.on_error, hooks.middleware)
    )
    return Around(before, after, on_error, middleware[::-1])


def _is_async(function: Function) -> bool:
    # An instance may have an `async def __call__`.
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def _answer(call: Function) -> Any:
    try:
        return call()
    except Signal as signal:
        return signal


def _settled(attempt: Attempt, result: Any) -> Any:
    """Raise what a handler may as well return; and that it is too late for any answer."""
    if attempt.why is Why.TIMEOUT and not attempt.written:
        raise TimedOut(attempt.timeout or 0.0).error()
    attempt.settled = True
    if isinstance(result, Signal):
        raise result
    return result


def _logged(hook: Function, *args: Any) -> None:
    try:
        hook(*args)
    except BaseException:  # sys.exit() in a hook is no business of the job
        log.exception("the hook %s failed; the job is not affected", _name(hook))


async def _hooks(hooks: Iterable[Function], *args: Any) -> None:
    for hook in hooks:
        try:
            answer = hook(*args)
            if isawaitable(answer):
                await answer
        except BaseException as error:
            await reraised_if_cancelled(error)
            log.exception("the hook %s failed; the job is not affected", _name(hook))


async def reraised_if_cancelled(error: BaseException) -> None:
    """Let a cancellation pass that somebody else meant; one that the code made up is an error."""
    if anyio.current_effective_deadline() == float("-inf"):
        if isinstance(error, anyio.get_cancelled_exc_class()):
            raise error
        await checkpoint()  # trio's nurseries wrap a cancellation; this raises it bare


async def _chained(middleware: Iterable[Function], context: Any, handler: Function) -> Any:
    """Call middleware, the last outermost, around what is awaited."""
    call = handler
    for each in middleware:
        call = partial(_awaited, each, context, call)
    return await call()


async def _awaited(function: Function, *args: Any) -> Any:
    answer = function(*args)
    return await answer if isawaitable(answer) else answer


def _name(function: Function) -> str:
    return getattr(function, "__qualname__", repr(function))
