"""Run the email example from start to end: ten people sign up, and ten mails arrive, once each.

    python examples/email_jobs/run.py              FastAPI and Soniq
    python examples/email_jobs/run.py --sync       Flask and SoniqSync

It needs no database: without SONIQ_DATABASE_URL the embedded PostgreSQL is used. Exit code 0 means
that every mail arrived exactly once and every job is done.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from processes import Failed
from stage import NAMES, SignedUp, Stage, stage

from soniq.errors import SoniqError

PATIENCE_SECONDS = 60.0  # of which a retry's 5 s are most; the rest is for slow machines


def main() -> int:
    """Run it; answer the exit code."""
    parser = argparse.ArgumentParser(description="Ten sign-ups, ten mails, once each.")
    parser.add_argument("--sync", action="store_true", help="Flask and SoniqSync")
    parser.add_argument("--users", type=int, default=10, metavar="N", help="default: 10")
    arguments = parser.parse_args()
    print("Soniq, the email example\n")
    announce()
    try:
        with stage(sync=arguments.sync) as running:
            play(running, arguments.users)
        print("Worker and web have stopped. `soniq demo` shows the same live.")
    except (Failed, SoniqError) as error:
        print(f"\nThe example failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def play(running: Stage, number: int) -> None:
    """Start, sign up, watch the mails arrive, check, stop.

    Raises:
        Failed: Something did not start or end, or a mail is missing or came twice.
    """
    begin(running)
    print("\nPeople sign up; each user and the job for the mail are saved in one transaction:")
    users = [sign_up(running, NAMES[place % len(NAMES)]) for place in range(number)]
    print("\nThe worker sends the mails. Each is refused once, and tried again 5 s later:")
    watch(running, users)
    check(running, users)
    running.stop()


def announce() -> None:
    """Have Soniq say where the embedded PostgreSQL is, if it comes to that."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("  database     %(message)s"))
    logger = logging.getLogger("soniq")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def begin(running: Stage) -> None:
    """Start the processes, and say what runs."""
    if running.eq.settings.database_url is not None:
        print("  database     your own, by SONIQ_DATABASE_URL or another setting")
    print(f"  mail server  smtp://127.0.0.1:{running.mails.port}")
    running.start_worker()
    print(f"  worker       soniq {' '.join(running.worker_arguments)}")
    running.start_web()
    print(f"  web          {running.http.base_url}", flush=True)


def sign_up(running: Stage, name: str) -> SignedUp:
    """Sign one user up over HTTP, and say so."""
    user = running.sign_up(name)
    print(f"  POST /users  {name:<7} user {user.user_id}, job {user.job_id}", flush=True)
    return user


def watch(running: Stage, users: list[SignedUp]) -> None:
    """Print each delivery until every user's mail has arrived.

    Raises:
        Failed: A process ended, or not every mail arrived in time.
    """
    missing = {user.message_id: user for user in users}
    log = running.mails.deliveries
    seen, end = 0, time.monotonic() + PATIENCE_SECONDS
    while missing:
        if not running.mails.wait(lambda: len(log) > seen, seconds=1):  # noqa: B023 - called here
            running.check()
            if time.monotonic() > end:
                names = ", ".join(user.name for user in missing.values())
                raise Failed(f"No mail came for {names}.{running.worker.last_words()}")
            continue
        for mail in log[seen:]:
            what = "arrived" if mail.accepted else "refused"
            to, attempt = mail.recipient, f"attempt {mail.attempt}"
            print(f"  {what}  {to:<20} {mail.subject:<18} {attempt}", flush=True)
            seen += 1
            if mail.accepted:
                missing.pop(mail.message_id, None)


def check(running: Stage, users: list[SignedUp]) -> None:
    """Make sure that every job is done and every mail was taken once.

    Raises:
        Failed: One is not, or one was taken more than once.
    """
    for user in users:
        job = running.eq.wait(user.job_id, timeout=PATIENCE_SECONDS)
        if job.status != "done":
            raise Failed(f"Job {job.id} for {user.name} ended as {job.status}: {job.last_error}")
    taken = Counter(mail.message_id for mail in running.mails.inbox)
    twice = [user.name for user in users if taken[user.message_id] != 1]
    if twice:
        raise Failed(f"More than one mail came for {', '.join(twice)}.")
    print(f"\n{len(users)} users, {len(users)} mails, each arrived once; every job is done.")


if __name__ == "__main__":
    sys.exit(main())
