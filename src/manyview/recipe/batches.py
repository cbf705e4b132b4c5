"""The batches that a recipe trains on, of all its streams."""

from __future__ import annotations

from dataclasses import replace

from manyview.data.loader import Batches
from manyview.data.splits import Splits
from manyview.optimize.optimize import steps_an_epoch
from manyview.recipe.recipe import Recipe
from manyview.views.plan import of_stream
from manyview.views.streams import seed_of


def batches_of(
    recipe: Recipe, splits: Splits, place: str, classes: int | None, rank: int = 0, world: int = 1
) -> Batches:
    """The batches of a run for one process, with those of all its streams. place: where views are made."""

    def of(stream: str) -> Batches:
        images, train = splits.streams[stream], recipe.train
        return Batches(
            images=images,
            batch_size=train.batch_of(stream),
            steps_per_epoch=steps_an_epoch(train, stream, len(images)),
            seed=seed_of(recipe.seed, stream),
            accumulate=train.accumulate,
            rank=rank,
            world=world,
            views=of_stream(recipe.seen_views, stream),
            classes=classes,
            render=place != "device",
            skip=recipe.data.on_bad_image == "skip",
            reduced=recipe.data.reduced,
        )

    first, *others = splits.streams
    made = of(first)
    return replace(made, streams={stream: of(stream) for stream in others}) if others else made


__all__ = ["batches_of"]
