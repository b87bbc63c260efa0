"""The settings: each defined once, with its unit, default, range and meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ..errors import SettingsError, UnknownOption, shown
from .kinds import flag, names, one_of, pattern, read, schema_name, seconds, setting, text, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values one application runs with; made by `load`, never changed."""

    database_url: str | None = setting(
        None, "A libpq URL or conninfo. None: the embedded PostgreSQL.", text, none=True
    )
    schema: str = setting("soniq", "The schema that holds every table.", schema_name)
    environment: str = setting("development", "`production` refuses the embedded PostgreSQL.", text)
    queues: tuple[str, ...] = setting(
        (), "Queues a worker serves, comma-separated; empty: all of them.", names
    )
    concurrency: int = setting(10, "Jobs a worker runs at once.", whole, at_least=1, at_most=10_000)
    threads: int | None = setting(
        None,
        "Threads for `def` jobs; None: as many as `concurrency`.",
        whole,
        at_least=1,
        at_most=10_000,
        none=True,
    )
    processes: int = setting(
        1, "Worker processes that `soniq worker` keeps running.", whole, at_least=1, at_most=1000
    )
    job_processes: int | None = setting(
        None,
        "Processes for jobs with `executor='process'`; None: as many as there are processors.",
        whole,
        at_least=1,
        at_most=1000,
        none=True,
    )
    process_max_jobs: int | None = setting(
        None,
        "Jobs after which such a process is replaced; None: never.",
        whole,
        at_least=1,
        none=True,
    )
    process_memory_limit: int | None = setting(
        None,
        "Mebibytes such a process may allocate before `MemoryError`; None: no limit. Linux only.",
        whole,
        at_least=64,
        none=True,
    )
    prefetch: int = setting(
        500,
        "Most jobs claimed ahead of free slots; the worker takes fewer unless jobs are quick.",
        whole,
        at_least=0,
        at_most=10_000,
    )
    prefetch_bytes: int = setting(
        16_777_216,
        "Most bytes of arguments a claim may hold beyond the free slots.",
        whole,
        at_least=0,
    )
    ack: str = setting(
        "durable",
        "How a worker writes that jobs are done. `relaxed` does not wait for the disk: after a "
        "crash of the server, jobs done in its last moments run again.",
        one_of("durable", "relaxed"),
    )
    scheduler: bool = setting(
        True, "Whether workers also keep the schedules that code declares, and fire them.", flag
    )
    poll_interval: float = setting(
        5.0, "Seconds between looks at the queues when nothing notifies.", seconds, at_least=0.01
    )
    heartbeat_interval: float = setting(
        5.0,
        "Seconds between a worker's signs of life; at most a third of the timeout is used.",
        seconds,
        at_least=0.05,
    )
    heartbeat_timeout: float = setting(
        30.0,
        "Seconds of silence after which a worker counts as dead and its jobs go to others.",
        seconds,
        at_least=0.2,
    )
    job_timeout: float | None = setting(
        300.0,
        "Seconds an attempt may take unless its task says otherwise; None or 0: no limit.",
        seconds,
        at_least=0,
        none=True,
    )
    shutdown_timeout: float = setting(
        30.0, "Seconds running jobs get to finish after SIGTERM.", seconds, at_least=0
    )
    sync_grace: float = setting(
        30.0,
        "Seconds threads get to end after that, their token set.",
        seconds,
        at_least=0,
    )
    result_ttl: float = setting(
        86_400.0, "Seconds finished jobs are kept, at least.", seconds, at_least=0
    )
    dead_letter_ttl: float | None = setting(
        None, "Seconds dead letters are kept; None: for ever.", seconds, at_least=0, none=True
    )
    max_retries: int = setting(
        3, "Retries after the first attempt.", whole, at_least=0, at_most=10_000
    )
    snooze_max: int = setting(
        1000, "Times one job may snooze before it becomes a dead letter.", whole, at_least=0
    )
    max_payload_bytes: int = setting(
        1_048_576, "Largest JSON of arguments or of a result, in bytes.", whole, at_least=2
    )
    pool_min_size: int = setting(1, "Connections a pool keeps open.", whole, at_least=0)
    pool_max_size: int = setting(10, "Connections a pool opens at most.", whole, at_least=1)
    pool_timeout: float = setting(
        30.0, "Seconds to wait for a free connection.", seconds, at_least=0.01
    )
    connect_timeout: int = setting(
        10, "Seconds to wait for the server to accept a connection.", whole, at_least=1
    )
    statement_timeout: float = setting(
        30.0,
        "Seconds Soniq waits for any one answer of the database, on connections of its own, before "
        "it gives the connection up.",
        seconds,
        at_least=0.1,
    )
    full_timeout: float = setting(
        30.0,
        "Seconds an enqueue waits for room in a full queue whose `on_full` is `wait`.",
        seconds,
        at_least=0,
    )
    notify: str = setting(
        "auto",
        "`auto` wakes workers only while one of them is idle; `always`; `off`: they poll.",
        one_of("auto", "always", "off"),
    )
    pgbouncer: bool = setting(
        False,
        "A transaction-mode pooler is in between: no prepared statements. Found out by itself "
        "where the pooler shows.",
        flag,
    )
    listen_url: str | None = setting(
        None,
        "A direct address for LISTEN when `database_url` leads through a pooler.",
        text,
        none=True,
    )
    enqueue_validation: str = setting(
        "strict",
        "What to do about a task name or arguments this process cannot check: `strict` refuses, "
        "`warn` logs, `none` enqueues.",
        one_of("strict", "warn", "none"),
    )
    task_name_pattern: str | None = setting(
        None, "A regular expression every task name must match in full.", pattern, none=True
    )
    log_level: str = setting(
        "INFO",
        "Level of the `soniq` logger in the command line.",
        one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    )
    log_format: str = setting(
        "text", "`text` for people, `json` for machines.", one_of("text", "json")
    )

    def with_(self, **changes: object) -> Settings:
        """Copy with some values changed; None leaves a value as it is.

        Raises:
            UnknownOption: No setting has that name.
            SettingsError: A value of the wrong type or out of range.
        """
        return replace(self, **read_arguments(changes))

    def __post_init__(self) -> None:
        """Hold the values against one another, whoever made them."""
        if self.pool_min_size > self.pool_max_size:
            raise SettingsError(
                f"pool_min_size ({self.pool_min_size}) is larger than pool_max_size "
                f"({self.pool_max_size}). Raise the one or lower the other."
            )
        # A worker must be able to miss two beats before others take its jobs.
        beat = min(self.heartbeat_interval, self.heartbeat_timeout / 3)
        object.__setattr__(self, "heartbeat_interval", beat)


FIELDS = {field.name: field for field in fields(Settings)}


def unknown(name: str) -> str:
    """Say that no setting has this name, and which one may be meant."""
    near = get_close_matches(name, FIELDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(FIELDS))}."
    return f"There is no setting named {shown(name)}.{hint}"


def read_arguments(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Check what was given in code; None as a value means "not given"."""
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            raise UnknownOption(unknown(name))
    return read_all(given, lambda name: f"{name}=")


def read_all(given: Mapping[str, object], source: Callable[[str], str]) -> dict[str, Any]:
    """Read each value as its setting says; `source` names where one came from."""
    return {name: read(FIELDS[name], value, source(name)) for name, value in given.items()}
