"""Jobs enqueued from a generator, in a process of its own: `python -m benchmarks.stream URL N`."""

from __future__ import annotations

import sys

from .process import say
from .tasks import application


def main(url: str, number: int) -> None:
    """Enqueue so many, and say what the process has used before and after."""
    app = application(url)
    with app.eq.sync as eq:
        eq.enqueue_stream(app.noop, [(0,)] * 1000)
        say("ready")
        eq.enqueue_stream(app.noop, ({"i": i} for i in range(number)))
        say("ended")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
