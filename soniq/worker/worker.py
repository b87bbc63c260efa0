"""One worker: its loops, started in order, and ended in order."""

from __future__ import annotations

import logging
import time
from typing import Any

import anyio

from ..db.aio import Database
from ..db.listen import Listener
from ..db.session import Session
from ..errors import DatabaseError
from ..events import Bus, Listening, WorkerStarted, WorkerStopped
from ..job.hooks import Hooks
from ..job.registry import Registry
from ..policy.shutdown import Patience, Phase, phase_after
from ..schema import migrate
from ..settings import Settings
from ..store import gates
from ..store.channel import notify
from . import breaker
from .attempt import Why
from .bench import Bench
from .complete import Completer
from .execute import Executor
from .fetch import Fetcher
from .heartbeat import Heartbeat
from .lead import Leader
from .prune import Pruner
from .rescue import Rescuer
from .schedule import Scheduler
from .stage import Stager
from .sweep import Sweeper
from .tend import Tender
from .transaction import Lender

log = logging.getLogger("soniq.worker")

# Endings that cannot be written for this long after the last attempt are left to the others.
FLUSH_SECONDS = 10.0
SIGN_OUT_SECONDS = 5.0


class Worker:
    """Runs jobs until it is stopped.

    Args:
        database: Where the jobs are.
        registry: The tasks it runs; it claims no others.
        settings: Queues, concurrency, timeouts.
        hooks: What to call around each job.
        bus: Who is told what happens.
        retry_policy: Decides delays for tasks that have no policy of their own.
        run_once: Stop when nothing is due any more.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        hooks: Hooks | None = None,
        bus: Bus | None = None,
        retry_policy: Any = None,
        run_once: bool = False,
    ) -> None:
        self._database = database
        self._settings = settings
        self._parts = (registry, settings, hooks or Hooks(), bus or Bus())
        self._retry_policy = retry_policy
        self._run_once = run_once
        self._signals = 0
        self._asked_at = 0.0
        self._aborted_at = 0.0
        self.bench = Bench(*self._parts)
        self.started = anyio.Event()

    @property
    def id(self) -> str:
        """The worker's id, a UUID."""
        return self.bench.id

    @property
    def processed(self) -> int:
        """Attempts that have ended so far."""
        return self.bench.finished

    def stop(self) -> None:
        """Drain and end; a second call cuts handlers short. Call it from the worker's loop."""
        self._signals += 1
        if self._signals == 1:
            self._asked_at = time.monotonic()
        self.bench.wake_phase.ring()
        self._advance()

    async def run(self) -> int:
        """Run until stopped; answer the exit code.

        Returns:
            0, or 1 when threads did not end and their jobs were left to the others.

        Raises:
            SettingsError: The schema is missing or does not fit.
            DatabaseError: The database could not be reached at the start.
        """
        # Not steady: with the planner's settings, endings made a drain take 1.3 to 6 times as long.
        completing = Session(self._database, steady=False)
        sessions = [completing, *(Session(self._database) for _ in range(5))]
        lender = Lender(self.id, self._database)
        try:
            return await self._run(sessions, lender)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                for session in sessions:
                    await session.close()
            lender.close()

    async def close(self) -> None:
        """Close the pool of its database in this event loop; for whoever made both."""
        await self._database.close()

    async def _run(self, sessions: list[Session], lender: Lender) -> int:
        completing, fetching, beating, upkeep, staging, sweeping = sessions
        bench = self.bench
        await beating.run(migrate.require)
        heartbeat = Heartbeat(bench, beating)
        fetcher = Fetcher(bench, fetching, run_once=self._run_once)
        completer = Completer(bench, completing, self._retry_policy)
        executor = Executor(bench, lender)
        tending = (Rescuer(bench, upkeep), Pruner(bench, upkeep), Tender(bench, upkeep))
        leader = Leader(bench, upkeep, [duty.run for duty in (Stager(bench, staging), *tending)])
        await beating.run(
            gates.declare, {each.name: each.defaults.limits for each in bench.registry}
        )
        bell, hears = bench.wake_schedule, lambda: bench.listening
        scheduler = Scheduler(
            staging, bench.registry, self._settings, bench.bus, bell=bell, listening=hears
        )
        await heartbeat.sign_in()
        if self._settings.scheduler and self._run_once:
            await scheduler.once()
        self._announce()
        left: list[str] = []
        try:
            async with anyio.create_task_group() as loops:
                for loop in (
                    heartbeat.run,
                    completer.run,
                    executor.run,
                    executor.watch_deadlines,
                    self._listener().run,
                    leader.run,
                    Sweeper(bench, sweeping).run,
                    fetcher.run,
                    *([scheduler.run] if self._settings.scheduler else ()),
                ):
                    loops.start_soon(loop)
                self.started.set()
                left += await self._until_stopped(fetcher, executor)
                loops.cancel_scope.cancel()
        finally:  # also of a worker that was cancelled in the middle of its jobs
            await self._sign_out(left, completer, fetcher, leader, heartbeat)
        bench.bus.emit(WorkerStopped(bench.id, tuple(left)))
        return 1 if left else 0

    def _announce(self) -> None:
        settings = self._settings
        self.bench.bus.emit(WorkerStarted(self.id, settings.queues, settings.concurrency))

    # -- ending

    async def _until_stopped(self, fetcher: Fetcher, executor: Executor) -> list[str]:
        """Wait through the phases; answer the ids of jobs whose threads were left behind."""
        bench = self.bench
        while bench.phase is not Phase.STOPPED:
            nothing_due = fetcher.dry and not (bench.busy or bench.hints or bench.freed)
            if self._run_once and nothing_due and not self._signals:
                self.stop()
            await bench.wake_phase.wait(self._next_change())
            self._advance()
        left = [job_id for job_id, _ in list(bench.running)]
        executor.leave_threads()
        with anyio.move_on_after(FLUSH_SECONDS):
            while (
                bench.ready
                or bench.ended
                or bench.writing
                or bench.sweeping.locked()
                or not fetcher.ended
            ):
                bench.wake_complete.ring()
                await bench.wake_phase.wait(0.05)
        return left

    def _advance(self) -> None:
        bench, now = self.bench, time.monotonic()
        before = bench.phase
        bench.phase = phase_after(
            before,
            running=len(bench.running),
            signals=self._signals,
            stopping_seconds=now - self._asked_at,
            aborting_seconds=now - self._aborted_at if self._aborted_at else 0.0,
            patience=Patience(self._settings.shutdown_timeout, self._settings.sync_grace),
        )
        if before is Phase.RUNNING and bench.draining:
            bench.hand_back()
            bench.wake_fetch.ring()
            bench.wake_news.ring()
        if before < Phase.ABORTING and bench.phase is Phase.ABORTING:
            self._aborted_at = now
            bench.stop_running(Why.SHUTDOWN)

    def _next_change(self) -> float | None:
        """Seconds until a phase may end by itself; None while nothing is timed."""
        now = time.monotonic()
        match self.bench.phase:
            case Phase.DRAINING:
                return max(0.0, self._asked_at + self._settings.shutdown_timeout - now)
            case Phase.ABORTING:
                return max(0.0, self._aborted_at + self._settings.sync_grace - now)
            case _:
                return None

    async def _sign_out(
        self,
        left: list[str],
        completer: Completer,
        fetcher: Fetcher,
        leader: Leader,
        heartbeat: Heartbeat,
    ) -> None:
        """Leave nothing behind but the jobs of threads that would not end."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(SIGN_OUT_SECONDS):
            try:
                await completer.flush()
                await fetcher.hand_back_forgotten(lambda: left)
                await leader.resign()
                await heartbeat.sign_out()
            except DatabaseError as error:
                log.warning("could not sign out: %s", error)

    # -- listening

    def _listener(self) -> Listener:
        return Listener(
            self._database,
            self._settings.schema,
            self._heard,
            poke=self._poke,
            on_state=self._listening,
        )

    async def _poke(self, message: str) -> None:
        await self._database.run(notify, message)

    def _listening(self, healthy: bool) -> None:
        bench = self.bench
        bench.listening = healthy and self._settings.notify != "off"
        if not healthy:
            bench.idle = False
        bench.bus.emit(Listening(healthy))
        # Whatever was notified while nobody listened: look now.
        bench.hear("*")

    def _heard(self, message: str) -> None:
        bench = self.bench
        kind, _, rest = message.partition(":")
        if kind == "q":
            bench.hear(rest)
            if rest == "*":
                bench.wake_stage.ring()
                bench.wake_tend.ring()
        elif kind == "c":
            bench.cancel(rest)
        elif kind == "s":
            bench.wake_schedule.ring()
        elif kind == "b":
            breaker.heard(bench, rest)
