"""The command line. Mistakes are one line and exit code 2; `key=value` overrides a recipe everywhere.

What a command needs is imported by the command, after what can be refused without: torch alone takes two seconds.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from manyview.errors import DataError, ManyviewError, ManyviewWarning, RecipeError, RunError, shown, unknown
from manyview.foundation.words import counted
from manyview.recipe.find import packaged_recipes, recipe_text, text_of_run, title_of
from manyview.show.pictures import DRAWINGS, PHOTOS, check_name, save_picture
from manyview.show.usage import USAGE, usage_line

if TYPE_CHECKING:
    from manyview.recipe.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(highlight=False, markup=False)
STOPPED = 130  # the exit code of a command that Ctrl-C ended

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged recipe's name, or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Overrides, as train.epochs=10.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def main() -> None:
    """Entry point: turns users' mistakes into one line on stderr and exit code 2, and doubts into one line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what its encoding lacks must not end a run; typer.echo would write UTF-8 where ASCII was asked for
            stream.reconfigure(errors="backslashreplace")
    atexit.register(gc.freeze)  # Python's last search for circles would take a third of a second through torch
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ManyviewWarning):
            _tell(f"warning: {message}")
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            code = app(prog_name="manyview", standalone_mode=False) or 0
        except ManyviewError as error:
            told, code = str(error), 2
        except USAGE as error:
            told, code = usage_line(error, _as_override), 2
        else:
            told = "stopped" if code == STOPPED else ""
    if told:
        _tell(told)
    sys.exit(code)


def _tell(what: object) -> None:
    """One line on stderr."""
    print(f"manyview: {shown(what)}", file=sys.stderr, flush=True)


def _as_override(key: str, value: str) -> str:
    from manyview.load import as_override

    return as_override(key, value)


def _load(recipe: str, overrides: Sequence[str] | None) -> Recipe:
    gc.disable()  # of what torch makes on the way nothing is garbage, and to look for it takes a fifth of a second
    try:
        from manyview.load import load_recipe
    finally:
        gc.enable()
    return load_recipe(recipe, *overrides or ())


