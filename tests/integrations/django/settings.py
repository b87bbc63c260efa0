"""The settings of the project that these tests run in; conftest.py says which database it is."""

from __future__ import annotations

import os

from psycopg.conninfo import conninfo_to_dict

SECRET_KEY = "not secret"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
TIME_ZONE = "UTC"  # Django sets the process to it, and so whatever other tests start
DEBUG = False
ROOT_URLCONF = "integrations.django.urls"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "soniq.integrations.django",
    "integrations.django.shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

NAMES = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}


def entry(url: str) -> dict[str, object]:
    """Write a libpq URL as an entry of DATABASES."""
    parts = {NAMES[key]: value for key, value in conninfo_to_dict(url).items() if key in NAMES}
    # So that its connections are told from Soniq's.
    options = {"application_name": "shop"}
    return {"ENGINE": "django.db.backends.postgresql", "OPTIONS": options, **parts}


# Processes that tests start are told where the database is; conftest.py fills it in for this one.
DATABASES = {"default": entry(os.environ.get("DJANGO_TEST_URL", "dbname=unset"))}

SONIQ = {"CONCURRENCY": 4, "HEARTBEAT_TIMEOUT": 10, "POLL_INTERVAL": 1}
TASKS = {
    "default": {"BACKEND": "soniq.integrations.django.SoniqBackend", "QUEUES": []},
    "reports": {
        "BACKEND": "soniq.integrations.django.SoniqBackend",
        "QUEUES": ["reports"],
        "OPTIONS": {"max_retries": 1, "retry_delay": 0},
    },
    "hurried": {
        "BACKEND": "soniq.integrations.django.SoniqBackend",
        "QUEUES": [],
        "OPTIONS": {"timeout": 0.2},
    },
}
