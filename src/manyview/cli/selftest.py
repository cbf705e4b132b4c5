"""Whether this machine computes what it should, and what a run will wait for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Overrides, Use, load
from manyview.cli.complete import recipe_names
from manyview.cli.speech import console
from manyview.recipe.find import recipe_text


def selftest(
    recipe: Annotated[
        str,
        typer.Argument(metavar="[RECIPE]", help="Whose step is timed: a name, or a file.", autocompletion=recipe_names),
    ] = "quickstart",
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(help="How many are compared with one.")] = 2,
    shard: Annotated[bool, typer.Option("--shard", help="Also with weights that are shared out over them.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder on the disk to measure; by default where files are temporary.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that was found, as JSON.")] = False,
    use: Use = None,
) -> None:
    """Compares several processes with one, kills and resumes a run, and tells what a run will wait for.

    For every relation, stream and optimiser: values, gradients, and what some updates make of them, on the CPUs. The
    exit code is 1 where something differs.
    """
    recipe_text(recipe)
    loaded = load(recipe, overrides, use)

    from manyview.selftest.selftest import selftest as run_selftest

    report = run_selftest(loaded, processes, shard, out)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        report.show(console)
    if report.differs:
        sys.exit(1)