def _print_version(asked: bool) -> None:
    if asked:
        print(f"manyview {version('manyview')}")
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train vision models on several augmented views of each image."""


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Print this one, to read or to copy.")] = None,
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


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    classes: Annotated[
        int | None, typer.Option(help="Classes to build the heads for; by default the data's, or 10.", min=2)
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw the view graph: .svg, .png or .pdf.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Train two steps, and tell what one costs.")] = False,
) -> None:
    """Shows what a recipe will do: views, networks, relations, cost."""
    recipe_text(recipe)
    if svg is not None:
        check_name(svg, DRAWINGS, "--svg")
    loaded = _load(recipe, overrides)

    from manyview.optimize.optimize import clock_of
    from manyview.show.graph import save_graph
    from manyview.show.plan import plan as make_plan
    from manyview.show.plan import visible_data
    from manyview.show.step_cost import step_cost

    splits, note = visible_data(loaded)
    made = make_plan(loaded, classes or (len(splits.classes) if splits is not None else 0) or 10)
    clock = None if splits is None else clock_of(loaded.train, len(splits.train))
    console.print(made.render(note, clock))
    if measure:
        seen = None if classes else splits  # the data's labels belong to the data's classes
        for line in step_cost(loaded, made.step, seen).lines(loaded.train.steps if clock is None else clock.steps):
            console.print(line, soft_wrap=True)
    if svg is not None:
        save_graph(made, svg)
        console.print(f"drew {svg}", soft_wrap=True)


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = ...,  # type: ignore[assignment]
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run exactly.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but mistakes.")] = False,
) -> None:
    """Trains a recipe and writes checkpoints, metrics and result.json into a folder."""
    recipe_text(recipe)
    loaded = _load(recipe, overrides)

    from manyview.training.train import train as run_training

    run_training(loaded, out, resume=resume, quiet=quiet)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, an export, or a timm model's name.")],
    protocols: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROTOCOL]… [KEY=VALUE]…", help="knn(k=20), linear, data.root=DIR, …"),
    ] = None,
    split: Annotated[str, typer.Option(help="val or test.")] = "val",
    checkpoint: Annotated[Path | None, typer.Option(help="A timm model's weights.")] = None,
    size: Annotated[
        int | None, typer.Option(help="The side of the images that an export or timm model sees.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for results, tables and figures; by default the run's own.")
    ] = None,
    cache: Annotated[bool, typer.Option(help="Keep features on disk for the next time.")] = True,
) -> None:
    """Evaluates a model by named protocols, on the validation split unless told otherwise."""
    from manyview.evaluate.protocols import parse_protocols, with_own_settings
    from manyview.foundation.environment import best_device
    from manyview.judge.judge import judge
    from manyview.judge.subject import open_subject

    given = protocols or []
    overrides = [text for text in given if text.partition("=")[0].replace(".", "_").isidentifier() and "=" in text]
    named = [text for text in given if text not in overrides]
    parse_protocols(named, "protocol")
    subject = open_subject(model, overrides, checkpoint, size, best_device())
    chosen = parse_protocols(with_own_settings(named, subject.own), "protocol") or list(subject.usual)
    judge(subject, chosen, split, console, out=out, cache=cache)


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Image files, or folders of them.")],
    aggregate: Annotated[bool, typer.Option("--aggregate", help="Average over the orbit (SLA+AG).")] = False,
) -> None:
    """Classifies image files: one line a file, with tabs between file, class and probability.

    Tabs, ends of lines and backslashes in names are escaped. A file that cannot be read is told on stderr, and the
    others follow; the exit code is 1 then, unless the run's own data.on_bad_image is skip.
    """
    text_of_run(run)

    from manyview.judge.predict import image_files, predict_files
    from manyview.training.run import Run

    data, bad = Run(run).recipe().data, 0

    def unread(error: Exception) -> None:
        nonlocal bad
        bad += 1
        _tell(error)

    files, notes = image_files(images, data.stored)
    for line in predict_files(run, files, aggregate, unread):
        name = str(line.path) if os.sep == "\\" else str(line.path).replace("\\", "\\\\")
        print(shown(name), shown(line.label), f"{line.probability:.4f}", sep="\t", flush=True)
    for note in notes:
        _tell(note)
    if bad and data.on_bad_image != "skip":
        sys.exit(1)


@app.command()
def views(
    recipe: RecipeName,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGES]… [KEY=VALUE]…", help="By default the recipe's own data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg or .webp.")] = ...,  # type: ignore[assignment]
    count: Annotated[int, typer.Option(help="How many of the recipe's images to show.", min=1)] = 6,
    epoch: Annotated[int, typer.Option(help="The epoch whose draws are shown.", min=0)] = 0,
    columns: Annotated[int | None, typer.Option(help="Views that stand side by side; by default all.", min=1)] = None,
) -> None:
    """Draws a contact sheet: a row an image, a column a view, parameters in the captions."""
    recipe_text(recipe)
    check_name(out, PHOTOS, "--out")
    given = images or []
    overrides = [text for text in given if "=" in text and not os.path.exists(text)]
    loaded = _load(recipe, overrides)

    import numpy as np

    from manyview.data import open_splits
    from manyview.data.loader import read_images
    from manyview.judge.predict import image_files, read_files
    from manyview.show.sheet import contact_sheet

    paths, notes = image_files([Path(text) for text in given if text not in overrides], loaded.data.stored)
    skips = loaded.data.on_bad_image == "skip"
    pictures: Any
    if paths:
        paths, pictures = read_files(paths, loaded.data.stored, _tell if skips else None)
        names, index = [shown(path.name) for path in paths], list(range(len(paths)))
    else:
        train = open_splits(loaded.data, loaded.seed).train
        pictures, kept, told = read_images(train, np.arange(min(count, len(train))), skips)
        notes += told
        names, index = [f"image {train.index[i]}" for i in kept], [int(train.index[i]) for i in kept]
    if not names:
        raise DataError("none of the images could be read")
    save_picture(contact_sheet(loaded, pictures, names, index, epoch, columns=columns), out)
    for note in notes:
        _tell(note)
    console.print(f"drew {counted(len(names), 'image')}, epoch {epoch}, seed {loaded.seed}: {out}", soft_wrap=True)


@app.command()
def replay(
    run: RunFolder,
    overrides: Overrides = None,
    *,
    index: Annotated[int, typer.Option(help="The image's index, as in its split of the source.")],
    epoch: Annotated[int, typer.Option(help="The epoch, counted from 0.", min=0)],
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg or .webp.")],
) -> None:
    """Draws exactly what a run's network saw of an image in an epoch."""
    check_name(out, PHOTOS, "--out")
    text_of_run(run)

    from manyview.data.loader import Batches
    from manyview.optimize.optimize import clock_of
    from manyview.show.sheet import contact_sheet, short_path
    from manyview.training.run import Run
    from manyview.views.plan import mixes

    folder = Run(run)
    recipe = folder.recipe(*overrides or ())
    train = folder.splits(recipe).train
    clock = clock_of(recipe.train, len(train))
    if epoch * clock.steps_per_epoch >= clock.steps:
        last = (clock.steps - 1) // clock.steps_per_epoch
        raise RunError(f"--epoch {epoch}: this run has {f'epochs 0 to {last}' if last else 'epoch 0 alone'}")
    found = (train.index == index).nonzero()[0]
    if not len(found):
        raise DataError(
            f"no training image has index {index}; this run trained on {counted(len(train), 'image')} between "
            f"{train.index.min()} and {train.index.max()}"
        )
    position, together = int(found[0]), found
    batches = Batches(
        images=train,
        batch_size=recipe.train.batch_size,
        steps_per_epoch=clock.steps_per_epoch,
        seed=recipe.seed,
        accumulate=recipe.train.accumulate,
        views=recipe.seen_views,
        skip=recipe.data.on_bad_image == "skip",
        reduced=recipe.data.reduced,
    )
    step = batches.step_of(position, epoch)
    if step is None:
        raise DataError(f"image {index} was left over in epoch {epoch}: it filled no batch, and was not trained on")
    if step >= clock.steps:
        raise DataError(
            f"image {index} was not reached in epoch {epoch}: the run ended before, after {clock.steps} steps"
        )
    if mixes(recipe.view_plan):
        beside = replace(batches, world=folder.processes(step)).beside(position, epoch)
        assert beside is not None
        together = beside
    images, kept, _ = batches.read(together, epoch)
    if position not in kept:
        raise DataError(f"image {index} cannot be read: it was skipped in training")
    name = f"{shown(train.name(position))}, index {index}, epoch {epoch}"
    caption = f"{short_path(shown(train.name(position)))}\nindex {index}, epoch {epoch}"
    row, names = kept.tolist().index(position), [caption] * len(kept)
    save_picture(contact_sheet(recipe, images, names, train.index[kept].tolist(), epoch, [row]), out)
    console.print(f"drew {name}, seed {recipe.seed}: {out}", soft_wrap=True)


