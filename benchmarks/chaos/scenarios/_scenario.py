"""What a scenario is, and how it is declared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..stand import Stand

Play = Callable[[Stand], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way to hurt the system.

    Attributes:
        short: Seconds over which the short form spreads its jobs.
        long: The same for the long form.
        hurts: The faults that must have happened; without them a balance proves nothing.
        needs: Says why it cannot be played here; None if it can.
    """

    number: int
    name: str
    play: Play
    short: float
    long: float
    hurts: tuple[str, ...]
    needs: Callable[[], str | None]

    @property
    def title(self) -> str:
        return (self.play.__doc__ or "").partition("\n")[0]


ALL: list[Scenario] = []


def scenario(
    number: int,
    *,
    hurts: tuple[str, ...] = (),
    short: float = 4,
    long: float = 60,
    needs: Callable[[], str | None] = lambda: None,
) -> Callable[[Play], Play]:
    """Declare a scenario; its name is the function's."""

    def declare(play: Play) -> Play:
        ALL.append(Scenario(number, play.__name__, play, short, long, hurts, needs))
        return play

    return declare
