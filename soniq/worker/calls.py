"""Call the handler with what the application wants around it: hooks and middleware.

A `def` hook or middleware of a `def` task runs in the job's thread; otherwise on the loop. A hook
that fails is logged and harms nobody; a middleware is part of the job.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from ..job.hooks import Hooks
from ..job.outcome import Signal, TimedOut
from .attempt import Attempt, Why

log = logging.getLogger("soniq.worker")

Function = Callable[..., Any]


class Calls:
    """The hooks of one application, sorted by where they run.

    Attributes:
        plain: There are none, so the handler may be called directly.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self.plain = not hooks

    async def on_loop(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an `async def` handler, everything around it on the loop."""
        context = attempt.build_context()
        await _hooks(self._hooks.before, context)
        handler = partial(attempt.task.function, *args, **kwargs)
        try:
            result = await _chain(self._hooks.middleware, context, handler)
        except Signal as signal:
            result = signal
        result = _settled(attempt, result)
        await _hooks(self._hooks.after, context, result)
        return result

    async def around_thread(self, attempt: Attempt, run: Callable[[], Awaitable[Any]]) -> Any:
        """Call what runs a `def` handler in its thread, `async def` hooks around it on the loop."""
        if self.plain:
            return await run()
        context = attempt.build_context()
        await _hooks(filter(iscoroutinefunction, self._hooks.before), context)
        middleware = [each for each in self._hooks.middleware if iscoroutinefunction(each)]
        result = await _chain(middleware, context, run)
        await _hooks(filter(iscoroutinefunction, self._hooks.after), context, result)
        return result

    def in_thread(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a `def` handler and the `def` hooks around it; this runs in the job's thread."""
        try:
            return self._in_thread(attempt, args, kwargs)
        except GeneratorExit as error:  # it would close the coroutines that wait for this thread
            raise RuntimeError("the handler raised GeneratorExit") from error

    def _in_thread(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.plain:
            return attempt.task.function(*args, **kwargs)
        context = attempt.build_context()
        for hook in _plain(self._hooks.before):
            _logged(hook, context)
        call: Function = partial(attempt.task.function, *args, **kwargs)
        for middleware in reversed(list(_plain(self._hooks.middleware))):
            call = partial(middleware, context, call)
        try:
            result = _settled(attempt, _answer(call))
        except Signal:
            raise
        except Exception as error:
            for hook in _plain(self._hooks.on_error):
                _logged(hook, context, error)
            raise
        for hook in _plain(self._hooks.after):
            _logged(hook, context, result)
        return result

    async def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Call the error hooks that did not run in the job's thread."""
        hooks: Iterable[Function] = self._hooks.on_error
        if not hooks or attempt.reported:
            return
        if attempt.threaded:
            hooks = filter(iscoroutinefunction, hooks)
        await _hooks(hooks, attempt.build_context(), error)


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


def _plain(functions: Iterable[Function]) -> Iterable[Function]:
    return (function for function in functions if not iscoroutinefunction(function))


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


async def _chain(middleware: Iterable[Function], context: Any, handler: Function) -> Any:
    call = partial(_awaited, handler)
    for each in reversed(list(middleware)):
        call = partial(_awaited, each, context, call)
    return await call()


async def _awaited(function: Function, *args: Any) -> Any:
    answer = function(*args)
    return await answer if isawaitable(answer) else answer


def _name(function: Function) -> str:
    return getattr(function, "__qualname__", repr(function))
