"""Recipes: which there are, what they say, what they will do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from manyview.cli.arguments import Overrides, RecipeName, Use, load
from manyview.cli.complete import recipe_names
from manyview.cli.speech import console, tell
from manyview.errors import RecipeError, unknown
from manyview.recipe.find import packaged_recipes, recipe_text, title_of
from manyview.show.pictures import DRAWINGS, check_name


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="Print this one, to read or to copy.", autocompletion=recipe_names),
    ] = None,
) -> None:
    """Lists the packaged recipes, or prints one of them."""
    texts = packaged_recipes()
    if name is not None:
        if name not in texts:
            raise RecipeError(unknown("recipe", name, texts))
        print(texts[name], end="")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for name, text in texts.items():
        table.add_row(name, title_of(text))
    console.print(table)


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    classes: Annotated[
        int | None, typer.Option(help="Classes to build the heads for; by default the data's, or 10.", min=2)
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw the view graph: .svg, .png or .pdf.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Train two steps, and tell what one costs.")] = False,
    use: Use = None,
) -> None:
    """Shows what a recipe will do: views, networks, relations, cost."""
    recipe_text(recipe)
    if svg is not None:
        check_name(svg, DRAWINGS, "--svg")
    loaded = load(recipe, overrides, use)

    from manyview.optimize.optimize import clock_of
    from manyview.show.graph import save_graph
    from manyview.show.plan import plan as make_plan
    from manyview.show.plan import visible_data
    from manyview.show.step_cost import step_cost
    from manyview.show.step_flops import work_line
    from manyview.training.doubts import doubts
    from manyview.training.recompute import check_saving, save_memory

    asked = any(change.partition("=")[0] in ("data.root", "data.source") for change in overrides or ())
    splits, note = visible_data(loaded, asked)
    made = make_plan(loaded, classes or (len(splits.classes) if splits is not None else 0) or 10)
    check_saving(made.step)
    clock = None if splits is None else clock_of(loaded.train, splits.counts)
    console.print(made.render(note, clock))
    # the data's labels belong to the data's classes
    seen, steps = None if classes else splits, loaded.train.steps if clock is None else clock.steps
    console.print(work_line(loaded, made.step, seen, steps), soft_wrap=True)
    if splits is not None and clock is not None:
        for doubt in doubts(loaded, made.step, clock, len(splits.train)):
            tell(f"warning: {doubt}")
    if measure:
        save_memory(made.step)
        for line in step_cost(loaded, made.step, seen).lines(steps):
            console.print(line, soft_wrap=True)
    if svg is not None:
        save_graph(loaded, svg)
        console.print(f"drew {svg}", soft_wrap=True)
