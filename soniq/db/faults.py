"""What the server or the driver said, in Soniq's own errors: translated once, by SQLSTATE."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import psycopg
from psycopg import errors as pg

from soniq.errors import (
    AccessDenied,
    ConnectionLost,
    DatabaseError,
    DatabaseMissing,
    DatabaseTimeout,
    ReadOnlyServer,
    SchemaMissing,
    SettingsError,
    SoniqError,
    TransactionAborted,
    TransientError,
)
from soniq.settings import Settings

E = TypeVar("E", bound=BaseException)

_RETRIABLE = frozenset({"40001", "40P01", "55P03"})
_LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
_NOT_THERE = frozenset({"42P01", "3F000", "42883", "42703"})
_LOGIN = (
    ("3D000", re.compile(r'database ".*" does not exist')),
    ("28000", re.compile(r'authentication|pg_hba|role ".*" (does not exist|is not permitted)')),
    ("42501", re.compile(r"permission denied")),
    ("53300", re.compile(r"too many (clients|connections)|connection slots|no more connections")),
    ("57P03", re.compile(r"starting up|shutting down|not yet accepting|recovery")),
)
# Among these, `stale_plan` tells.
MAYBE_STALE = (pg.FeatureNotSupported, pg.InvalidSqlStatementName)
_OURS = ("soniq.db.", "soniq.integrations.")
_UNUSABLE = re.compile(r"invalid (port number|integer value|\w+ value)")
_NEVER_MADE = ("connection to server", "failed to resolve host")


def translate(
    error: Exception, schema: str, *, lost: bool = False, lent: bool = False
) -> SoniqError:
    """Turn a driver's error into one of ours, the original kept as its cause.

    Args:
        error: What psycopg, psycopg2 or asyncpg raised: they name the SQLSTATE alike enough.
        schema: The schema of our tables, to tell a missing one from the user's own mistake.
        lost: The connection is closed by now.
        lent: It is the caller's.
    """
    fault = _fault(error, schema, lost, lent)
    fault.__cause__ = error
    error.__traceback__ = None  # the driver's and our own frames tell a reader nothing
    return fault


def stale_plan(error: Exception) -> bool:
    """Tell that a prepared statement is of no use any more: sent anew, it would run.

    It is not there, or "cached plan must not change result type", in whatever language the server
    speaks.
    """
    return isinstance(error, pg.InvalidSqlStatementName) or (
        isinstance(error, pg.FeatureNotSupported)
        and error.diag.source_function == "RevalidateCachedQuery"
    )


def exhausted(settings: Settings) -> DatabaseTimeout:
    """Make the error for a wait for a connection that took too long."""
    return DatabaseTimeout(
        f"No connection came free within {settings.pool_timeout:g} s: all "
        f"{settings.pool_max_size} of the pool are in use. Hold them for a shorter time, or raise "
        "pool_max_size (SONIQ_POOL_MAX_SIZE); pool_timeout says how long to wait."
    )


def unanswered(seconds: float) -> DatabaseTimeout:
    """Make the error for a statement that was not answered in time."""
    return DatabaseTimeout(
        f"The database did not answer within {seconds:g} s; the connection was given up. Look for "
        "locks and long transactions in pg_stat_activity, or raise statement_timeout."
    )


def unreachable(seconds: float, last: BaseException | None = None) -> ConnectionLost:
    """Make the error for a server that could not be reached in time."""
    why = f": {last}" if last else "."
    fault = ConnectionLost(f"The database could not be reached within {seconds:g} s{why}")
    fault.__cause__ = last
    return fault


def trimmed(error: E) -> E:
    """Take the driver's frames out of a traceback: the user's line and the operation remain."""
    frames: list[TracebackType] = []
    link = error.__traceback__
    while link is not None:
        module = str(link.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith(_OURS) and module != "soniq.steps":
            frames.append(link)
        link = link.tb_next
    chain: TracebackType | None = None
    for link in reversed(frames):
        chain = TracebackType(chain, link.tb_frame, link.tb_lasti, link.tb_lineno)
    return error.with_traceback(chain)


def _fault(error: Exception, schema: str, lost: bool, lent: bool) -> SoniqError:
    said = words(error)
    code = _sqlstate(error) or _login_code(said)
    if code is None:
        return _unsaid(error, said, lost)
    if code in _NOT_THERE and _ours(code, said, schema):
        return _no_schema(said, schema, lent)
    if code == "3D000":
        return DatabaseMissing(
            f"The server was reached, but the database is not there ({said}). Run `soniq "
            "setup`, which creates it if the role may, or correct the database URL."
        )
    if stale_plan(error):
        return _passing(said, code)
    for belongs, make in _KINDS:
        if belongs(code):
            return make(said, code)
    if lost:
        return _lost(said, code)
    return DatabaseError(f"The database refused: {said} (SQLSTATE {code})", sqlstate=code)


def _sqlstate(error: Exception) -> str | None:
    # psycopg's and asyncpg's name, and psycopg2's.
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _login_code(said: str) -> str | None:
    """Find the SQLSTATE of a refused login, which libpq does not pass on, by its words."""
    if "FATAL" not in said:
        return None
    return next((code for code, pattern in _LOGIN if pattern.search(said)), None)


def _unsaid(error: Exception, said: str, lost: bool) -> SoniqError:
    """Translate an error without SQLSTATE: the driver's own, or no server answered at all."""
    if isinstance(error, pg.ConnectionTimeout):
        return ConnectionLost(f"The database did not accept a connection in time: {said}")
    if _UNUSABLE.match(said):
        return SettingsError(f"The database URL cannot be used: {said}. Correct it.")
    if said.startswith(_NEVER_MADE):
        told = said if said.endswith((".", "?")) else f"{said}."
        return ConnectionLost(
            f"The database could not be reached: {told} Start it, or correct the database URL."
        )
    if lost or isinstance(error, psycopg.OperationalError):
        return ConnectionLost(f"The connection to the database failed: {said}")
    return DatabaseError(f"The database driver refused: {said}")


