"""Write the generated parts of `docs/reference` from the code they describe.

    python docs/build.py            write them
    python docs/build.py --check    only say what is out of date, and exit with 1

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a page is ours.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import click

from soniq import Soniq, errors, events, settings
from soniq.client.options import JobOptions
from soniq.job.schedule_options import ScheduleOptions
from soniq.services.dead_letter import AsyncDeadLetters
from soniq.services.queues import AsyncQueues
from soniq.services.scheduler import AsyncScheduler

REFERENCE = Path(__file__).with_name("reference")
PART = re.compile(
    r"(?P<head><!-- generated: (?P<name>[\w-]+) -->\n)(?P<text>.*?)(?P<foot><!-- end -->)",
    re.DOTALL,
)
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Source):[ \n]", re.MULTILINE)


def main(*, check: bool) -> int:
    stale = []
    for page in sorted(REFERENCE.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = built(old)
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"docs/reference/{name} {'is out of date' if check else 'is written anew'}.")
    if stale and check:
        print("Run `python docs/build.py` and commit what it changes.")
    return 1 if stale and check else 0


def built(page: str) -> str:
    """Fill every generated part of a page."""
    return PART.sub(lambda part: f"{part['head']}\n{PARTS[part['name']]()}\n\n{part['foot']}", page)


# -- settings


def settings_table() -> str:
    rows = ["| setting | environment | default | meaning |", "| --- | --- | --- | --- |"]
    for name, default, meaning in settings.reference():
        rows.append(f"| `{name}` | `SONIQ_{name.upper()}` | `{default}` | {cell(meaning)} |")
    return "\n".join(rows)


# -- errors and events


def errors_tree() -> str:
    return "\n".join(branch(errors.SoniqError, 0))


def branch(kind: type[BaseException], depth: int) -> Iterator[str]:
    builtin = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
    also = "".join(f" (also a `{name}`)" for name in builtin if name != "Exception")
    yield f"{'  ' * depth}- `{kind.__name__}`{also}: {summary(kind)}"
    for child in kind.__subclasses__():
        yield from branch(child, depth + 1)


def events_table() -> str:
    rows = ["| event | beside what its kind carries | meaning |", "| --- | --- | --- |"]
    for kind in of_module(events, events.Event):
        own = inspect.get_annotations(kind)
        rows.append(f"| `{kind.__name__}` | {', '.join(f'`{n}`' for n in own)} | {about(kind)} |")
    return "\n".join(rows)


def of_module(module: Any, root: type) -> list[type]:
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind)]
    return [kind for kind in kinds if issubclass(kind, root) and kind is not root]


# -- options and methods, from their docstrings


def job_options() -> str:
    return options_of(JobOptions)


def schedule_options() -> str:
    return options_of(ScheduleOptions)


def options_of(kind: Any) -> str:
    hints = inspect.get_annotations(kind)
    rows = ["| option | type | meaning |", "| --- | --- | --- |"]
    for name, meaning in entries(kind, "Attributes"):
        hint = getattr(hints[name], "__forward_arg__", hints[name])
        rows.append(f"| `{name}` | `{cell(str(hint))}` | {cell(meaning)} |")
    return "\n".join(rows)


def client_methods() -> str:
    return "\n\n".join(method(name, member) for name, member in public(Soniq))


def dead_letter_methods() -> str:
    return "\n\n".join(method(f"dead_letter.{n}", m) for n, m in public(AsyncDeadLetters))


def queue_methods() -> str:
    return "\n\n".join(method(f"queues.{n}", m) for n, m in public(AsyncQueues))


def schedule_methods() -> str:
    return "\n\n".join(method(f"scheduler.{n}", m) for n, m in public(AsyncScheduler))


def public(owner: type) -> list[tuple[str, Any]]:
    """List methods and properties in the order of the source, bases first."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__[:-1]):
        for name, member in vars(base).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                found[name] = getattr(owner, name)
    return list(found.items())


