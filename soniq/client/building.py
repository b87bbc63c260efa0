"""From what a caller asks for to jobs that can be stored: everything checked, nothing written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from ..errors import InvalidArguments, InvalidOption, UnknownOption, UnknownTask, UsageError, shown
from ..job.codec import encode
from ..job.ids import new_id
from ..job.options import ENQUEUE_OPTIONS, PLAIN, EnqueueOptions, enqueue_options
from ..job.record import NewJob, Placement
from ..job.registry import Registry
from ..job.task import Call, Task, TaskRef
from ..job.unique import Unique, UniqueOptions
from ..settings import Settings
from ..store.bulk import COPY_FROM

log = logging.getLogger("soniq.client")

T = TypeVar("T")
Target: TypeAlias = Task[..., Any] | TaskRef | Callable[..., Any] | str
Given: TypeAlias = Mapping[str, Any] | Iterable[Any]


class Builder:
    """Makes jobs of calls; one for an application.

    Args:
        registry: The tasks that are known here.
        settings: Retries, limits, and what to do about unknown names.
    """

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._placements: dict[Task[..., Any] | TaskRef, Placement] = {}

    def one(
        self,
        target: Target,
        args: tuple[object, ...],
        kwargs: Mapping[str, Any],
        given: object,
        options: Mapping[str, Any],
    ) -> NewJob:
        """Make one job.

        Args:
            target: What to run.
            args: Positional arguments.
            kwargs: Named arguments.
            given: What was passed as `args=`, or None.
            options: Options that lie in one namespace with the arguments; None is not given.

        Raises:
            UsageError: Any of it cannot be; see its branches.
        """
        task = self.resolve(target)
        options = {name: value for name, value in options.items() if value is not None}
        if given is None:
            _refuse_clash(task, options)
        elif args or kwargs:
            raise InvalidArguments("Give arguments in args= or beside it, not both.")
        else:
            args, kwargs = _unpacked(task, given)
        options.pop("connection", None)
        bound = _bound(task, args, kwargs)
        return self._new_job(task, bound, self._placement(task, enqueue_options(options)))

    def many(
        self, target: Target | Iterable[Call], args_list: object, options: Mapping[str, Any]
    ) -> tuple[list[NewJob], Iterator[NewJob]]:
        """Make jobs of one task's argument sets, or of calls of unlike tasks.

        Returns:
            The first of them, so that a mistake in a few is found before a database is asked, and
            the others, made as they are wanted; all of them are placed as some of the first.

        Raises:
            UsageError: Any of it cannot be; the message names the place in the list.
        """
        chosen = enqueue_options({name: v for name, v in options.items() if v is not None})
        if args_list is None:
            made = _each(_calls(target), lambda call: self._called(call, chosen))
            return list(made), iter(())
        if isinstance(args_list, str | bytes | Mapping) or not isinstance(args_list, Iterable):
            raise InvalidArguments(
                "args_list is a list with the arguments of each job: dicts by name, or tuples."
            )
        task = self.resolve(target)  # type: ignore[arg-type]
        placement = self._placement(task, chosen)
        made = _each(args_list, self._maker(task, placement))
        return list(islice(made, COPY_FROM)), made

    def bound(self, task: Task[..., Any], bound: Mapping[str, Any]) -> NewJob:
        """Make one job of arguments that were named already."""
        return self._new_job(task, bound, self._placement(task, PLAIN))

    def resolve(self, target: Target) -> Task[..., Any] | TaskRef:
        """Find what a caller means by a target.

        Raises:
            UnknownTask: A function that was not decorated, or a name nobody registered.
            UsageError: It is nothing that can be enqueued.
        """
        match target:
            case Task() | TaskRef():
                return target
            case str():
                return self._named(target)
            case _ if callable(target):
                return self._decorated(target)
            case _:
                raise UsageError(
                    f"{shown(target)} cannot be enqueued. Pass a task, a function decorated with "
                    "@eq.job(), its name, or TaskRef(name)."
                )

    def _named(self, name: str) -> Task[..., Any] | TaskRef:
        task = self._registry.find(name)
        if task is not None:
            return task
        if self._settings.enqueue_validation == "strict":
            return self._registry.get(name)
        if self._settings.enqueue_validation == "warn":
            log.warning("no task named %r is known here; its arguments are not checked", name)
        return TaskRef(name)

    def _decorated(self, function: Callable[..., Any]) -> Task[..., Any]:
        for task in self._registry:
            if task.function is function:
                return task
        name = getattr(function, "__qualname__", repr(function))
        raise UnknownTask(
            f"{name} is no task of this application. Decorate it with @eq.job(), and enqueue what "
            "the decorator returns."
        )

    def _called(self, call: Call, chosen: EnqueueOptions) -> NewJob:
        return self._new_job(call.task, call.args, self._placement(call.task, chosen))

    def _maker(
        self, task: Task[..., Any] | TaskRef, placement: Placement
    ) -> Callable[[object], NewJob]:
        limit = self._settings.max_payload_bytes
        if placement.unique is not None:
            return lambda given: self._new_job(
                task, _bound(task, *_unpacked(task, given)), placement
            )

        def make(given: object) -> NewJob:
            args, kwargs = _unpacked(task, given)
            bound = _bound(task, args, kwargs)
            text = encode(bound, limit=limit, what="argument")
            return NewJob(new_id(), text, _behind_gate(task, bound, placement))

        return make

    def _new_job(
        self, task: Task[..., Any] | TaskRef, args: Mapping[str, Any], placement: Placement
    ) -> NewJob:
        if placement.unique is not None:
            placement = _with_key(task, args, placement, placement.unique)
        text = encode(args, limit=self._settings.max_payload_bytes, what="argument")
        return NewJob(new_id(), text, _behind_gate(task, args, placement))

    def _placement(self, task: Task[..., Any] | TaskRef, asked: EnqueueOptions) -> Placement:
        """Work out where and how a task's jobs are stored; once for each that is left as it is."""
        if asked is not PLAIN or task.chosen is not PLAIN:
            return self._placed(task, asked.over(task.chosen))
        if task not in self._placements:
            self._placements[task] = self._placed(task, PLAIN)
        return self._placements[task]

    def _placed(self, task: Task[..., Any] | TaskRef, chosen: EnqueueOptions) -> Placement:
        retries, unique = chosen.max_retries, chosen.unique
        if isinstance(task, TaskRef):
            queue, priority, tags, limits = task.queue, 100, None, None
        else:
            declared = task.defaults
            queue, priority, tags = declared.queue, declared.priority, declared.tags
            limits = declared.limits
            retries = declared.max_retries if retries is None else retries
            unique = declared.unique if unique is None else unique.over(declared.unique)
        return Placement(
            task=task.name,
            queue=queue if chosen.queue is None else chosen.queue,
            priority=priority if chosen.priority is None else chosen.priority,
            due=chosen.due,
            max_attempts=1 + (self._settings.max_retries if retries is None else retries),
            timeout=chosen.timeout,
            tags=tags if chosen.tags is None else chosen.tags,
            unique=None if unique is None else self._rule(task, unique),
            gate="t" if limits is not None and limits.key is None else None,
        )

    def _rule(self, task: Task[..., Any] | TaskRef, options: UniqueOptions) -> Unique | None:
        rule = options.rule()
        if rule is None:
            return None
        for name, _ in rule.merge:
            if not (isinstance(task, TaskRef) or task.arguments.takes(name)):
                raise InvalidOption(
                    f"merge names {name!r}, which is no argument of {task.name}: "
                    f"{', '.join(task.arguments.names)}."
                )
        return replace(rule, limit=self._settings.max_payload_bytes)


