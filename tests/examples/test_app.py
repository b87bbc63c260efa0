"""The ways of the application that the runner does not go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import HeldMails, ask, connected

pytestmark = pytest.mark.timeout(180)


def test_every_way_to_enqueue_sends_its_mail(stage: Callable[..., Any]) -> None:
    with stage(mails=HeldMails(free=1000)) as running:
        running.start_worker()
        running.start_web()
        saved = running.http.post("/users/in-two-steps", json={"name": "Ada"}).json()
        running.eq.wait(saved["job_id"], timeout=30)
        reminded = running.http.post(f"/users/{saved['user_id']}/reminder").json()
        job = running.eq.wait(reminded["job_id"], timeout=30)
        assert job.status == "done"
        assert [mail.subject for mail in running.mails.inbox] == [
            "Welcome, Ada!",
            "We miss you, Ada",
        ]
        assert running.http.post("/users/999/reminder").status_code == 404
        running.stop()


@pytest.mark.parametrize("sync", [False, True], ids=["fastapi", "flask"])
def test_a_sign_up_whose_job_cannot_be_stored_leaves_no_user(
    stage: Callable[..., Any], empty_database: str, sync: bool
) -> None:
    with stage(sync=sync) as running:
        running.start_web()
        with connected(empty_database) as connection:
            connection.execute("ALTER TABLE soniq.jobs RENAME TO jobs_no_more")
        answer = running.http.post("/users", json={"name": "Ada"})
        assert answer.status_code == 500
        assert ask(empty_database, "SELECT count(*) FROM users") == 0
        # A number was drawn, so the user had been inserted before the job was refused.
        assert ask(empty_database, "SELECT is_called FROM users_id_seq")
