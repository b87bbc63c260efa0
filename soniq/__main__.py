"""The command line: `soniq`, or `python -m soniq`."""

from __future__ import annotations

from .cli.main import main

if __name__ == "__main__":
    main()
