"""What lies in a folder of runs, and how two of them differ."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from manyview.cli.arguments import RunFolder
from manyview.cli.complete import run_folders
from manyview.cli.speech import tell
from manyview.errors import RunError, shown, unknown
from manyview.foundation.words import cut, cut_alike, duration
from manyview.recipe.find import packaged_recipes, title_of
from manyview.recipe.flat import flat
from manyview.recipe.strict_yaml import read_yaml
from manyview.training.registry import SORTS, Known, Registry, ordered, unlike

JSON = Annotated[bool, typer.Option("--json", help="Print JSON, with all that is known.")]
SEEN = 40  # characters of a value that `diff` shows


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to look; by default here.", autocompletion=run_folders)
    ] = Path("."),
    sort: Annotated[str, typer.Option(help=f"By which column: {', '.join(SORTS)}.")] = "folder",
    as_json: JSON = False,
) -> None:
    """Lists all runs below a folder: recipe, what was changed of it, state, best result, time."""
    if sort not in SORTS:
        raise RunError(f"--sort: {unknown('column', sort, SORTS)}")
    found, damaged = Registry(folder, _packaged()).runs()
    found = ordered(found, sort)
    for line in damaged:
        tell(line)
    if as_json:
        print(json.dumps([asdict(known) for known in found], indent=2))
    elif found:
        _print(("run", "recipe", "seed", "state", "epochs", "best", "time", "last sign", "changed"), map(_row, found))
    else:
        tell(f"no runs in {folder}; a run is a folder that `manyview train … --out` made")
    if damaged:
        raise typer.Exit(1)


def diff(
    run: RunFolder,
    other: Annotated[Path, typer.Argument(metavar="RUN", help="Another.", autocompletion=run_folders)],
    as_json: JSON = False,
) -> None:
    """Shows what differs between two runs: settings, data and versions; and their results side by side."""
    found = unlike(run, other)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    if not found.settings:
        print("the same settings")
    for folder in (run, other):
        if not (folder / "result.json").is_file():
            print(f"not finished: {shown(folder)}")
    for what, table in (("settings", found.settings), ("made with", found.surroundings), ("results", found.results)):
        if table:
            print(f"{what}:")
            _print(("", shown(run), shown(other)), [(key, *_pair(*pair)) for key, pair in table.items()])


def _packaged() -> Callable[[str], Mapping[str, Any] | None]:
    """The settings of the packaged recipe that has a title, or whose name begins it; loading takes torch, so lazily."""
    names: dict[str, str] = {}
    settings: dict[str, Mapping[str, Any]] = {}

    def of(title: str) -> Mapping[str, Any] | None:
        if not names:
            names.update({title_of(text): name for name, text in packaged_recipes().items()})
        begins = title.partition(" with ")[0]
        name = names.get(title) or (begins if begins in names.values() else None)
        if name is None:
            return None
        if name not in settings:
            from manyview.load import load_recipe

            settings[name] = flat(read_yaml(load_recipe(name).to_yaml()))
        return settings[name]

    return of


def _row(known: Known) -> Sequence[str]:
    best = "" if known.best is None else f"{known.measure} {known.best:.2f} {known.split}"
    changed = ", ".join(f"{key}={_value(value)}" for key, value in known.changed.items())
    took = "" if known.seconds is None else duration(known.seconds)
    epochs = "" if known.epochs is None else f"{known.epochs:.4g}"
    ago = f"{duration(max(0.0, time.time() - known.when))} ago"
    return known.folder, known.recipe, str(known.seed), known.state, epochs, best, took, ago, changed


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
    return "-" if value is None else text


def _value(value: Any) -> str:
    text = _text(value)
    return shown(cut(text, SEEN))


def _pair(before: Any, now: Any) -> list[str]:
    """Two values; of long ones what both begin with is left out, so that it is seen where they part."""
    return [*map(shown, cut_alike(_text(before), _text(now), SEEN))]


def _print(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, as rich would, which takes a second of a thousand rows."""
    table = [columns, *([shown(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()[:edge])
