"""Writes docs/commands.md, every command with its arguments and options:  python docs/make_commands.py

It is read from the declarations in `manyview.cli`, not from what typer makes of them, which changes with its versions.
A test holds the file to it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from manyview.cli import app

HEADER = """# Commands

Every command, with what it takes; `manyview COMMAND --help` says the same. Made by `docs/make_commands.py`.

A mistake is one line on stderr and exit code 2; Ctrl-C ends a command with 130. `key=value` overrides anything of a
recipe, inside calls too ([Words of a recipe](reference.md)). `python -m manyview` is `manyview`.
"""
KINDS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def commands(group: typer.Typer, path: str = "manyview") -> Iterator[tuple[str, CommandInfo]]:
    """(words, command) of every command that is shown, those of a group after the others."""
    for command in group.registered_commands:
        if command.callback is not None and not command.hidden:
            yield f"{path} {command.name or command.callback.__name__.replace('_', '-')}", command
    for inner in group.registered_groups:
        if inner.typer_instance is not None and not inner.hidden:
            yield from commands(inner.typer_instance, f"{path} {inner.name or inner.typer_instance.info.name}")


def prose(text: str | None) -> str:
    r"""A command's words as Markdown; a paragraph after \b, or that is indented, is a block of commands."""
    blocks = []
    for block in inspect.cleandoc(text or "").split("\n\n"):
        if block.startswith(("\b", "  ", "$ ", "manyview ")):
            blocks.append("```sh\n" + inspect.cleandoc(block.removeprefix("\b").strip("\n")) + "\n```")
        else:
            blocks.append(" ".join(block.split()))
    return "\n\n".join(blocks).replace("\n```\n\n```sh\n", "\n")  # commands one below the other


def parameters(command: CommandInfo) -> Iterator[tuple[str, bool, str]]:
    """(as it is written, whether it must be given, what is said of it) of each argument and option."""
    assert command.callback is not None
    kinds = get_type_hints(command.callback, include_extras=True)
    for name, parameter in inspect.signature(command.callback).parameters.items():
        info = next((one for one in get_args(kinds[name]) if isinstance(one, ArgumentInfo | OptionInfo)), None)
        if info is None or info.hidden:
            continue
        default = parameter.default
        needed = default in (..., inspect.Parameter.empty)
        words = " ".join((info.help or "").split())
        if isinstance(info, ArgumentInfo):
            yield info.metavar or name.upper(), needed, words
            continue
        declared = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str) and one[:1] == "-"]
        flags = declared or [f"--{name.replace('_', '-')}"]
        kind = next((one for one in _flat(get_args(kinds[name])[0]) if one in (bool, *KINDS)), str)
        if kind is bool:
            yield ", ".join(flags if declared else [*flags, f"--no-{name.replace('_', '-')}"]), needed, words
        else:
            yield f"{', '.join(flags)} {info.metavar or KINDS[kind]}", needed, words + _default(default)


def _flat(kind: Any) -> list[Any]:
    """The kinds that a union or list is of."""
    return [inner for one in get_args(kind) for inner in _flat(one)] or [kind]


def _default(value: Any) -> str:
    return "" if value in (None, ..., inspect.Parameter.empty) else f" Default: `{value}`."


def commands_page() -> str:
    """The whole text."""
    lines = [HEADER]
    for name, command in commands(app):
        given = [*parameters(command)]
        usage = [one if needed or "[" in one else f"[{one}]" for one, needed, _ in given if one[0] != "-"]
        usage += [one for one, needed, _ in given if one[0] == "-" and needed]
        usage += ["[OPTIONS]"] if any(one[0] == "-" and not needed for one, needed, _ in given) else []
        lines.append(f"## `{name}`\n\n```text\n{' '.join([name, *usage])}\n```\n")
        lines += [prose(command.help or inspect.getdoc(command.callback)) + "\n"]
        for written, needed, words in given:
            lines.append(f"- **`{written}`** {words}{' Required.' if needed and written[0] == '-' else ''}")
        lines += ["", prose(command.epilog) + "\n" if command.epilog else ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(commands_page(), encoding="utf-8")
