"""Looking at views: of a recipe, and of a run as its network saw them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from manyview.cli.arguments import Overrides, RecipeName, RunFolder, Use, load
from manyview.cli.speech import console, tell
from manyview.errors import DataError, RunError, shown
from manyview.foundation.words import counted
from manyview.recipe.find import recipe_text, text_of_run
from manyview.show.pictures import PHOTOS, check_name, save_picture
from manyview.words.files import check_files


def views(
    recipe: RecipeName,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGES]… [KEY=VALUE]…", help="By default the recipe's own data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg or .webp.")] = ...,  # type: ignore[assignment]
    count: Annotated[int, typer.Option(help="How many of the recipe's images to show.", min=1)] = 6,
    epoch: Annotated[int, typer.Option(help="The epoch whose draws are shown.", min=0)] = 0,
    columns: Annotated[int | None, typer.Option(help="Views that stand side by side; by default all.", min=1)] = None,
    use: Use = None,
) -> None:
    """Draws a contact sheet: a row an image, a column a view, parameters in the captions."""
    recipe_text(recipe)
    check_name(out, PHOTOS, "--out")
    given = images or []
    overrides = [text for text in given if "=" in text and not os.path.exists(text)]
    loaded = load(recipe, overrides, use)

    import numpy as np

    from manyview.data import open_splits
    from manyview.data.loader import read_images
    from manyview.judge.predict import image_files, read_files
    from manyview.show.sheet import contact_sheet

    paths, notes = image_files([Path(text) for text in given if text not in overrides], loaded.data.stored)
    skips = loaded.data.on_bad_image == "skip"
    pictures: Any
    if paths:
        paths, pictures = read_files(paths, loaded.data.stored, tell if skips else None)
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
        tell(note)
    console.print(f"drew {counted(len(names), 'image')}, epoch {epoch}, seed {loaded.seed}: {out}", soft_wrap=True)


def replay(
    run: RunFolder,
    overrides: Overrides = None,
    *,
    index: Annotated[int, typer.Option(help="The image's index, as in its split of the source.")],
    epoch: Annotated[int, typer.Option(help="The epoch, counted from 0.", min=0)],
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg or .webp.")],
    use: Use = None,
) -> None:
    """Draws exactly what a run's network saw of an image in an epoch."""
    check_name(out, PHOTOS, "--out")
    text_of_run(run)
    check_files(use or ())

    from manyview.data.loader import Batches
    from manyview.optimize.optimize import clock_of
    from manyview.show.sheet import contact_sheet, short_path
    from manyview.training.run import Run
    from manyview.views.plan import mixes

    folder = Run(run, use or ())
    recipe = folder.recipe(*overrides or (), exact=True)
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
