"""Run the blocks of one page in order, as a reader would who copies each: `run_page.py PAGE.md`.

Python blocks share one namespace and one event loop, and may await at their top level. Bash and SQL
blocks run between them, in the same folder and database. An HTML comment before a block says what
else is to be done:

    <!-- runs: no, REASON -->       left out
    <!-- runs: beside -->           bash only: started, left running, and ended with the page
    <!-- file: jobs.py -->          not run but written to that file, in the working folder

Blocks of other kinds (console, ini, text ...) are for reading. With `--list`, blocks are counted.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"<!--\s*(?P<key>runs|file):\s*(?P<value>.*?)\s*-->\s*\Z")
KINDS = ("python", "bash", "sql")


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    runs: str = "yes"
    file: str | None = None


class Malformed(Exception):
    """A comment that this runner does not understand."""


def blocks(page: str) -> Iterator[Block]:
    end = 0
    for fence in FENCE.finditer(page):
        comment = COMMENT.search(page, end, fence.start())
        end = fence.end()
        line = page.count("\n", 0, fence.start("text"))
        text = "".join(
            part.removeprefix(fence["indent"]) for part in fence["text"].splitlines(True)
        )
        if fence["kind"] in KINDS:
            yield understood(Block(fence["kind"], text, line), comment)


def understood(block: Block, comment: re.Match[str] | None) -> Block:
    match (comment["key"], comment["value"]) if comment else ("", ""):
        case ("", _):
            return block
        case ("file", name) if Path(name).name == name:
            return Block(block.kind, block.text, block.line, "file", name)
        case ("runs", "beside") if block.kind == "bash":
            return Block(block.kind, block.text, block.line, "beside")
        case ("runs", value) if re.match(r"no, \w+ \w+", value):
            return Block(block.kind, block.text, block.line, "no")
        case (key, value):
            raise Malformed(
                f"line {block.line}: <!-- {key}: {value} --> is not understood. "
                "Write `runs: no, WHY IN SOME WORDS`, `runs: beside` or `file: NAME`."
            )


class Reader:
    """Somebody who types a page in."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.module = types.ModuleType("docs_page")
        sys.modules["docs_page"] = self.module
        self.loop = asyncio.Runner()
        self.beside: list[subprocess.Popen[bytes]] = []

    def read(self) -> int:
        done = 0
        try:
            for block in blocks(self.page.read_text(encoding="utf-8")):
                done += block.runs != "no"
                self.follow(block)
        finally:
            self.loop.close()
            self.end()
        return done

    def follow(self, block: Block) -> None:
        match block:
            case Block(runs="no"):
                return
            case Block(runs="file", file=str(name)):
                Path(name).write_text(block.text, encoding="utf-8")
            case Block(runs="beside"):
                self.beside.append(subprocess.Popen(shell(block), start_new_session=True))
            case Block(kind="bash"):
                print(f"-- line {block.line}: bash", flush=True)
                subprocess.run(shell(block), check=True)
            case Block(kind="sql"):
                print(f"-- line {block.line}: sql", flush=True)
                with psycopg.connect(os.environ["SONIQ_DATABASE_URL"], autocommit=True) as conn:
                    conn.execute(block.text.encode())
            case _:
                print(f"-- line {block.line}: python", flush=True)
                self.execute(block)

    def execute(self, block: Block) -> None:
        # Newlines before it, so that a traceback names the page's own line.
        text = "\n" * block.line + block.text
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(text, str(self.page), "exec", flags=flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            self.loop.run(self.wait_for(code))
        else:
            exec(code, vars(self.module))

    async def wait_for(self, code: types.CodeType) -> None:
        await eval(code, vars(self.module))

    def end(self) -> None:
        for process in self.beside:
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self.beside:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


def shell(block: Block) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", block.text]


def main(page: Path, *, only_list: bool) -> None:
    if only_list:
        print(sum(block.runs != "no" for block in blocks(page.read_text(encoding="utf-8"))))
    else:
        # What a reader writes to a file is imported from the working folder.
        sys.path.insert(0, os.getcwd())
        print(f"{Reader(page).read()} blocks ran")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), only_list="--list" in sys.argv)
