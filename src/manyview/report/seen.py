"""What a recipe does, as a drawing; and what the network saw of some images, early and late, drawn again."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from torch import Tensor

from manyview.foundation.words import counted
from manyview.judge.replay import Film, open_film
from manyview.recipe.recipe import Recipe
from manyview.report.blocks import Block, Graph, Picture, Strips, Text
from manyview.show.plan import svg
from manyview.show.sheet import Column, to_pil
from manyview.words.load import Use

SIDE = 112
"""Pixels of a picture's longer side, at most."""
EXACT = 48
"""Pixels of a side up to which pictures are kept to the bit."""
MOST_VIEWS = 8
LOOKED_AT = 200
"""Images among which those to be shown are looked for."""


def graph(recipe: Recipe) -> list[Block]:
    """The view graph, and in words what it shows."""
    views = recipe.seen_views
    relations = [plan.text for plan in recipe.relation_plan]
    said = f"View graph, from images through {counted(len(views), 'view')} to {counted(len(relations), 'relation')}."
    lines = [f"view {name}, from {view.source}" for name, view in views.items()]
    return [Graph(svg(recipe), said, [*lines, *(f"relation {text}" for text in relations)])]


def samples(
    folder: Path, overrides: Sequence[str], use: Use | Sequence[Use], count: int, steps: int | None
) -> list[Block]:
    """The same images in three epochs, every view as the network saw it.

    steps: updates that were made; None for all of the run. Raises ManyviewError where the data are not at hand.
    """
    film = open_film(folder, overrides=overrides, use=use)
    done = film.steps if steps is None else min(steps, film.steps)
    blocks: list[Block] = []
    for stream, batches in film.batches.items():
        epochs = _epochs(done, batches.steps_per_epoch)
        chosen = _chosen(film, stream, epochs, done, count)
        if not chosen:
            which = ", ".join(map(str, epochs))
            blocks.append(Text(f"No image of the stream {stream} was seen in all of the epochs {which}.", told=True))
        blocks += [_strips(film, stream, index, epochs) for index in chosen]
    return blocks


def _epochs(done: int, each: int) -> list[int]:
    """The first, the middle and the last epoch that was finished; the first if none was."""
    last = max(0, done // each - 1)
    return sorted({0, last // 2, last})


def _chosen(film: Film, stream: str, epochs: Sequence[int], done: int, count: int) -> list[int]:
    """The first images that were seen in all of these epochs, by index."""
    batches, images = film.batches[stream], film.splits.streams[stream]
    found: list[int] = []
    for position in range(min(LOOKED_AT, len(images))):
        steps = [batches.step_of(position, epoch) for epoch in epochs]
        if len(found) < count and all(step is not None and step < done for step in steps):
            found.append(int(images.index[position]))
    return found


def _strips(film: Film, stream: str, index: int, epochs: Sequence[int]) -> Strips:
    seen = [film.shown(index, epoch, stream) for epoch in epochs]
    rows = [
        (f"epoch {epoch}", [_view(column, epoch) for column in each.columns[1 : 1 + MOST_VIEWS]])
        for epoch, each in zip(epochs, seen, strict=True)
    ]
    left = len(seen[0].columns) - 1 - MOST_VIEWS
    name = seen[0].name.rpartition(", epoch ")[0]
    lead = picture(seen[0].columns[0][1][0], f"{name}, as it was read", "image")
    return Strips(name, rows, lead, f"{counted(left, 'further view')} not shown." if left > 0 else "")


def _view(column: Column, epoch: int) -> Picture:
    title, images, captions = column
    drawn = ", ".join(captions[0]) or "nothing drawn"
    return picture(images[0], f"view {title} in epoch {epoch}: {drawn}", title, captions[0])


def picture(image: Tensor, alt: str, title: str = "", lines: Sequence[str] = ()) -> Picture:
    """An image [C, h, w], uint8 or float in [0, 1], as part of a page, at most `SIDE` pixels a side."""
    drawn = to_pil(image)
    if max(drawn.size) > SIDE:
        drawn.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    kind = "png" if max(drawn.size) <= EXACT else "webp"
    buffer = BytesIO()
    drawn.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 80, "method": 4}))
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind};base64,{data}", alt, *drawn.size, title, tuple(lines))


__all__ = ["graph", "picture", "samples"]
