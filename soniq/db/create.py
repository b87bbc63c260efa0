"""Making the database itself, where the URL names one that is not there yet."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from soniq.errors import AccessDenied
from soniq.settings import Settings

from . import faults
from .conninfo import parameters

# One of these is on every server; `postgres` first, because CREATE DATABASE copies template1.
_MAINTENANCE = ("postgres", "template1")


def create_database(url: str, settings: Settings) -> None:
    """Create the database that the URL names; no error if another process was quicker.

    Blocks; async code calls it in a thread.

    Raises:
        AccessDenied: The role may not create databases.
        DatabaseError: The server refused, or could not be reached.
    """
    asked = parameters(url, settings)
    name = asked.get("dbname") or asked.get("user")
    try:
        with _maintenance(asked) as connection:
            statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(str(name)))
            connection.execute(statement)
    except (pg.DuplicateDatabase, pg.UniqueViolation):
        return  # the second is what the loser of a race is told
    except pg.InsufficientPrivilege as error:
        raise AccessDenied(
            f"The database {name!r} is missing, and this role may not create it. Have somebody "
            f"run `createdb {name}`, then run `soniq setup` again.",
            sqlstate=error.sqlstate,
        ) from error
    except psycopg.Error as error:
        raise faults.translate(error, settings.schema) from error


def _maintenance(asked: dict[str, Any]) -> psycopg.Connection[Any]:
    for name in _MAINTENANCE[:-1]:
        try:
            return psycopg.connect(autocommit=True, **{**asked, "dbname": name})
        except psycopg.OperationalError:
            continue
    return psycopg.connect(autocommit=True, **{**asked, "dbname": _MAINTENANCE[-1]})
