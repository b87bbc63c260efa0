"""The tables as models, to look at: Soniq's own statements are what changes them."""

from __future__ import annotations

from typing import Any

from django.db import models

from .clients import schema


def table(name: str) -> str:
    """Name a table with its schema; Django leaves alone what is quoted already."""
    return f'"{schema()}"."{name}"'


class Names(models.Field):
    """A column of texts. Django's ArrayField would want django.contrib.postgres to be installed."""

    def db_type(self, connection: Any) -> str:
        """Name the type."""
        return "text[]"


class Ids(models.Field):
    """A column of job ids."""

    def db_type(self, connection: Any) -> str:
        """Name the type."""
        return "uuid[]"


class Moments(models.Field):
    """A column of moments."""

    def db_type(self, connection: Any) -> str:
        """Name the type."""
        return "timestamptz[]"


class Record(models.Model):
    """What every table of jobs has."""

    id = models.UUIDField(primary_key=True)
    task = models.TextField()
    queue = models.TextField()
    args = models.JSONField(verbose_name="arguments")
    priority = models.SmallIntegerField()
    attempt = models.IntegerField()
    max_attempts = models.IntegerField()
    scheduled_at = models.DateTimeField()
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    worker_id = models.UUIDField(null=True)
    timeout_seconds = models.FloatField(null=True)
    tags = Names(null=True)
    attempts = models.JSONField(null=True)

    class Meta:
        """Of the tables below."""

        abstract = True
        managed = False

    def __str__(self) -> str:
        return f"{self.task} {self.pk}"


class LiveState(models.TextChoices):
    """What a job is before it has ended."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    PROCESSING = "processing"


class PastState(models.TextChoices):
    """What a job is once it has ended well, or was cancelled."""

    DONE = "done"
    CANCELLED = "cancelled"


class Job(Record):
    """A job that waits or runs."""

    state = models.TextField(choices=LiveState.choices)
    snoozes = models.IntegerField()
    aged = models.SmallIntegerField(null=True)
    cancel_requested = models.BooleanField()
    gate = models.TextField(null=True)

    class Meta(Record.Meta):
        """Its table."""

        abstract = False
        db_table = table("jobs")
        default_permissions = ("view", "delete")
        permissions = [("retry_job", "Can run jobs now"), ("cancel_job", "Can cancel jobs")]


class FinishedJob(Record):
    """A job that is done, or was cancelled."""

    state = models.TextField(choices=PastState.choices)
    finished_at = models.DateTimeField()
    result = models.JSONField(null=True)
    reason = models.TextField(null=True)

    class Meta(Record.Meta):
        """Its table."""

        abstract = False
        db_table = table("history")
        default_permissions = ("view", "delete")
        permissions = [("retry_finishedjob", "Can run finished jobs again")]


class DeadLetter(Record):
    """A job that used up its attempts, or was refused."""

    died_at = models.DateTimeField()
    reason = models.TextField()
    replayed_at = models.DateTimeField(null=True)
    replayed_as = models.UUIDField(null=True)

    class Meta(Record.Meta):
        """Its table."""

        abstract = False
        db_table = table("dead_letters")
        default_permissions = ("view", "delete")
        permissions = [("replay_deadletter", "Can replay dead letters")]


class Queue(models.Model):
    """A queue that somebody said something about; a queue needs no row to exist."""

    name = models.TextField(primary_key=True)
    paused = models.BooleanField()
    paused_until = models.DateTimeField(null=True)
    changed_at = models.DateTimeField()
    concurrency = models.IntegerField(null=True)
    rate_count = models.IntegerField(null=True)
    rate_seconds = models.FloatField(null=True)
    rate_burst = models.IntegerField(null=True)
    max_depth = models.IntegerField(null=True)
    on_full = models.TextField(null=True)
    aging_seconds = models.FloatField(null=True)

    class Meta:
        """Its table."""

        managed = False
        db_table = table("queues")
        default_permissions = ("view",)
        permissions = [("pause_queue", "Can pause and resume queues")]

    def __str__(self) -> str:
        return str(self.name)


class Gate(models.Model):
    """What limits a task; its rows for single keys, which are not for people, have one each."""

    task = models.TextField(primary_key=True)
    key = models.TextField()
    concurrency = models.IntegerField(null=True)
    key_concurrency = models.IntegerField(null=True)
    rate_seconds = models.FloatField(null=True)
    rate_burst = models.IntegerField(null=True)
    rate_by_key = models.BooleanField()
    breaker_failures = models.IntegerField(null=True)
    breaker_window = models.FloatField(null=True)
    breaker_pause = models.FloatField(null=True)
    breaker_by_key = models.BooleanField()
    declared_at = models.DateTimeField(null=True)
    spent_until = models.DateTimeField(null=True)
    failed_at = Moments(null=True)
    closed_until = models.DateTimeField(null=True)
    probe = models.UUIDField(null=True)

    class Meta:
        """Its table, whose key is of two columns; the admin does not take such a one."""

        managed = False
        db_table = table("gates")
        default_permissions = ("view",)
        verbose_name = "limit of a task"
        verbose_name_plural = "limits of tasks"

    def __str__(self) -> str:
        return str(self.task)


class Schedule(models.Model):
    """What is enqueued again and again, and when next."""

    name = models.TextField(primary_key=True)
    task = models.TextField()
    args = models.JSONField(verbose_name="arguments")
    queue = models.TextField()
    priority = models.SmallIntegerField()
    max_attempts = models.IntegerField()
    timeout_seconds = models.FloatField(null=True)
    tags = Names(null=True)
    options = models.JSONField(null=True)
    cron = models.TextField(null=True)
    every_seconds = models.FloatField(null=True)
    timezone = models.TextField()
    jitter_seconds = models.FloatField()
    catch_up = models.TextField()
    catch_up_max = models.IntegerField()
    overlap = models.TextField()
    owner = models.TextField()
    paused = models.BooleanField()
    retired_at = models.DateTimeField(null=True)
    moment = models.DateTimeField()
    next_run = models.DateTimeField()
    waiting = models.BooleanField()
    last_moment = models.DateTimeField(null=True)
    last_run = models.DateTimeField(null=True)
    last_job_id = models.UUIDField(null=True)
    holders = Ids()
    runs = models.BigIntegerField()
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    revision = models.BigIntegerField()
    orphaned = models.BooleanField()
    declared_until = models.DateTimeField(null=True)

    class Meta:
        """Its table."""

        managed = False
        db_table = table("schedules")
        default_permissions = ("view", "delete")
        permissions = [
            ("pause_schedule", "Can pause and resume schedules"),
            ("run_schedule", "Can run schedules now"),
        ]

    def __str__(self) -> str:
        return str(self.name)


class Worker(models.Model):
    """A worker that lives, or lived a moment ago."""

    id = models.UUIDField(primary_key=True)
    name = models.TextField()
    queues = Names(null=True)
    tasks = Names()
    concurrency = models.IntegerField()
    running = models.IntegerField()
    state = models.TextField()
    idle = models.BooleanField()
    version = models.TextField()
    rates = models.JSONField(null=True)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        """Its table."""

        managed = False
        db_table = table("workers")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return str(self.name)
