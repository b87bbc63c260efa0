"""The project's clients: those of Soniq, which also take `using=`, as Django's own methods do."""

from __future__ import annotations

from typing import Any, Self

from ...client.aio import Soniq
from ...client.base import Base
from ...client.sync import SoniqSync
from ...errors import InvalidOption


class Using(Base):
    """Takes the alias of a connection of Django's as `using=`, wherever `connection=` is taken.

    A task's own parameter of that name is given in `args=`.
    """

    def enqueue(self, target: Any, /, *values: Any, using: str | None = None, **more: Any) -> Any:
        """Store one job; `using` names the connection in whose transaction."""
        parent: Any = super()
        return parent.enqueue(target, *values, **_with(using, more))

    def schedule(self, target: Any, /, *values: Any, using: str | None = None, **more: Any) -> Any:
        """Store one job for later; `using` names the connection in whose transaction."""
        parent: Any = super()
        return parent.schedule(target, *values, **_with(using, more))

    def enqueue_many(self, *values: Any, using: str | None = None, **more: Any) -> Any:
        """Store many jobs; `using` names the connection in whose transaction."""
        parent: Any = super()
        return parent.enqueue_many(*values, **_with(using, more))

    def enqueue_stream(self, *values: Any, using: str | None = None, **more: Any) -> Any:
        """Store any number of jobs; `using` names the connection in whose transaction."""
        parent: Any = super()
        return parent.enqueue_stream(*values, **_with(using, more))

    def within(self, connection: object = None, *, using: str | None = None) -> Self:
        """Give the same client bound to a connection, or to the one that `using` names."""
        return super().within(_with(using, {"connection": connection})["connection"])


class DjangoSoniqSync(Using, SoniqSync):
    """The project's sync client."""


class DjangoSoniq(Using, Soniq):
    """The project's async client."""

    @property
    def sync(self) -> DjangoSoniqSync:
        """The same application's sync client."""
        self._refuse_if_bound("sync")
        twin: DjangoSoniqSync = self.__dict__.setdefault("_twin", DjangoSoniqSync._of(self._app))
        return twin


def _with(using: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if using is None:
        return options
    if options.get("connection") is not None:
        raise InvalidOption("Give using or connection, not both.")
    if not isinstance(using, str):
        raise InvalidOption(f"using must be an alias of DATABASES, not {using!r}.")
    return {**options, "connection": using}
