"""The schema by `manage.py migrate`."""
