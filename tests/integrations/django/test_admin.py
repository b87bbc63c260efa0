"""The admin: what it shows, what its actions do, and who may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from soniq.integrations.django import clients, soniq_sync

from .shop import jobs

MODELS = ("job", "finishedjob", "deadletter", "queue", "gate", "schedule", "worker")
WORKER = "00000000-0000-7000-8000-000000000001"


@pytest.fixture
def clean_users(project: str) -> Any:
    User.objects.all().delete()
    yield
    User.objects.all().delete()


@pytest.fixture
def login(clean_users: None) -> Callable[..., Client]:
    """Log somebody with these permissions in; nobody's permissions but theirs."""

    def login(*codenames: str, everything: bool = False) -> Client:
        user = User.objects.create(
            username="ann", is_staff=True, is_superuser=everything, is_active=True
        )
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        assert user.user_permissions.count() == len(codenames)
        client = Client()
        client.force_login(user)
        return client

    return login


def listed(name: str) -> str:
    return reverse(f"admin:soniq_{name}_changelist")


def shown(name: str, key: Any) -> str:
    return reverse(f"admin:soniq_{name}_change", args=[key])


def act(client: Client, name: str, action: str, *keys: str, **more: str) -> Any:
    data = {"action": action, "_selected_action": list(keys), **more}
    return client.post(listed(name), data, follow=True)


def dead() -> str:
    """Make a dead letter."""
    job_id = jobs.failing.enqueue()
    soniq_sync.run_worker(run_once=True)
    return job_id


@pytest.fixture
def running(witness: Callable[..., Any]) -> str:
    job_id = jobs.invoice.enqueue(1)
    witness(
        "UPDATE soniq.jobs SET state = 'processing', worker_id = CAST(%s AS uuid), attempt = 1",
        WORKER,
    )
    return job_id


@pytest.mark.parametrize("name", MODELS)
def test_every_list_can_be_looked_at(
    name: str, login: Callable[..., Client], witness: Callable[..., Any]
) -> None:
    witness("INSERT INTO soniq.queues (name) VALUES ('mail')")
    witness(
        "INSERT INTO soniq.workers (id, name, concurrency, version) VALUES (%s, 'w1', 4, '0')",
        WORKER,
    )
    witness(
        "INSERT INTO soniq.gates (task, key, concurrency, rate_seconds, rate_burst,"
        " breaker_failures, breaker_window, breaker_pause) VALUES"
        " ('shop.calls', '', 3, 0.5, 2, 5, 60, 30), ('shop.calls', 'acme', 1, 9, 9, 9, 9, 9)"
    )
    soniq_sync.scheduler.add(jobs.invoice, every=60, args={"order_id": 1})
    dead()
    done = soniq_sync.enqueue(jobs.invoice, order_id=1)
    soniq_sync.run_worker(run_once=True)
    waiting = soniq_sync.enqueue(jobs.invoice, order_id=2)
    client = login(f"view_{name}")
    expected = {
        "job": waiting,
        "finishedjob": done,
        "deadletter": "ValueError: attempt 1",
        "gate": "5 failures in 60 s: 30 s of pause",
        "queue": "mail",
        "schedule": "every 60 s",
        "worker": "w1",
    }
    answer = client.get(listed(name))
    assert answer.status_code == 200
    assert expected[name] in answer.content.decode()


def test_lists_are_filtered_by_state_queue_and_task(login: Callable[..., Client]) -> None:
    mail = soniq_sync.enqueue(jobs.invoice, queue="mail", order_id=1)
    later = soniq_sync.enqueue(jobs.failing, delay=600)
    client = login("view_job")
    for query, there, not_there in (
        ("queue=mail", mail, later),
        ("task=shop.failing", later, mail),
        ("state__exact=scheduled", later, mail),
        (f"q={mail}", mail, later),
    ):
        page = client.get(f"{listed('job')}?{query}").content.decode()
        # Its row; the filters name what other rows have.
        assert f'value="{there}"' in page or shown("job", there) in page
        assert shown("job", not_there) not in page
    assert "0 jobs" in client.get(f"{listed('job')}?q=nonsense").content.decode()


def test_a_payload_is_text_and_nothing_else(login: Callable[..., Client]) -> None:
    evil = "<script>alert('x')</script>"
    job_id = soniq_sync.enqueue("shop.two_hops", item=evil)
    page = login("view_job").get(shown("job", job_id)).content.decode()
    assert evil not in page
    assert "&lt;script&gt;alert(" in page
    assert ">{\n  &quot;item&quot;" in page


