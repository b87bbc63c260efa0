"""The same sign-ups in sync code: a Flask application with SoniqSync.

    soniq --app sync_app:eq setup                                   once
    flask --app sync_app run                                        the web
    soniq worker sync_app:eq --queues emails --concurrency 2        the worker, in this folder

Or all of it at once, with a mail server and ten sign-ups: `python run.py --sync`.
"""

import mail
from flask import Flask, request

from soniq import SoniqSync
from soniq.job import JobContext

# As in app.py: SoniqSync(database_url="postgresql://localhost/myapp") in yours.
eq = SoniqSync()


@eq.job(queue="emails", max_retries=3, retry_delay=[5, 30, 300])
def send_welcome_email(user_id: int, ctx: JobContext):
    with eq.backend.acquire() as conn:
        user = conn.fetchrow("SELECT name, welcomed_at FROM users WHERE id = $1", user_id)
    if user is None or user[1] is not None:
        return  # gone; or welcomed by an attempt that died before it could say so
    mail.deliver(mail.write("welcome", user_id, user[0], attempt=ctx.attempt))
    with eq.backend.acquire() as conn:
        conn.execute("UPDATE users SET welcomed_at = now() WHERE id = %s", [user_id])


def create_app() -> Flask:
    """Make the web application; `flask run` calls this, and a worker does not."""
    app = Flask(__name__)
    eq.ensure_initialized()
    with eq.backend.acquire() as conn:
        conn.execute(mail.USERS_TABLE)

    @app.post("/users")
    def sign_up() -> tuple[dict[str, int | str], int]:
        """Save the user and enqueue the mail in one transaction: both are there, or neither."""
        name = request.get_json()["name"]
        with eq.backend.acquire() as conn, conn.transaction():
            user_id = conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name)
            job_id = eq.enqueue(send_welcome_email, connection=conn, user_id=user_id)
        return {"user_id": user_id, "job_id": job_id}, 201

    return app
