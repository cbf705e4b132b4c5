"""Words of one's own, begun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.speech import console


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="op, relation, protocol, head or source.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What recipes will call it.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; by default NAME.py.")] = None,
) -> None:
    """Writes a commented skeleton of a word of your own, and its test; both work as they stand."""
    from manyview.words.new import write_new

    path, test = write_new(kind, name, out)
    console.print(f"wrote {path} and {test}", soft_wrap=True)
    console.print(f"try it: pytest {test}; then give it to commands as --use {path}", soft_wrap=True)