def test_an_error_is_told_as_python_writes_it(login: Callable[..., Client]) -> None:
    page = login("view_deadletter").get(shown("deadletter", dead())).content.decode()
    assert "\nTraceback (most recent call last):\n  File &quot;" in page
    assert "\nValueError: attempt 1" in page


def test_a_list_reads_nothing_that_may_be_large(login: Callable[..., Client]) -> None:
    jobs.invoice.enqueue(1)
    dead()
    client = login("view_job", "view_finishedjob", "view_deadletter")
    for name in ("job", "finishedjob", "deadletter"):
        with CaptureQueriesContext(connection) as seen:
            assert client.get(listed(name)).status_code == 200
        assert not [each for each in seen.captured_queries if '."args"' in each["sql"]]


def test_what_nobody_can_be_allowed_to_delete_no_superuser_deletes(
    login: Callable[..., Client], witness: Callable[..., Any]
) -> None:
    witness("INSERT INTO soniq.queues (name) VALUES ('mail')")
    witness("INSERT INTO soniq.gates (task) VALUES ('shop.calls')")
    client = login(everything=True)
    for name, key in (("queue", "mail"), ("gate", "shop.calls")):
        assert 'value="delete_selected"' not in client.get(listed(name)).content.decode()
        act(client, name, "delete_selected", key, post="yes")
    assert witness("SELECT q.name, g.task FROM soniq.queues q, soniq.gates g") == [
        ("mail", "shop.calls")
    ]


def test_jobs_that_are_in_no_database_of_djangos_are_not_offered(
    login: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = login(everything=True)
    assert listed("job") in client.get(reverse("admin:index")).content.decode()
    monkeypatch.setattr(clients.client()._app.home, "_alias", None)  # as SONIQ["DATABASE_URL"] does
    assert listed("job") not in client.get(reverse("admin:index")).content.decode()
    assert client.get(listed("job")).status_code == 403


def test_nobody_adds_or_edits_rows(login: Callable[..., Client]) -> None:
    job_id = jobs.invoice.enqueue(1)
    client = login(everything=True)
    assert client.get(reverse("admin:soniq_job_add")).status_code == 403
    assert client.post(shown("job", job_id), {"state": "queued"}).status_code == 403
    page = client.get(shown("job", job_id)).content.decode()
    assert 'name="_save"' not in page


def test_jobs_are_retried_cancelled_and_deleted(login: Callable[..., Client]) -> None:
    later, unwanted, rubbish = (
        soniq_sync.enqueue(jobs.invoice, delay=600, order_id=n) for n in range(3)
    )
    client = login("view_job", "retry_job", "cancel_job", "delete_job")
    assert "1 sent to run now" in act(client, "job", "retry", later).content.decode()
    assert soniq_sync.get_job(later).status == "queued"
    assert "1 cancelled" in act(client, "job", "cancel", unwanted).content.decode()
    assert soniq_sync.get_job(unwanted).status == "cancelled"
    act(client, "job", "delete_selected", rubbish, post="yes")
    assert {job.id for job in soniq_sync.list_jobs()} == {later, unwanted}


def test_a_job_that_cannot_be_retried_is_told(login: Callable[..., Client]) -> None:
    job_id = jobs.invoice.enqueue(1)
    page = act(login("view_job", "retry_job"), "job", "retry", job_id).content.decode()
    assert "Not sent to run now" in page
    assert "queued already" in page


def test_a_running_job_is_not_deleted(login: Callable[..., Client], running: str) -> None:
    client = login("view_job", "delete_job")
    act(client, "job", "delete_selected", running, post="yes")
    assert client.post(reverse("admin:soniq_job_delete", args=[running])).status_code == 403
    assert soniq_sync.get_job(running).status == "processing"


def test_finished_jobs_run_again_and_dead_letters_are_replayed(
    login: Callable[..., Client],
) -> None:
    letter = dead()
    done = jobs.invoice.enqueue(1)
    soniq_sync.run_worker(run_once=True)
    client = login(
        "view_finishedjob",
        "retry_finishedjob",
        "view_deadletter",
        "replay_deadletter",
        "delete_deadletter",
    )
    act(client, "finishedjob", "retry", done)
    act(client, "deadletter", "replay", letter)
    assert {job.task for job in soniq_sync.list_jobs("queued")} == {"shop.invoice", "shop.failing"}
    assert soniq_sync.dead_letter.get(letter).replayed_as is not None
    page = client.get(shown("deadletter", letter)).content.decode()
    assert "ValueError: attempt 1" in page
    act(client, "deadletter", "delete_selected", letter, post="yes")
    assert soniq_sync.dead_letter.list() == []


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("job", "retry"),
        ("job", "cancel"),
        ("job", "delete_selected"),
        ("finishedjob", "retry"),
        ("finishedjob", "delete_selected"),
        ("deadletter", "replay"),
        ("deadletter", "delete_selected"),
    ],
)
def test_an_action_needs_its_permission(
    name: str, action: str, login: Callable[..., Client], witness: Callable[..., Any]
) -> None:
    letter = dead()
    done = jobs.invoice.enqueue(1)
    soniq_sync.run_worker(run_once=True)
    later = soniq_sync.enqueue(jobs.invoice, delay=600, order_id=1)
    key = {"job": later, "finishedjob": done, "deadletter": letter}[name]
    before = sorted((job.id, job.status) for job in soniq_sync.list_jobs())
    client = login(f"view_{name}")
    assert f'value="{action}"' not in client.get(listed(name)).content.decode()
    act(client, name, action, key, post="yes")
    assert sorted((job.id, job.status) for job in soniq_sync.list_jobs()) == before


