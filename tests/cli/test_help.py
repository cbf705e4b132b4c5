"""Help: every command has it, with examples that can be typed as they stand."""

import shlex
from collections.abc import Iterator

import pytest
import typer

from commands import done
from manyview.cli import app
from manyview.load import load_recipe

WIDTH = 80  # of a terminal, where an example must not be broken


def commands(command=None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """(words, command) of each command that does something, groups gone through."""
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, each in inner.items():
        yield from commands(each, (*path, name))


COMMANDS = dict(commands())
IDS = [" ".join(path) for path in COMMANDS]


@pytest.mark.parametrize("path", COMMANDS, ids=IDS)
@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_every_help_shows_an_example(path, asked, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    shown = [line.strip() for line in done(*path, asked).splitlines()]
    examples = [line for line in shown if line.startswith(f"manyview {' '.join(path)}")]
    assert examples, shown
    for example in examples:
        words = shlex.split(example)[1:]
        rest = words[len(path) :]
        context = COMMANDS[path].make_context("manyview", rest)  # parses, and calls nothing
        if isinstance(name := context.params.get("recipe"), str) and not context.params.get("resume"):
            overrides = [word for word in context.params.get("overrides") or () if "data." not in word]
            assert load_recipe(name, *overrides)


def test_the_group_itself():
    assert done("-h") == done("--help")
    assert all(path[0] in done("-h") for path in COMMANDS)
