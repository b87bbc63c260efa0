"""Tasks of Django's own framework, where there is one."""

from __future__ import annotations

import asyncio
import time

import django

if django.VERSION >= (6, 0):
    from asgiref.sync import sync_to_async
    from django.tasks import task

    from soniq import Discard, Snooze

    from .models import Order

    @task
    def add(left: int, right: int = 1) -> int:
        return left + right

    @task()
    async def aadd(left: int, right: int = 1) -> int:
        return left + right

    @task(priority=7, queue_name="mail")
    def echo(*args: object, **kwargs: object) -> list[object]:
        return [args, kwargs]

    @task
    def fail(word: str) -> None:
        raise LookupError(f"no {word}\nValueError: this line is of the message")

    @task
    async def afail(word: str) -> None:
        raise LookupError(f"no {word}")

    class OutOfStock(Exception):
        pass

    @task
    def fail_with_own() -> None:
        raise OutOfStock("lamps")

    @task
    def unserialisable() -> object:
        return object()

    @task(takes_context=True)
    def tell(context: object, word: str) -> dict[str, object]:
        result = context.task_result
        return {
            "word": word,
            "attempt": context.attempt,
            "id": result.id,
            "status": str(result.status),
            "workers": result.worker_ids,
            "args": result.args,
        }

    @task(takes_context=True)
    async def atell(context: object) -> int:
        return context.attempt

    @task(takes_context=True, backend="reports", queue_name="reports")
    def second_time(context: object) -> list[object]:
        if context.attempt == 1:
            raise RuntimeError("the first time")
        result = context.task_result
        return [context.attempt, len(result.errors), result.errors[0].exception_class_path]

    @task(takes_context=True, backend="reports", queue_name="reports")
    async def asecond_time(context: object) -> int:
        if context.attempt == 1:
            raise RuntimeError("the first time")
        return context.attempt

    @task
    def snooze_for_long() -> None:
        raise Snooze(3600)

    @task
    def discard() -> Discard:
        return Discard("not today")

    @task
    async def count_orders() -> int:
        return await sync_to_async(Order.objects.count)()

    @task(backend="hurried")
    async def asleep() -> None:
        await asyncio.sleep(60)

    @task
    async def for_ever() -> None:
        await asyncio.sleep(3600)

    @task(backend="hurried")
    def late() -> None:
        time.sleep(0.5)

    @task
    def exit_process() -> None:
        raise SystemExit(3)


if django.VERSION >= (6, 1):

    @task(max_retries=2, retry_delay=[0, 0], timeout=30)
    def third_time(path: str) -> int:
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            runs = len(file.read())
        if runs < 3:
            raise RuntimeError(f"run {runs}")
        return runs

    @task(unique=True)
    def once(order: int, *, by: str = "") -> int:
        return order
