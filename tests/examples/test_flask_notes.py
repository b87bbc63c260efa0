"""The Flask example: gunicorn with two workers, and a worker of Soniq."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytest.importorskip("flask_sqlalchemy")

from .conftest import ROOT, ask, run, serving

pytestmark = pytest.mark.timeout(180)
FOLDER = ROOT / "examples" / "flask_notes"


@pytest.fixture
def address(empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("FLASK_SONIQ_DATABASE_URL", empty_database)
    run("-m", "flask", "init", folder=FOLDER)
    command = ("gunicorn", "-w", "2", "-b", "127.0.0.1:0", "app:create_app()")
    with serving(*command, folder=FOLDER, log=tmp_path / "gunicorn.log") as (_, address):
        yield address


def test_notes_are_counted_by_a_worker(address: str, empty_database: str) -> None:
    texts = ["word " * count for count in range(1, 21)]
    with httpx.Client(base_url=address, timeout=30) as client:
        with ThreadPoolExecutor(4) as people:
            ids = list(
                people.map(lambda text: client.post("/notes", content=text).json()["id"], texts)
            )
        assert client.get(f"/notes/{ids[0]}").json() == {"text": texts[0], "words": None}
        assert "notes\t" in run("-m", "flask", "soniq", "status", folder=FOLDER).stdout
        run("-m", "flask", "soniq", "worker", "--run-once", folder=FOLDER)
        notes = [client.get(f"/notes/{note_id}").json() for note_id in ids]
        assert client.get("/notes/999").status_code == 404
    assert [note["words"] for note in notes] == list(range(1, 21))
    assert ask(empty_database, "SELECT count(*) FROM soniq.history WHERE state = 'done'") == 20