@app.command()
def compare(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE… [KEY=VALUE]…", help="The first is the reference. NAME:KEY=VALUE: one's."),
    ],
    out: Annotated[Path, typer.Option(help="The comparison's folder; the same command continues it.")],
    seeds: Annotated[int, typer.Option(help="How many seeds each recipe is trained with.")] = 3,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    budget: Annotated[
        str | None, typer.Option(help="What all are given alike: images, forwards (default), seconds; or own lengths.")
    ] = None,
    measure: Annotated[str | None, typer.Option(help="The main measure; by default top1, else knn.")] = None,
    split: Annotated[str, typer.Option(help="Read results on test, or on val to choose by.")] = "test",
    only: Annotated[list[str] | None, typer.Option(help="Train only this recipe now; may be repeated.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but mistakes.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show each run's own lines, too.")] = False,
) -> None:
    """Trains recipes with the same seeds at the same cost, and tells how they differ, with intervals."""
    overrides = [text for text in recipes if "=" in text and not os.path.exists(text)]
    named = [text for text in recipes if text not in overrides]
    budgets = [text.partition("=")[2] for text in overrides if text.startswith("budget=")]
    if len({*budgets, *filter(None, [budget])}) > 1:
        raise RecipeError(f"the budget is given twice: {', '.join([*budgets, *filter(None, [budget])])}")
    for name in named:
        recipe_text(name)

    from manyview.compare.compare import compare as run_comparison

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
        quiet=quiet,
        verbose=verbose,
    )


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[str, typer.Option(help="The format: timm.")] = "timm",
) -> None:
    """Takes the trained model out, for timm alone."""
    if to != "timm":
        raise RecipeError(f"--to: unknown format '{to}'; formats: timm")
    text_of_run(run)

    from manyview.judge.export import export_timm
    from manyview.training.run import Run

    for line in export_timm(Run(run), out):
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    main()
