"""Looking at views: of a recipe, and of a run as its network saw them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manyview.cli.arguments import Overrides, Quiet, RecipeName, RunFolder, Use, is_override, load
from manyview.cli.speech import speaking, tell
from manyview.errors import DataError, shown
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
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Draws a contact sheet: a row an image, a column a view, parameters in the captions."""
    recipe_text(recipe)
    check_name(out, PHOTOS, "--out")
    given = images or []
    overrides = [text for text in given if is_override(text)]
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
    speaking(quiet).print(
        f"drew {counted(len(names), 'image')}, epoch {epoch}, seed {loaded.seed}: {out}", soft_wrap=True
    )


def replay(
    run: RunFolder,
    overrides: Overrides = None,
    *,
    index: Annotated[int, typer.Option(help="The image's index, as in its split of the source.")],
    epoch: Annotated[int, typer.Option(help="The epoch, counted from 0.", min=0)],
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg or .webp.")],
    stream: Annotated[str, typer.Option(help="Whose image: image, or unlabeled.")] = "image",
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Draws exactly what a run's network saw of an image in an epoch."""
    check_name(out, PHOTOS, "--out")
    text_of_run(run)
    check_files(use or ())

    from manyview.judge.replay import replay as draw_again

    drawn = draw_again(run, index, epoch, overrides=overrides or (), use=use or (), stream=stream)
    save_picture(drawn.picture, out)
    speaking(quiet).print(f"drew {drawn.name}, seed {drawn.seed}: {out}", soft_wrap=True)
