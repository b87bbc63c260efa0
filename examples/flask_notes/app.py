"""Notes: a note and the job that counts its words are stored in one Flask-SQLAlchemy session.

Run it with `gunicorn -w 2 'app:create_app()'` and its jobs with `flask soniq worker`.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort, request
from flask_sqlalchemy import SQLAlchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from soniq.integrations.flask import FlaskSoniq


class Base(DeclarativeBase):
    """The tables of the application."""


db = SQLAlchemy(model_class=Base)
jobs = FlaskSoniq()


class Note(Base):
    """What somebody wrote."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    words: Mapped[int | None]


@jobs.job(queue="notes")
def count_words(note_id: int) -> int:
    """Count a note's words; the job has an app context, so `db.session` is there."""
    note = db.session.get_one(Note, note_id)
    note.words = len(note.text.split())
    db.session.commit()
    return note.words


def create_app() -> Flask:
    """Make the application; FLASK_SONIQ_DATABASE_URL names a database, else it is embedded."""
    app = Flask(__name__)
    app.config.from_prefixed_env()
    jobs.init_app(app)
    with app.app_context():
        address = conninfo_to_dict(jobs.backend.url())  # only one database can have both
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": address}
    db.init_app(app)

    @app.cli.command("init")
    def init() -> None:
        """Create the tables, the notes' and Soniq's."""
        db.create_all()
        jobs.setup()

    @app.post("/notes")
    def create() -> tuple[dict[str, Any], int]:
        """Store a note and the job that counts its words: both or neither."""
        note = Note(text=request.get_data(as_text=True))
        db.session.add(note)
        db.session.flush()  # gives the note its id
        jobs.enqueue(count_words, connection=db.session, note_id=note.id)
        db.session.commit()
        return {"id": note.id}, 201

    @app.get("/notes/<int:note_id>")
    def show(note_id: int) -> dict[str, Any]:
        """Show a note; its words are counted once its job has run."""
        note = db.session.get(Note, note_id) or abort(404)
        return {"text": note.text, "words": note.words}

    return app