def words(error: Exception) -> str:
    """Give the server's first sentence, without DETAIL, which may quote the user's data."""
    primary: str | None = getattr(getattr(error, "diag", None), "message_primary", None)
    if primary:
        return primary
    said = str(error)
    if _sqlstate(error):  # asyncpg's: DETAIL and HINT on lines of their own
        said = said.partition("\n")[0]
    return _in_one_line(said) or type(error).__name__


def _in_one_line(text: str) -> str:
    # libpq's hints stand on lines of their own, some without a full stop before them.
    text = text.removeprefix("connection failed: ").removeprefix("connection is bad: ")
    lines = [line.strip() for line in text.splitlines()]
    return re.sub(r"(?<=\w) (?=Is the server )", ". ", " ".join(line for line in lines if line))


def _ours(code: str, said: str, schema: str) -> bool:
    # Names are not translated, whatever the server's language. A column (42703) comes without its
    # schema, but only our own statements get here.
    return code == "42703" or f"{schema}." in said or f'"{schema}"' in said


def _no_schema(said: str, schema: str, lent: bool) -> SoniqError:
    if lent:
        return SchemaMissing(
            "The database of the connection that was passed has no Soniq schema "
            f"{schema!r}, or an older one ({said}). Pass a connection to the database that Soniq "
            "is set up in, or run `soniq setup` against this one."
        )
    return SchemaMissing(
        f"The database has no Soniq schema {schema!r}, or an older one ({said}). "
        "Run `soniq setup` (or eq.setup(), or Django's `manage.py migrate`) against it."
    )


def _denied(said: str, code: str) -> SoniqError:
    return AccessDenied(
        f"The database denied access: {said}. Check the user, the password and the rights of the "
        "role in the database URL.",
        sqlstate=code,
    )


def _lost(said: str, code: str) -> SoniqError:
    return ConnectionLost(f"The connection to the database was lost: {said}", sqlstate=code)


def _read_only(said: str, code: str) -> SoniqError:
    return ReadOnlyServer(
        f"The database takes no writes: {said}. It is a standby, or read-only by its settings; "
        "point the URL at the primary.",
        sqlstate=code,
    )


def _aborted(said: str, code: str) -> SoniqError:
    return TransactionAborted(
        f"The transaction had failed before: {said}. Roll it back, or to a savepoint.",
        sqlstate=code,
    )


def _cancelled(said: str, code: str) -> SoniqError:
    return DatabaseTimeout(
        f"The server stopped the statement: {said}. Look at its statement_timeout, or try again.",
        sqlstate=code,
    )


def _passing(said: str, code: str) -> SoniqError:
    return TransientError(f"The database could not do it now: {said}. Try again.", sqlstate=code)


_Kind = tuple[Callable[[str], bool], Callable[[str, str], SoniqError]]
_KINDS: tuple[_Kind, ...] = (
    (lambda code: code.startswith("28") or code == "42501", _denied),
    (lambda code: code == "25006", _read_only),
    (lambda code: code == "25P02", _aborted),
    (lambda code: code.startswith("08") or code in _LOST, _lost),
    (lambda code: code == "57014", _cancelled),
    (lambda code: code.startswith("53") or code in _RETRIABLE, _passing),
)
