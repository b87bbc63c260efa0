"""What the documents show is run, page by page, each on a fresh database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

REPOSITORY = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("run_page.py")
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def has_blocks(page: Path) -> bool:
    return page.exists() and any(
        f"```{kind}" in page.read_text() for kind in ("python", "bash", "sql")
    )


def read_page(page: Path, database_url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([commands(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SONIQ_")}
    environ |= {"SONIQ_DATABASE_URL": as_url(database_url), "PATH": path, "PYTHONUNBUFFERED": "1"}
    environ["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::RuntimeWarning", str(RUNNER), str(page)],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=55,
        check=False,
    )


def as_url(conninfo: str) -> str:
    """Write it as a URL: other libraries on the pages know nothing else."""
    given = conninfo_to_dict(conninfo)
    return f"postgresql:///{given.pop('dbname')}?{urlencode(given)}"


def commands(folder: Path) -> str:
    """Make a folder with `soniq` in it: the command of this very code, installed or not."""
    (folder / ".bin").mkdir(parents=True, exist_ok=True)
    command = folder / ".bin" / "soniq"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m soniq "$@"\n')
    command.chmod(0o755)
    return str(command.parent)


@pytest.mark.parametrize("page", [p for p in PAGES if has_blocks(p)], ids=name_of)
def test_every_block_of_the_page_runs(page: Path, database_url: str, tmp_path: Path) -> None:
    done = read_page(page, database_url, tmp_path)
    assert done.returncode == 0, f"{name_of(page)}\n{done.stdout}"
    assert "was never retrieved" not in done.stdout, done.stdout
    assert "ResourceWarning" not in done.stdout, done.stdout


class TestRunner:
    """The runner itself: a page that is wrong must not pass."""

    def run(self, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
        page = folder / "page.md"
        page.write_text(text)
        return read_page(page, "postgresql://nobody@localhost:1/none", folder)

    def test_a_failing_block_fails_and_names_its_line(self, tmp_path: Path) -> None:
        done = self.run("# A page\n\n```python\nx = 1\nassert x == 2\n```\n", tmp_path)
        assert done.returncode == 1
        assert 'page.md", line 5' in done.stdout

    def test_a_failing_command_fails(self, tmp_path: Path) -> None:
        assert self.run("```bash\nfalse\n```\n", tmp_path).returncode == 1

    def test_a_failing_statement_fails(self, tmp_path: Path, empty_database: str) -> None:
        page = tmp_path / "page.md"
        page.write_text("```sql\nCREATE TABLE t (n int);\nSELECT n FROM t;\n```\n")
        assert read_page(page, empty_database, tmp_path / "one").returncode == 0
        page.write_text("```sql\nSELECT missing FROM t;\n```\n")
        assert "UndefinedColumn" in read_page(page, empty_database, tmp_path / "two").stdout

    def test_blocks_share_names_the_loop_and_the_folder(self, tmp_path: Path) -> None:
        page = (
            "```python\nimport asyncio\nqueue = asyncio.Queue()\nawait queue.put(3)\n```\n"
            "text\n\n```bash\necho 4 > four\n```\n"
            "1. in a list\n\n   ```python\n"
            "   print(await queue.get(), open('four').read())\n   ```\n"
            "<!-- file: five.py -->\n```python\nfive = 5\n```\n"
            "```python\nfrom five import five\nprint(five)\n```\n"
        )
        done = self.run(page, tmp_path)
        assert done.returncode == 0, done.stdout
        assert "3 4\n" in done.stdout
        assert "5 blocks ran" in done.stdout

    def test_a_process_beside_ends_with_the_page(self, tmp_path: Path) -> None:
        page = (
            "<!-- runs: beside -->\n```bash\necho $$ > pid\nsleep 300\n```\n"
            "```bash\nuntil [ -s pid ]; do :; done\n```\n"
        )
        done = self.run(page, tmp_path)
        assert done.returncode == 0, done.stdout
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()

    def test_a_block_is_left_out_only_with_a_reason(self, tmp_path: Path) -> None:
        skipped = "<!-- runs: no, needs a cluster -->\n```bash\nfalse\n```\n"
        assert self.run(skipped, tmp_path).returncode == 0
        assert "Malformed" in self.run(skipped.replace(", needs a cluster", ""), tmp_path).stdout
