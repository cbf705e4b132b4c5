"""Training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Overrides, Quiet, RecipeName, Use, load
from manyview.recipe.find import recipe_text


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = ...,  # type: ignore[assignment]
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run exactly.")] = False,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Trains a recipe and writes checkpoints, metrics and result.json into a folder."""
    recipe_text(recipe)
    loaded = load(recipe, overrides, use)

    from manyview.training.train import train as run_training

    run_training(loaded, out, resume=resume, quiet=quiet)