def test_queues_are_paused_and_resumed_by_whoever_may(
    login: Callable[..., Client], witness: Callable[..., Any]
) -> None:
    paused = "SELECT name, paused FROM soniq.queues ORDER BY name"
    job_id = soniq_sync.enqueue(jobs.invoice, queue="bills", order_id=1)
    witness("INSERT INTO soniq.queues (name, rate_count, rate_seconds) VALUES ('mail', 5, 60)")
    nobody = login("view_queue", "view_job")
    act(nobody, "queue", "pause", "mail")
    act(nobody, "job", "pause_queues", job_id)
    assert witness(paused) == [("mail", False)]
    User.objects.all().delete()
    somebody = login("view_queue", "view_job", "pause_queue")
    assert "5/minute" in somebody.get(listed("queue")).content.decode()
    assert "1 paused." in act(somebody, "queue", "pause", "mail").content.decode()
    assert "1 paused." in act(somebody, "job", "pause_queues", job_id).content.decode()
    assert witness(paused) == [("bills", True), ("mail", True)]
    page = act(somebody, "queue", "resume", "mail").content.decode()
    assert "1 resumed." in page
    page = act(somebody, "queue", "resume", "mail").content.decode()
    assert "Not resumed: mail: it was not paused" in page
    assert witness(paused) == [("bills", True), ("mail", False)]


def test_a_long_list_is_counted_only_so_far(
    login: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from soniq.integrations.django import admin_base

    monkeypatch.setattr(admin_base, "COUNTED", 100)
    soniq_sync.enqueue_many(jobs.invoice, [(n,) for n in range(250)])
    page = login("view_job").get(listed("job")).content.decode()
    assert "100 jobs" in page


def test_schedules_are_paused_resumed_run_and_removed(
    login: Callable[..., Client], witness: Callable[..., Any]
) -> None:
    add = soniq_sync.scheduler.add
    for name in ("mine", "codes"):
        add(jobs.invoice, every=3600, args={"order_id": 7}, name=name)
    witness("UPDATE soniq.schedules SET owner = 'code' WHERE name = 'codes'")
    client = login("view_schedule", "pause_schedule", "run_schedule", "delete_schedule")
    assert "2 paused" in act(client, "schedule", "pause", "mine", "codes").content.decode()
    assert soniq_sync.scheduler.get("codes").paused
    again = act(client, "schedule", "pause", "mine").content.decode()
    assert "Not paused: mine: it was paused already" in again
    assert "1 resumed" in act(client, "schedule", "resume", "mine").content.decode()
    assert "1 sent to run now" in act(client, "schedule", "run", "codes").content.decode()
    (job,) = soniq_sync.list_jobs(task=jobs.invoice)
    assert job.tags == ("schedule:codes",)
    page = act(client, "schedule", "delete_selected", "mine", "codes", post="yes").content.decode()
    assert "1 removed" in page
    assert "the next deploy would bring it back" in page
    assert [each.name for each in soniq_sync.scheduler.list()] == ["codes"]


def test_who_may_look_at_schedules_may_not_change_them(login: Callable[..., Client]) -> None:
    soniq_sync.scheduler.add(jobs.invoice, every=3600, args={"order_id": 7}, name="mine")
    client = login("view_schedule")
    for action in ("pause", "resume", "run", "delete_selected"):
        act(client, "schedule", action, "mine", post="yes")
    kept = soniq_sync.scheduler.get("mine")
    assert (kept.paused, kept.runs) == (False, 0)
    page = client.get(shown("schedule", "mine")).content.decode()
    assert 'name="_save"' not in page
