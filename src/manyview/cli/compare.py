"""Recipes against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Cpus, Gpus, On, Quiet, Use, cluster, is_override
from manyview.cli.complete import recipe_names
from manyview.cli.speech import ringing
from manyview.errors import RecipeError
from manyview.recipe.find import called, recipe_text
from manyview.words.files import check_files


def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE… [KEY=VALUE]…",
            help="The first is the reference. RECIPE@NAME: called so. NAME:KEY=VALUE: one's.",
            autocompletion=recipe_names,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The comparison's folder; the same command continues it.")],
    seeds: Annotated[int, typer.Option(help="How many seeds each recipe is trained with.")] = 3,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    budget: Annotated[
        str | None,
        typer.Option(help="What all are given alike: forwards (default), flops, images, seconds; or own lengths."),
    ] = None,
    measure: Annotated[str | None, typer.Option(help="The primary measure; by default top1, else knn.")] = None,
    split: Annotated[
        str, typer.Option(help="Read results on test, or on val to choose by: test stays unread.")
    ] = "test",
    only: Annotated[list[str] | None, typer.Option(help="Train only this recipe now; may be repeated.")] = None,
    runs: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Finished runs, a line each: go on from it, add to it.")
    ] = None,
    setting: Annotated[
        str | None, typer.Option(help="How its lines in --runs are called; by default as --out.")
    ] = None,
    quiet: Quiet = False,
    use: Use = None,
    on: On = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show each run's own lines, too.")] = False,
) -> None:
    """Trains recipes with the same seeds at the same cost, and tells how they differ, with intervals."""
    overrides = [text for text in recipes if is_override(text)]
    named = [text for text in recipes if text not in overrides]
    budgets = [text.partition("=")[2] for text in overrides if text.startswith("budget=")]
    if len({*budgets, *filter(None, [budget])}) > 1:
        raise RecipeError(f"the budget is given twice: {', '.join([*budgets, *filter(None, [budget])])}")
    for name in named:
        recipe_text(called(name)[0])
    check_files(use or ())

    from manyview.compare.compare import compare as run_comparison

    with ringing("comparison", quiet):
        run_comparison(
            named,
            out,
            seeds=seeds,
            first_seed=first_seed,
            overrides=[text for text in overrides if not text.startswith("budget=")],
            budget=next(iter(budgets), budget or "forwards"),
            measure=measure,
            split=split,
            only=only or (),
            use=use or (),
            runs=runs,
            setting=setting,
            quiet=quiet,
            verbose=verbose,
            begin=None if on is None else cluster(on, cpus, gpus, use).training,
        )