def _behind_gate(
    task: Task[..., Any] | TaskRef, bound: Mapping[str, Any], placement: Placement
) -> Placement:
    # A job whose task is known by name only is put behind its gate by the worker that claims it.
    if isinstance(task, TaskRef) or task.defaults.limits is None:
        return placement
    gate = task.gate(bound)
    return placement if gate == placement.gate else placement.of_one(placement.unique, gate)


# Not `dict | Mapping`, which would be made anew for each job.
_BY_NAME = (dict, Mapping)


def _each(asked: Iterable[T], make: Callable[[T], NewJob]) -> Iterator[NewJob]:
    place = 0
    try:
        for each in asked:
            yield make(each)
            place += 1
    except UsageError as error:
        raise type(error)(f"Job {place} of the list: {error}") from None


def _with_key(
    task: Task[..., Any] | TaskRef, args: Mapping[str, Any], placement: Placement, rule: Unique
) -> Placement:
    """Place a job by the key that is made of its arguments; others are placed as all of a task."""
    known = args if isinstance(task, TaskRef) else {**task.arguments.defaults, **args}
    own = rule.of(known, task.name)
    return placement if own is rule else placement.of_one(own, placement.gate)


def _bound(
    task: Task[..., Any] | TaskRef, args: tuple[object, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    if isinstance(task, TaskRef):
        if args:
            raise InvalidArguments(
                f"{task.name!r} is known by name only, so its arguments must be named: "
                "user_id=1, not 1."
            )
        return dict(kwargs)
    try:
        return task.arguments.bind(args, kwargs)
    except InvalidArguments as error:
        hidden = [name for name in ENQUEUE_OPTIONS if name in kwargs]
        if not hidden or hidden[0] in task.arguments.names:
            raise
        raise InvalidArguments(
            f"{error} {hidden[0]!r} is an option of single jobs: enqueue "
            f"task.options({hidden[0]}=...)."
        ) from None


def _refuse_clash(task: Task[..., Any] | TaskRef, options: Mapping[str, Any]) -> None:
    if isinstance(task, TaskRef):
        return
    for name in options:
        if name in task.arguments.names:
            instead = (
                "within(connection) for the connection"
                if name == "connection"
                else f"task.options({name}=...) for the option"
            )
            raise UnknownOption(
                f"{name!r} is an option of enqueue and a parameter of {task.name}: it could mean "
                f"either. Use {instead}, and args={{{name!r}: ...}} for the argument."
            )


def _unpacked(
    task: Task[..., Any] | TaskRef, given: object
) -> tuple[tuple[object, ...], Mapping[str, Any]]:
    """Read one job's arguments: a mapping by name, a list or tuple by place, or a model."""
    if isinstance(given, _BY_NAME):
        for name in given:
            if not isinstance(name, str):
                raise InvalidArguments(f"Arguments have names, and {shown(name)} is none.")
        return (), given
    if isinstance(given, list | tuple):
        return tuple(given), {}
    model = None if isinstance(task, TaskRef) else task.arguments.model
    if model is not None and isinstance(given, model):
        return (given,), {}
    raise InvalidArguments(
        f"Arguments of one job come as a dict by name or a tuple by place, not {shown(given)}. "
        f"For a single one: ({shown(given)},)."
    )


def _calls(calls: object) -> Iterable[Call]:
    if isinstance(calls, Iterable) and not isinstance(calls, str | Mapping):
        found = list(calls)
        for place, call in enumerate(found):
            if not isinstance(call, Call):
                raise InvalidArguments(
                    f"Job {place} of the list is {shown(call)}, not a call. Make calls with "
                    "task.call(...), or give the task and a list: enqueue_many(task, [...])."
                )
        return found
    raise InvalidOption("enqueue_many(task, [...]) needs the list; [task.call(...), ...] is one.")


def checked_progress(progress: Callable[[int], object] | None) -> Callable[[int], object] | None:
    """What is told how far a stream has come: None, or something to call.

    Raises:
        InvalidOption: It cannot be called.
    """
    if progress is None or callable(progress):
        return progress
    raise InvalidOption(f"progress is called with a number, and {shown(progress)} cannot be.")
