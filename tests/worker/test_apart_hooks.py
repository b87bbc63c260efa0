"""`def` hooks around a `def` task with `executor="process"`."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from . import apart_def_hooks
from .conftest import run_once

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_they_need_no_loop_and_hear_of_what_does_not_fit(
    database_url: str, tmp_path: Path
) -> None:
    """No error hook heard of arguments and results that do not fit, and each job hopped."""
    app, path = apart_def_hooks.app, tmp_path / "notes"
    app._app.move_to(database_url)
    make = apart_def_hooks.make.options(tags=[str(path)])
    ids = [await app.enqueue(make, what=what) for what in ("word", "object", "gone")]
    with psycopg.connect(database_url) as connection:
        connection.execute("""UPDATE soniq.jobs SET args = '{"gone": 1}' WHERE id = %s""", ids[2:])
    await run_once(app, concurrency=1)
    assert await app.get_result(ids[0]) == "word"
    assert path.read_text().splitlines() == [
        "around in MainThread",
        "around in MainThread",
        "on_error InvalidArguments in MainThread",
        "on_error InvalidArguments in MainThread",
    ]
    await app.close()
