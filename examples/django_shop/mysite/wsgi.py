"""For gunicorn."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
# The admin's style sheets; a real site has its web server give them.
application = StaticFilesHandler(get_wsgi_application())
