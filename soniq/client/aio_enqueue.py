"""Storing jobs through the async client; `sync_enqueue.py` is its twin.

Every method is a thin skin over an operation of `store/`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from ..errors import QueueFull
from ..job.options import Seconds
from ..job.record import NewJob
from ..job.task import Call
from ..job.unique import Conflict, Enqueued, Key, Merge, While
from ..steps import Steps
from ..store import admission, bulk, jobs
from ..store.admission import Pile, Store
from .base import Base, Room, run_at_options
from .building import Given, Target, checked_progress

if TYPE_CHECKING:
    from ..db.aio import Database

Q = ParamSpec("Q")
A = TypeVar("A")


class AsyncEnqueue(Base):
    """The part of `Soniq` that stores jobs."""

    async def enqueue(
        self,
        target: Target,
        /,
        *values: Any,
        args: Given | None = None,
        queue: str | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
        tags: Sequence[str] | None = None,
        unique: bool | None = None,
        dedup_key: Key | None = None,
        unique_while: While | None = None,
        unique_for: Seconds | None = None,
        on_conflict: Conflict | None = None,
        merge: Merge | None = None,
        connection: object = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of a task as a job; answer the job's id, or that of the one with its key.

        Args:
            target: A task, a decorated function, a registered name, or a `TaskRef`.
            *values: The task's arguments by place.
            args: All of the task's arguments, by name or by place, instead of the other ways.
            queue: Where the job goes.
            priority: 1 (first) to 1000 (last).
            scheduled_at: An aware moment before which it does not run.
            delay: Seconds, or a timedelta, before which it does not run; by the server's clock.
            tags: Words kept with the job.
            unique: At most one live job of the task with these arguments.
            dedup_key: At most one live job of the task with this key.
            unique_while: The states in which a job has its key; all unless said.
            unique_for: Seconds after this enqueue for which the key is held in any case.
            on_conflict: What becomes of this one then: `skip`, the default, answers the id of the
                job there is; `replace` gives that job these arguments, moment and priority if it
                waits; `raise` raises.
            merge: With `replace`, how arguments become one, by name: `append`, `sum`, or a function
                of the older and the newer.
            connection: Store it in the transaction of this connection of yours.
            **kwargs: The task's arguments by name.

        Raises:
            UnknownTask: The target is not known here.
            UnknownOption: An option is also a parameter of the task.
            InvalidOption: An option is out of range or of the wrong type.
            InvalidArguments: The arguments do not fit the task, or are no JSON.
            DuplicateJob: With `on_conflict="raise"`: there is a job of that key.
            QueueFull: The queue has no room.
            DatabaseError: The database refused or failed.
        """
        options = {
            "queue": queue,
            "priority": priority,
            "scheduled_at": scheduled_at,
            "delay": delay,
            "tags": tags,
            "unique": unique,
            "dedup_key": dedup_key,
            "unique_while": unique_while,
            "unique_for": unique_for,
            "on_conflict": on_conflict,
            "merge": merge,
            "connection": connection,
        }
        job = self._app.builder.one(target, values, kwargs, args, options)
        return await self._store(job, connection)

    async def schedule(
        self,
        target: Target,
        /,
        run_at: datetime | Seconds,
        *values: Any,
        args: Given | None = None,
        queue: str | None = None,
        priority: int | None = None,
        tags: Sequence[str] | None = None,
        unique: bool | None = None,
        dedup_key: Key | None = None,
        unique_while: While | None = None,
        unique_for: Seconds | None = None,
        on_conflict: Conflict | None = None,
        merge: Merge | None = None,
        connection: object = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of a task as a job for later; answer the job's id.

        Args:
            target: As for `enqueue`, like everything else.
            run_at: An aware moment, or a timedelta or seconds from now.
            *values: The task's arguments by place.
            args: All of the task's arguments, by name or by place, instead of the other ways.
            queue: Where the job goes.
            priority: 1 (first) to 1000 (last).
            tags: Words kept with the job.
            unique: One of its kind; this and the five that follow, as for `enqueue`.
            dedup_key: Its key.
            unique_while: The states in which a job has its key.
            unique_for: Seconds for which the key is held in any case.
            on_conflict: `skip`, `replace` or `raise`.
            merge: With `replace`, how arguments become one.
            connection: Store it in the transaction of this connection of yours.
            **kwargs: The task's arguments by name.

        Raises:
            UsageError: As for `enqueue`.
            QueueFull: The queue has no room.
            DatabaseError: The database refused or failed.
        """
        options = {
            **run_at_options(run_at),
            "queue": queue,
            "priority": priority,
            "tags": tags,
            "unique": unique,
            "dedup_key": dedup_key,
            "unique_while": unique_while,
            "unique_for": unique_for,
            "on_conflict": on_conflict,
            "merge": merge,
            "connection": connection,
        }
        job = self._app.builder.one(target, values, kwargs, args, options)
        return await self._store(job, connection)

    async def enqueue_many(
        self,
        target: Target | Iterable[Call],
        args_list: Iterable[Given] | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
        tags: Sequence[str] | None = None,
        unique: bool | None = None,
        dedup_key: Key | None = None,
        unique_while: While | None = None,
        unique_for: Seconds | None = None,
        on_conflict: Conflict | None = None,
        merge: Merge | None = None,
        connection: object = None,
    ) -> Enqueued:
        """Store many jobs, all or none; answer their ids in the order given.

        The answer is a list, and its `outcomes` say of each whether it was `enqueued`, is
        `existing` already, or `replaced` one that waited.

        Args:
            target: As for `enqueue`; or, without `args_list`, calls: `[task.call(1), ...]`.
            args_list: The arguments of each job, by name (a dict) or by place (a tuple).
            queue: Where the jobs go.
            priority: 1 (first) to 1000 (last).
            scheduled_at: An aware moment before which they do not run.
            delay: Seconds, or a timedelta, before which they do not run.
            tags: Words kept with the jobs.
            unique: Each one of its kind; this and the five that follow, as for `enqueue`.
            dedup_key: A function that makes each job's key of its arguments, or one key for all.
            unique_while: The states in which a job has its key.
            unique_for: Seconds for which the keys are held in any case.
            on_conflict: `skip`, `replace`, or `raise`: then none is stored.
            merge: With `replace`, how arguments become one.
            connection: Store them in the transaction of this connection of yours.

        Raises:
            UsageError: One of them cannot be stored; the message says which. None was.
            QueueFull: A queue has no room for all of them.
            DatabaseError: The database refused or failed.
        """
        options = {
            "queue": queue,
            "priority": priority,
            "scheduled_at": scheduled_at,
            "delay": delay,
            "tags": tags,
            "unique": unique,
            "dedup_key": dedup_key,
            "unique_while": unique_while,
            "unique_for": unique_for,
            "on_conflict": on_conflict,
            "merge": merge,
        }
        first, more = self._app.builder.many(target, args_list, options)
        lent = self._lent(connection)
        notify = self._app.settings.notify
        store = partial(bulk.enqueue_many, notify=notify, can_copy=lent is None)
        return await self._store_pile(lent, Pile(first, more), store)

    async def enqueue_stream(
        self,
        target: Target,
        args_list: Iterable[Given],
        *,
        queue: str | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
        tags: Sequence[str] | None = None,
        connection: object = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Store any number of jobs, all or none, in little memory; answer how many are new.

        Their arguments are asked for as the jobs before are sent, and no ids are kept. With a
        connection of yours, or where jobs have keys, all jobs are made before the first is sent, so
        they take their memory.

        Args:
            target: A task, a decorated function, a registered name, or a `TaskRef`.
            args_list: The arguments of each job, by name (a dict) or by place (a tuple); a
                generator, for example.
            queue: Where the jobs go.
            priority: 1 (first) to 1000 (last).
            scheduled_at: An aware moment before which they do not run.
            delay: Seconds, or a timedelta, before which they do not run.
            tags: Words kept with the jobs.
            connection: Store them in the transaction of this connection of yours.
            progress: Called now and then with the number sent so far.

        Raises:
            UsageError: One of them cannot be stored; the message says which. None was.
            QueueFull: A queue has no room for all of them.
            DatabaseError: The database refused or failed.
        """
        options = {
            "queue": queue,
            "priority": priority,
            "scheduled_at": scheduled_at,
            "delay": delay,
            "tags": tags,
        }
        first, more = self._app.builder.many(target, args_list, options)
        lent = self._lent(connection)
        notify = self._app.settings.notify
        store = partial(
            bulk.enqueue_stream,
            notify=notify,
            can_copy=lent is None,
            progress=checked_progress(progress),
        )
        return await self._store_pile(lent, Pile(first, more), store)

    # -- within

    @property
    def _database(self) -> Database:
        if "_opened" not in self.__dict__:
            from ..db.aio import Database

            # Not simply assigned: another thread may be quicker, and have opened its pool.
            made = Database(self._app.settings, **self._connections)
            self.__dict__.setdefault("_opened", made)
        opened: Database = self.__dict__["_opened"]
        return opened

    def _lent(self, named: object = None) -> object | None:
        """Choose what to run on: the connection named or bound to, the framework's, or None."""
        if named is None:
            named = self._connection
        if named is None and self._app.ambient_async is not None:
            named = self._app.ambient_async()
        return named

    # These three wait for nothing themselves: a coroutine each would be 1 us of an enqueue's 80.

    def _run_on(
        self,
        connection: object,
        operation: Callable[Q, Steps[A]],
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> Coroutine[Any, Any, A]:
        if connection is None:
            return self._database.run(operation, *args, **kwargs)
        return self._database.run_on(connection, operation, *args, **kwargs)

    def _run(
        self, operation: Callable[Q, Steps[A]], *args: Q.args, **kwargs: Q.kwargs
    ) -> Coroutine[Any, Any, A]:
        return self._run_on(self._lent(), operation, *args, **kwargs)

    def _store(self, job: NewJob, connection: object = None) -> Coroutine[Any, Any, str]:
        lent = self._lent(connection)
        notify, waking = self._app.settings.notify, self._app.waking
        if lent is None and self._app.bounds.frees(job.placement.queue):
            return self._run_on(None, jobs.enqueue, job, notify, waking)
        pile = Pile((job,))
        return self._store_pile(lent, pile, lambda _, __: jobs.enqueue(job, notify, waking))

    async def _store_pile(self, lent: object, pile: Pile, store: Store[A]) -> A:
        """Store jobs once there is room for them, if their queue asks to wait for that.

        Not on a lent connection: whoever makes room may wait for its transaction.
        """
        room = Room(self._app.settings.full_timeout)
        operation, bounds = admission.stored, self._app.bounds
        while True:
            try:
                return await self._run_on(lent, operation, pile, bounds, store, own=lent is None)
            except QueueFull as full:
                if lent is not None:
                    raise
                pause = room.pause(full)
            await anyio.sleep(pause)
