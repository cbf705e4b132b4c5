"""The stream of images whose labels nobody sees: all images to train on, those whose label was not kept, or others."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from manyview.data.images import Images, Ints, Subset
from manyview.errors import DataError
from manyview.foundation.words import counted
from manyview.views.streams import UNLABELED

OF_TRAIN = {
    "all": "every image to train on, those with a label among them",
    "rest": "those to train on whose label is not kept, or that have none",
}
"""What `data.unlabeled` may be beside a source: images of the data set itself."""


class Opening(Protocol):
    """What a recipe says of the stream: the part of its `data` that this module reads."""

    @property
    def unlabeled(self) -> str | None:
        """all, rest, a source call; None for no such stream."""

    @property
    def unlabeled_limit(self) -> int | None:
        """How many of its images to take."""


def hidden(train: Images, pool: Ints, kept: Ints, others: Images | None, spec: Opening, rank: Ints) -> Subset:
    """The unlabelled stream that `spec` opens; its images have no labels, whatever their source knows.

    pool: positions in `train` of all that may be trained on; kept: of those that stay in the labelled stream. others:
    the images of a source of its own. rank: the place of each image that could be in it, in a random order.
    Raises DataError where there are none, or fewer than asked for.
    """
    asked = f"data.unlabeled={spec.unlabeled}"
    if others is None:
        images, at = train, pool if spec.unlabeled == "all" else np.setdiff1d(pool, kept)
        if not len(at):
            raise DataError(
                f"{asked}: every training image keeps its label, so none is left; fewer data.labels_per_class leave "
                f"some, and data.unlabeled=all takes those with a label, too"
            )
    else:
        images, at = others, np.arange(len(others))
        if not len(at):
            raise DataError(f"{asked} has no images")
    limit = spec.unlabeled_limit
    if limit is not None and limit > len(at):
        raise DataError(f"data.unlabeled_limit is {limit:,}, but there are {counted(len(at), 'such image')}")
    chosen = at if limit is None else np.sort(at[np.argsort(rank[at], kind="stable")[:limit]])
    return Subset(images, chosen, hidden=True)


def note(images: Images, spec: Opening) -> str:
    """How the stream was made, for the line on the data."""
    return f"{len(images):,} {UNLABELED} ({spec.unlabeled})"


__all__ = ["OF_TRAIN", "Opening", "hidden", "note"]
