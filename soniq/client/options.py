"""What `@eq.job(...)` takes: each option once, its type for editors and its check for everybody."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from ..errors import InvalidOption, UnknownOption, shown
from ..job import unique as uniqueness
from ..job.limits import CircuitBreaker, Key, Weights
from ..job.options import (
    Errors,
    RetryPolicy,
    Seconds,
    TaskOptions,
    checked_priority,
    checked_queue,
    checked_retries,
    checked_tags,
    checked_timeout,
    retry_rule,
    unknown_option,
)
from ..policy.limits import limits_of

ErrorTypes = type[BaseException] | Sequence[type[BaseException]]
Policy = RetryPolicy | Callable[..., float | None]


class JobOptions(TypedDict, total=False):
    """The options of a task.

    Attributes:
        queue: Where its jobs go; `default` unless said.
        priority: 1 (first) to 1000 (last); 100 unless said.
        max_retries: Retries after the first attempt; the setting `max_retries` unless said.
        retries: The same under its other name.
        retry_delay: Seconds before each retry, or a list of them of which the last repeats.
        retry_backoff: Double the delay from retry to retry.
        retry_max_delay: No delay is longer, in seconds.
        retry_jitter: Leave half of each delay to chance.
        retry_policy: Called with (error, attempt, job); answers seconds, or None for no more.
        retry_on: Only these errors are retried.
        discard_on: These errors make the job a dead letter at once.
        timeout: Seconds an attempt may take; None or 0 is no limit.
        validate: A pydantic model, dataclass or msgspec Struct that the arguments must fit.
        args_model: The same under its other name.
        executor: Where the handler runs; `auto` is the loop for `async def`, a thread for `def`;
            `process` is a process of its own, which is killed when its time is over.
        tags: Words kept with its jobs.
        unique: At most one live job for the same arguments.
        dedup_key: At most one live job for this text, or for what this function makes of the
            arguments, which it is called with by name.
        unique_while: The states in which a job is in the way of another; all of `scheduled`,
            `queued` and `processing` unless said.
        unique_for: Nor another within so many seconds after an enqueue, whatever became of it.
        on_conflict: What an enqueue does then: `skip` it, `replace` the job that waits, or `raise`.
        merge: With `replace`, how arguments of both become one, by name: `append`, `sum`, or a
            function of the older and the newer.
        concurrency: Jobs of the task that run at once, over all workers.
        concurrency_key: A parameter's name, or a function of the arguments: `concurrency` is of
            each key.
        ordered_by: The same: jobs of one key run one at a time, in the order of their enqueue.
        ordered_retry: `hold`: a retry holds the others of its key; `step_aside`: it does not.
        rate_limit: How many jobs start in which time, like `100/minute`, `10/s` or `5/10s`.
        rate_burst: How many of them at once, after a rest.
        rate_key: As `concurrency_key`: `rate_limit` is of each key.
        fair_by: The same: keys take turns, however many jobs each has.
        fair_weights: How many turns some keys get where others get one; a dict, or a function.
        breaker: A `CircuitBreaker`: when failures stop the task for a while.
    """

    queue: str
    priority: int
    max_retries: int
    retries: int
    retry_delay: Seconds | Iterable[Seconds]
    retry_backoff: bool
    retry_max_delay: Seconds | None
    retry_jitter: bool
    retry_policy: Policy | None
    retry_on: ErrorTypes
    discard_on: ErrorTypes
    timeout: Seconds | None
    validate: type[Any]
    args_model: type[Any]
    executor: Literal["auto", "async", "thread", "process"]
    tags: Sequence[str]
    unique: bool
    dedup_key: uniqueness.Key
    unique_while: uniqueness.While
    unique_for: Seconds
    on_conflict: uniqueness.Conflict
    merge: uniqueness.Merge
    concurrency: int
    concurrency_key: Key
    ordered_by: Key
    ordered_retry: Literal["hold", "step_aside"]
    rate_limit: str
    rate_burst: int
    rate_key: Key
    fair_by: Key
    fair_weights: Weights
    breaker: CircuitBreaker


def task_options(given: Mapping[str, Any]) -> TaskOptions:
    """Check what a task declares.

    Raises:
        UnknownOption: No option has that name.
        InvalidOption: A value is out of range or of the wrong type.
    """
    for name in given:
        if name not in JobOptions.__annotations__:
            raise UnknownOption(unknown_option(name, [*JobOptions.__annotations__, "name"]))
    value = given.get
    timeout = value("timeout")
    seconds = None if timeout is None else checked_timeout(timeout)
    return TaskOptions(
        queue=checked_queue(value("queue", "default")),
        priority=checked_priority(value("priority", 100)),
        max_retries=_retries(given),
        retry=retry_rule(
            value("retry_delay"),
            value("retry_backoff"),
            value("retry_max_delay"),
            value("retry_jitter"),
        ),
        retry_policy=checked_policy(value("retry_policy")),
        retry_on=_errors("retry_on", value("retry_on")),
        discard_on=_errors("discard_on", value("discard_on")) or (),
        timeout=seconds or None,
        no_timeout="timeout" in given and not seconds,
        executor=value("executor") or "auto",
        tags=None if value("tags") is None else checked_tags(value("tags")),
        unique=_unique(given),
        limits=limits_of(given),
    )


def _unique(given: Mapping[str, Any]) -> uniqueness.UniqueOptions | None:
    """Check them together where nothing can be added to them any more but for single jobs."""
    options = uniqueness.unique_options(given)
    if options is not None:
        options.rule()
    return options


def model_of(given: Mapping[str, Any]) -> type[Any] | None:
    """Pick the model from `validate` or `args_model`.

    Raises:
        InvalidOption: Both are given.
    """
    return _one_of(given, "validate", "args_model")  # type: ignore[no-any-return]


def checked_policy(policy: object) -> Any:
    """A retry policy: None, or something to call.

    Raises:
        InvalidOption: It cannot be called.
    """
    if policy is None or callable(policy):
        return policy
    raise InvalidOption(
        f"retry_policy must be callable with (error, attempt, job), not {shown(policy)}."
    )


def check_executor(executor: object, function: Callable[..., Any]) -> None:
    """Refuse an executor that cannot run the function.

    Raises:
        InvalidOption: It does not exist, or is for the other kind of function.
    """
    is_async = inspect.iscoroutinefunction(function)
    match executor:
        case None | "auto":
            return
        case "async" if not is_async:
            raise InvalidOption(
                f"executor='async' needs an `async def`, and {function.__qualname__} is a `def`: "
                "it would stop the worker's loop. Use 'thread', or leave it out."
            )
        case "thread" if is_async:
            raise InvalidOption(
                f"executor='thread' needs a `def`, and {function.__qualname__} is an `async def`. "
                "Use 'async', or leave it out."
            )
        case "process" if "<" in function.__qualname__:
            raise InvalidOption(
                f"executor='process' needs a function that another process can import, and "
                f"{function.__qualname__} is made within one. Declare it at the top of its module."
            )
        case "async" | "thread" | "process":
            return
        case _:
            raise InvalidOption(
                f"executor must be 'auto', 'async', 'thread' or 'process', not {shown(executor)}."
            )


def check_handler(function: object) -> None:
    """Refuse what cannot be a handler.

    Raises:
        InvalidOption: It is no function, or a generator function.
    """
    if not inspect.isroutine(function):
        raise InvalidOption(
            f"job() decorates a function, not {shown(function)}. Wrap it in a `def` or "
            "`async def`; a name goes in job(name=...)."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidOption(
            f"{function.__qualname__} is a generator function: calling it runs nothing. "
            "Use a `def` or `async def` that returns its result."
        )


def _retries(given: Mapping[str, Any]) -> int | None:
    retries = _one_of(given, "max_retries", "retries")
    return None if retries is None else checked_retries(retries)


def _one_of(given: Mapping[str, Any], name: str, alias: str) -> Any:
    if given.get(name) is not None and given.get(alias) is not None:
        raise InvalidOption(f"{name} and {alias} are two names of one option; give one of them.")
    return given.get(alias) if given.get(name) is None else given[name]


def _errors(option: str, given: object) -> Errors | None:
    if given is None:
        return None
    kinds: list[type[BaseException]] = []
    for kind in given if isinstance(given, Iterable) else (given,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOption(f"{option} takes exception types, not {shown(kind)}.")
        kinds.append(kind)
    return tuple(kinds)
