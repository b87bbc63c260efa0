"""Run what is due in the calling thread, job by job: no worker, no loop of its own. For tests.

Jobs are claimed, called and ended by the statements and rules of a worker, on the connection that
the caller's operations use, so that all of it can happen within one transaction.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

from ..errors import UsageError
from ..job.context import BothWays
from ..job.hooks import Hooks
from ..job.outcome import Ending, Raised, Returned, Signal
from ..job.record import Claimed
from ..job.registry import Registry
from ..policy.lifecycle import Finish, Verdict, judge
from ..settings import Settings
from ..store import claims
from .attempt import Attempt, kept
from .calls import Calls
from .complete import ask_policy, queries
from .transaction import Lender

Run = Callable[..., Any]


class Inline:
    """Runs an application's due jobs, one after another.

    Args:
        run: Performs an operation, as a sync client does.
        registry: The tasks that are known; others' jobs stay.
        settings: Of the application.
        hooks: What is called around jobs.
        retry_policy: For tasks without one of their own.
        guard: Calls the handler; it may protect the transaction that all of this happens in.
        await_: Runs a coroutine to its end.
        back: Calls a function in the calling thread, for such a coroutine.
    """

    def __init__(
        self,
        run: Run,
        registry: Registry,
        settings: Settings,
        hooks: Hooks,
        retry_policy: Any,
        *,
        guard: Callable[[Callable[[], Any]], Any],
        await_: Callable[[Coroutine[Any, Any, Any]], Any],
        back: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self._run = run
        self._registry = registry
        self._settings = settings
        self._calls = Calls(hooks)
        self._retry_policy = retry_policy
        self._guard = guard
        self._await = await_
        self._back = back
        self._id = str(uuid4())
        nowhere: Any = None  # nobody asks it to lend
        self._lender = Lender(self._id, nowhere)

    def jobs(self, queues: tuple[str, ...] = ()) -> Iterator[tuple[str, BaseException | None]]:
        """Run jobs until none is due; give each one's id, and what its handler raised."""
        while (job := self._claimed(queues)) is not None:
            attempt = _Attempt(job, self._registry.get(job.task), self._lender, None)
            attempt.threaded = not attempt.task.is_async
            ending = self._ending(attempt)
            self._write(job, attempt, ending)
            yield job.id, ending.error if isinstance(ending, Raised) else None

    def _claimed(self, queues: tuple[str, ...]) -> Claimed | None:
        self._run(claims.stage("off").__iter__)
        for queue in self._run(claims.lanes(queues).__iter__):
            found = self._run(claims.claim(self._id, {queue: 1}, self._registry.names()).__iter__)
            if found:
                job: Claimed = found[0]
                return job
        return None

    def _ending(self, attempt: Attempt) -> Ending:
        try:
            result = self._guard(partial(self._call, attempt))
            return Returned(kept(attempt.job.task, result, self._settings.max_payload_bytes))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its attempt
            if not isinstance(error, Signal):
                self._calls.failed_in_thread(attempt, error)
                self._await(self._calls.failed(attempt, error))
            return Raised(error)

    def _call(self, attempt: Attempt) -> Any:
        args, kwargs = attempt.arguments()
        if not attempt.threaded:
            return self._await(self._calls.on_loop(attempt, args, kwargs))
        run = partial(self._calls.in_thread, attempt, args, kwargs)
        if self._calls.loopless:
            return run()
        return self._await(self._calls.around_thread(attempt, partial(self._back, run)))

    def _write(self, job: Claimed, attempt: Attempt, ending: Ending) -> None:
        verdict = self._verdict(job, attempt, ending)
        for query in queries([(job, attempt, verdict)], self._id, "off"):
            self._run(query.__iter__)

    def _verdict(self, job: Claimed, attempt: Attempt, ending: Ending) -> Verdict:
        if isinstance(ending, Returned):
            return Finish(ending.result)
        options = attempt.task.defaults
        asked, delay = ask_policy(options.retry_policy or self._retry_policy, job, ending)
        return judge(
            ending,
            job,
            options,
            draw=random.random(),  # noqa: S311 - jitter needs no secrecy
            snooze_max=self._settings.snooze_max,
            policy_delay=delay,
            policy_asked=asked,
        )


class _Attempt(Attempt):
    """A run that has no connections of its own."""

    __slots__ = ()

    def transaction(self) -> BothWays:
        """Refuse: another connection would not see the job.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "ctx.transaction() opens a connection of its own, which does not see a job that is not "
            "committed. Test such a handler with a worker: `with eq.start_worker():`."
        )