def method(name: str, member: Any) -> str:
    if isinstance(member, property):
        head = f"### `{name}`"
        return f"{head}\n\n{prose(member)}"
    mark = "await " if inspect.iscoroutinefunction(member) else ""
    return f"### `{name}`\n\n```text\n{mark}{signature(name, member)}\n```\n\n{prose(member)}"


def signature(name: str, member: Any) -> str:
    given = inspect.signature(member)
    taken = [p for p in given.parameters.values() if p.name != "self"]
    parameters = [parameter(p) for p in taken]
    kinds = [p.kind for p in taken]
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        parameters.insert(kinds.count(inspect.Parameter.POSITIONAL_ONLY), "/")
    if inspect.Parameter.VAR_POSITIONAL not in kinds and inspect.Parameter.KEYWORD_ONLY in kinds:
        at = kinds.index(inspect.Parameter.KEYWORD_ONLY)
        parameters.insert(at + ("/" in parameters), "*")
    line = f"{name}({', '.join(parameters)})"
    if len(line) > 96:
        line = f"{name}(\n    " + ",\n    ".join(parameters) + ",\n)"
    hint = given.return_annotation
    return line if hint is inspect.Signature.empty else f"{line} -> {hint}"


def parameter(given: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    default = "" if given.default is given.empty else f" = {given.default!r}"
    return f"{stars.get(given.kind, '')}{given.name}: {given.annotation}{default}"


def prose(member: Any) -> str:
    """Write a Google docstring as Markdown: its sections as lists."""
    text = inspect.getdoc(member) or ""
    parts = SECTION.split(text)
    written = [parts[0].strip()]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        pairs = split_entries(body)
        if pairs and title in {"Args", "Attributes", "Raises"}:
            lines = [f"- `{name}`: {' '.join(what.split())}" for name, what in pairs]
            written.append(f"{title}:\n\n" + "\n".join(lines))
        else:
            written.append(f"{title}: {' '.join(dedent(body).split())}")
    return "\n\n".join(written)


def entries(member: Any, title: str) -> list[tuple[str, str]]:
    parts = SECTION.split(inspect.getdoc(member) or "")
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    return split_entries(bodies.get(title, ""))


def split_entries(body: str) -> list[tuple[str, str]]:
    pairs = re.findall(r"^([*\w]+): (.*?)(?=^[*\w]+: |\Z)", dedent(body), re.MULTILINE | re.DOTALL)
    return [(name, " ".join(what.split())) for name, what in pairs]


# -- the command line


def commands() -> str:
    from soniq.cli.main import soniq

    return "\n\n".join(described("soniq", soniq, click.Context(soniq, info_name="soniq")))


def described(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    from soniq.cli.options import SHARED

    own = [p for p in command.params if p.name not in SHARED or path == "soniq"]
    said = inspect.cleandoc(command.help or "").replace("\b\n", "")
    rows = [f"| {option(p)} | {cell(getattr(p, 'help', None) or '')} |" for p in own]
    table = "\n".join(["| takes | meaning |", "| --- | --- |", *rows]) if rows else ""
    yield "\n\n".join(part for part in (f"### `{path}`", said, table) if part)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                inner = click.Context(child, context, info_name=name)
                yield from described(f"{path} {name}", child, inner)


def option(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return f"`{parameter.metavar or (parameter.name or '').upper()}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count)
    value = "" if flag else f" {parameter.metavar or value_of(parameter.type)}"
    return cell(f"`{', '.join(names)}{value}`")


def value_of(kind: click.ParamType) -> str:
    match kind:
        case click.Choice():
            return "|".join(str(choice) for choice in kind.choices)
        case click.IntRange() if kind.max is not None:
            return f"{kind.min}-{kind.max}"
        case click.IntRange():
            return "INTEGER"
        case _:
            return kind.name.upper()


# -- text


def about(kind: type) -> str:
    return cell((inspect.getdoc(kind) or "").split("\n\n")[0])


def summary(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "errors": errors_tree,
    "events": events_table,
    "job-options": job_options,
    "client": client_methods,
    "dead-letters": dead_letter_methods,
    "queues": queue_methods,
    "schedules": schedule_methods,
    "schedule-options": schedule_options,
    "commands": commands,
}

if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
