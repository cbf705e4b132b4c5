"""Classifying image files with a trained run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from manyview.branches.given import Given
from manyview.branches.spec import LOGITS
from manyview.data import BadImage, Stored, decode
from manyview.data.search import find
from manyview.errors import DataError, RunError, shown
from manyview.foundation.environment import best_device
from manyview.foundation.taken import taken_paths
from manyview.training.run import Run, run_of
from manyview.words.load import Use

AT_ONCE = 64
Unread = Callable[[BadImage], None]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a file, each with its probability, the best first."""

    path: Path
    classes: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0][0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.classes[0][1]


def predict_files(
    run: Run | str | Path,
    paths: Sequence[str | Path],
    aggregated: bool = False,
    unread: Unread | None = None,
    use: Use | Sequence[Use] = (),
    top: int = 1,
    backbone: Given | None = None,
) -> Iterator[Prediction]:
    """Predictions in the order of the files; folders are searched, see `image_files`.

    aggregated: average over the orbit (SLA+AG). unread: is given what is wrong with each file that cannot be read,
    after which the others follow; without it that is raised, as BadImage. use: the words of its own that
    the run was made with. top: how many classes are told of each, all where there are fewer. backbone: as it was given
    to `train`.
    Raises DataError for files that are not there, RunError for a run without a classifier.
    """
    folder, paths = run_of(run, use), taken_paths(paths, "predict_files: paths")
    recipe = folder.recipe()
    files, _ = image_files(paths, recipe.data.stored)
    if not files:
        raise DataError("no images given; name files or folders")
    step = folder.step(recipe, best_device(), backbone=backbone)
    classes = folder.classes()
    if step.classifier is None or not classes:
        raise RunError(f"{folder.folder} trained no classifier, so it cannot predict classes")
    for start in range(0, len(files), AT_ONCE):
        part, images = read_files(files[start : start + AT_ONCE], recipe.data.stored, unread)
        if not images:
            continue
        result = step.predict(images, aggregated=aggregated)
        chances = result["aggregated" if aggregated else LOGITS].softmax(dim=1)
        for path, row in zip(part, chances, strict=True):
            best = row.topk(min(top, len(classes)))
            told = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            yield Prediction(path, tuple((classes[label], share) for label, share in told))


def image_files(paths: Sequence[str | Path], stored: Stored | None = None) -> tuple[list[Path], list[str]]:
    """The files named, and the images in the folders named, found as for training and sorted within each folder.

    Also a line for each folder in which something was left out. Raises DataError for what is not there.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in taken_paths(paths, "paths"):
        if os.path.isdir(path):
            found = find([path], arrays=stored is not None)
            if not found.files[0]:
                raise DataError(f"no images in {shown(path)}" + (f" ({found.note()})" if found.left_out else ""))
            files += [path / name for name in found.files[0]]
            notes += [f"{shown(path)}: {found.note()}"] if found.left_out else []
        elif os.path.exists(path):
            files.append(path)
        else:
            raise DataError(f"no such file: {shown(path)}")
    return files, notes


def read_files(
    paths: Sequence[Path], stored: Stored | None, unread: Unread | None = None
) -> tuple[list[Path], list[Tensor]]:
    """The files that can be read, and their images. unread: see `predict_files`."""
    kept: list[Path] = []
    images: list[Tensor] = []
    for path in paths:
        try:
            images.append(decode(path, shown(path), stored))
            kept.append(path)
        except BadImage as error:
            if unread is None:
                raise
            unread(error)
    return kept, images
