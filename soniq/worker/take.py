"""Which queues a worker asks, for how many jobs, and what it learns from the answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..db.session import Session
from ..job.record import Claimed
from ..policy import turns
from ..steps import Query
from ..store import claims
from . import gated
from .bench import Bench
from .throughput import Throughput

R = TypeVar("R")

# How often a busy worker looks for queues that it does not know, and how far ahead it claims;
# the second figures are for some time after jobs of several queues came: more will.
LOOK_SECONDS = (0.05, 0.01)
HORIZON_SECONDS = (0.1, 0.02)
MIXED_SECONDS = 1.0
# It looks less often where that takes long: for each queue it knows, and so many times what the
# last look took. That was mostly the wait for its turn in a busy loop, so the factor is small.
LOOK_LANE_SECONDS = 0.0005
LOOK_REST = 2
MOST_LOOK_SECONDS = 1.0
# Jobs claimed ahead where few queues are shallow: these are asked by each claim, and the sooner the
# next one comes, the smaller claims are. It is 2 ms of the quickest jobs.
MOST_BESIDE_SHALLOW = 60


class Taker:
    """Claims for one worker.

    Args:
        bench: Where the jobs go.
        session: Its own connection.

    Attributes:
        tasks: The names of the tasks the worker has.
        lanes: The queues known to have work, in the order of their turns.
        stuck: The queues that gave nothing, if none did, at the last claim.
        gated: Claims what waits behind gates.
    """

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session
        self.tasks = bench.registry.names()
        self.lanes: list[str] = []
        self.stuck: list[str] = []
        self.gated = gated.Gated(bench, session)
        self._odd = False
        self._recent: list[str] = []
        self._look_at = 0.0
        self._barren = turns.Barren()
        self._shallow = turns.Shallow()
        self._mixed_until = 0.0
        self._throughput = Throughput()
        self._bytes = 0

    @property
    def looked(self) -> bool:
        """Whether it has just looked which queues have work."""
        return time.monotonic() < self._look_at

    @property
    def pace(self) -> float:
        """How many attempts end per second, as of the last claim."""
        return self._throughput.rate

    async def ask(self, query: Query[R]) -> list[R]:
        """Run one statement on the connection of the claims."""
        return await self._session.run(query.__iter__)

    def room(self) -> int:
        """Say how many jobs to claim; 0 while enough are at hand, or others would take them."""
        bench, now = self._bench, time.monotonic()
        if bench.fenced:
            return 0
        pace, mixed = self._throughput.at(now, bench.finished), now < self._mixed_until
        cap = bench.settings.prefetch
        if mixed and self._shallow.few(now):
            cap = min(cap, MOST_BESIDE_SHALLOW)
        ahead = turns.ahead(pace, cap=cap, horizon_seconds=HORIZON_SECONDS[mixed])
        target = bench.free + ahead
        at_hand = len(bench.ready)
        # Claimed by halves: a claim of one job costs nearly what a claim of hundreds does.
        bench.low = target // 2
        if at_hand > bench.low:
            return 0
        with bench.hands:
            held = size_of(bench.ready)
        self._bytes = bench.settings.prefetch_bytes - held
        heavy = 2 * self._bytes < bench.settings.prefetch_bytes
        return max(0, bench.free - at_hand) if heavy else target - at_hand

    async def take(self, room: int) -> bool:
        """Claim what waits behind gates and what does not, half of either where there is both."""
        if not self.gated.known:
            came = await self._take_plain(room)
            if not self.gated.worth_a_look(stuck=bool(self.stuck)):
                return came
            return await self._take_gated(room) > 0 or came
        if not self._hear() and not (self.lanes or self.looked):
            await self._look()  # or what waits behind gates would have all the room for ever
        self._odd = not self._odd
        share = min(room, room // 2 + self._odd) if self.lanes else room
        gated = await self._take_gated(share)
        plain = await self._take_plain(room - gated) if gated < room else False
        if not (plain or gated) and share < room:
            gated = await self._take_gated(room)
        return plain or gated > 0

    async def _take_gated(self, number: int) -> int:
        if number <= 0:
            return 0
        free = self._bench.free - len(self._bench.ready)
        came = await self.gated.take(number, slots=max(0, free), most_bytes=max(0, self._bytes))
        self._bytes -= size_of(came)
        return len(came)

    async def _take_plain(self, room: int) -> bool:
        """Claim from the queues known to have work, or from those a look finds."""
        hinted = self._hear()
        look_first = not self.lanes or not (self.looked or hinted)
        if look_first:
            await self._look()
        came = await self._claim(room)
        if not came and not look_first:
            await self._look()
            came = await self._claim(room)
        return came

    async def take_again(self) -> bool:
        """Claim where the last jobs came from, without a look if that was one queue."""
        if self.gated.known and await self._take_gated(self.room()):
            return True
        if len(self._recent) == 1 and self.looked:
            self.lanes = list(self._recent)
        else:
            await self._look()
        return await self._claim(self.room())

    # -- claiming

    async def _claim(self, room: int) -> bool:
        """Claim until there is no room or no queue with work; answer if any job came."""
        bench, came, asked = self._bench, False, self.lanes
        beside = () if bench.idle else self._shallow.few(time.monotonic())
        if bench.worn.one_by_one:
            self.lanes = [*(lane for lane in beside if lane not in self.lanes), *self.lanes]
        while room > 0 and self.lanes and not bench.draining:
            known = turns.shares(room, self.lanes)
            if bench.worn.one_by_one:
                known, beside = dict([next(iter(known.items()))]), ()
            numbers = {**dict.fromkeys(beside, bench.settings.concurrency), **known}
            taken = await self._take_from(numbers)
            await gated.feed(bench, self._session, taken)
            room -= len(taken)
            came = came or bool(taken)
            counts = Counter(job.queue for job in taken)
            self._learn(known, numbers, counts)
            full = bool(taken) and self._fills_bytes(taken)
            dry = () if full else [lane for lane in numbers if counts[lane] < numbers[lane]]
            lanes = dict.fromkeys([*self.lanes, *numbers])
            self.lanes, beside = turns.after(lanes, numbers, dry=dry), ()
            if full:
                break
        if came:
            self._recent = asked
        self.stuck = [] if came else asked
        return came

    def _learn(
        self, known: Iterable[str], asked: Mapping[str, int], gave: Mapping[str, int]
    ) -> None:
        now = time.monotonic()
        self._barren.learn(known, gave, now)
        self._shallow.learn(asked, gave, now)
        if len(gave) > 1 or (self._bench.worn.one_by_one and len(self.lanes) > 1):
            self._mixed_until = now + MIXED_SECONDS

    async def _take_from(self, numbers: dict[str, int]) -> list[Claimed]:
        bench, queue = self._bench, next(iter(numbers)) if len(numbers) == 1 else None
        query = claims.claim(
            bench.id,
            numbers,
            self.tasks,
            slots=self._slots(sum(numbers.values())),
            most_bytes=max(0, self._bytes),
            above=None if queue is None else bench.worn.levels(queue),
        )
        began = time.monotonic()
        taken = await self.ask(query)
        seconds = time.monotonic() - began
        if queue is None:
            bench.worn.claimed_several(len(numbers), taken, seconds)
        elif bench.worn.claimed(queue, taken, seconds):
            bench.wake_sweep.ring()
        return taken

    def _slots(self, wanted: int) -> int | None:
        """Say beyond how many jobs a claim is bounded by bytes; None if they cannot be too many."""
        free = self._bench.free
        largest = (wanted - free) * self._bench.settings.max_payload_bytes
        return None if largest <= self._bytes else free

    def _fills_bytes(self, taken: list[Claimed]) -> bool:
        """Tell whether there may have been more jobs, but for the bound of bytes."""
        self._bytes -= size_of(taken)
        return self._bytes < self._bench.settings.max_payload_bytes

    # -- finding queues

    async def _look(self) -> None:
        """Find the queues that have work; those not known come last in the round."""
        began, served = time.monotonic(), self._bench.settings.queues
        # Not at those known: a busy queue begins with the dead entries of the jobs just taken.
        known = list(dict.fromkeys([*self.lanes, *self._bench.worn.queues]))
        found: list[str] = []
        if not served or set(served).difference(known):
            found = await self.ask(claims.lanes(served, beside=known))
        now = time.monotonic()
        least = LOOK_SECONDS[now < self._mixed_until]
        costs = max(LOOK_REST * (now - began), LOOK_LANE_SECONDS * len(known + found))
        self._look_at = now + min(max(least, costs), MOST_LOOK_SECONDS)
        self._barren.keep(found)
        if self.lanes:  # there is work without the barren ones
            found = [queue for queue in found if not self._barren.rests(queue, now)]
        self.lanes = [*known, *found]

    def _hear(self) -> bool:
        """Add the queues that notifications named; answer whether they name all there can be."""
        hints = self._bench.hints
        named = [hint for hint in hints if hint != "*" and hint not in self.lanes]
        everything = "*" in hints
        hints.clear()
        self.lanes += named
        if everything:
            self._look_at = 0.0
        return bool(named) and not everything


def size_of(jobs: Iterable[Claimed]) -> int:
    """Count the bytes of the arguments of jobs, as the database does."""
    texts = (job.args for job in jobs)
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
