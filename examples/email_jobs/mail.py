"""What both applications share: the users table, the letters, and the way to the mail server."""

import os
import smtplib
from email.message import EmailMessage

USERS_TABLE = """
    CREATE TABLE IF NOT EXISTS users (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        welcomed_at timestamptz,
        reminded_at timestamptz
    )
"""

LETTERS = {
    "welcome": ("Welcome, {name}!", "Hello {name},\n\nit is good to have you here.\n"),
    "reminder": ("We miss you, {name}", "Hello {name},\n\nyou have not been here for a while.\n"),
}


def write(letter: str, user_id: int, name: str, *, attempt: int = 1) -> EmailMessage:
    """Write a letter to a user; its Message-ID is the same however often it is written."""
    subject, text = LETTERS[letter]
    message = EmailMessage()
    message["Message-ID"] = f"<{letter}-{user_id}@myapp.example>"
    message["From"] = "hello@myapp.example"
    message["To"] = f"{name.lower()}@example.com"
    message["Subject"] = subject.format(name=name)
    message["X-Attempt"] = str(attempt)
    message.set_content(text.format(name=name))
    return message


def deliver(message: EmailMessage) -> None:
    """Hand a letter to the mail server of SMTP_HOST and SMTP_PORT.

    Raises:
        smtplib.SMTPException: The server refused it, for now (4xx) or for good (5xx).
        OSError: The server could not be reached.
    """
    host = os.environ.get("SMTP_HOST", "127.0.0.1")
    port = int(os.environ.get("SMTP_PORT", "1025"))
    # A name is given, or smtplib asks the resolver for ours, which may take its time.
    with smtplib.SMTP(host, port, local_hostname="localhost", timeout=10) as server:
        server.send_message(message)
