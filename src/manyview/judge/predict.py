"""Classifying image files with a trained run, an export, or a model of timm with a classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manyview.branches.spec import LOGITS
from manyview.data import BadImage, Stored, decode
from manyview.data.search import find
from manyview.errors import DataError, ManyviewError, RunError, brief, shown
from manyview.evaluate.model import Model
from manyview.foundation.taken import taken_paths

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


def classes_of(model: Model) -> tuple[str, ...]:
    """Names of the classes that a model tells apart; their numbers, where it has no names.

    Raises RunError where it tells none apart.
    """
    if not model.labels:
        raise RunError(f"{model.name} trained no classifier, so it cannot predict classes")
    return tuple(name or str(number) for number, name in enumerate(model.labels))


def predict_files(
    model: Model,
    paths: Sequence[str | Path],
    stored: Stored | None = None,
    aggregated: bool = False,
    unread: Unread | None = None,
    top: int = 1,
) -> Iterator[Prediction]:
    """Predictions in the order of the files; folders are searched, see `image_files`.

    model: see `open_model`, which also tells how its images are `stored`. aggregated: average over the orbit (SLA+AG).
    unread: is given what is wrong with each file that is not there or cannot be read, after which the others follow;
    without it that is raised, as BadImage. top: how many classes are told of each, all where there are fewer.
    Raises ManyviewError for what is no model, RunError for one without a classifier.
    """
    if not hasattr(model, "prepare"):
        raise ManyviewError(f"predict_files: model is what open_model(RUN) gives first, got {brief(model)}")
    classes = classes_of(model)
    files, _ = image_files(paths, stored, unread)
    if not files and not paths:
        raise DataError("no images given; name files or folders")
    for start in range(0, len(files), AT_ONCE):
        part, images = read_files(files[start : start + AT_ONCE], stored, unread)
        if not images:
            continue
        with torch.no_grad():
            result = model.read(model.prepare(images), aggregated=aggregated)
        chances = result["aggregated" if aggregated else LOGITS].softmax(dim=1)
        for path, row in zip(part, chances, strict=True):
            best = row.topk(min(top, len(classes)))
            told = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            yield Prediction(path, tuple((classes[label], share) for label, share in told))


def image_files(
    paths: Sequence[str | Path], stored: Stored | None = None, unread: Unread | None = None
) -> tuple[list[Path], list[str]]:
    """The files named, and the images in the folders named, found as for training and sorted within each folder.

    Also a line for each folder in which something was left out. What is not there, or a folder without images, is given
    to `unread` where there are others; else it is raised, as BadImage.
    """
    files: list[Path] = []
    notes: list[str] = []
    lost: list[str] = []
    paths = taken_paths(paths, "paths")
    for path in paths:
        if os.path.isdir(path):
            found = find([path], arrays=stored is not None)
            if not found.files[0]:
                lost.append(f"no images in {shown(path)}" + (f" ({found.note()})" if found.left_out else ""))
                continue
            files += [path / name for name in found.files[0]]
            notes += [f"{shown(path)}: {found.note()}"] if found.left_out else []
        elif os.path.exists(path):
            files.append(path)
        else:
            lost.append(f"no such file: {shown(path)}")
    if lost and (unread is None or not files):
        raise BadImage(lost[0])
    for line in lost:
        if unread is not None:
            unread(BadImage(line))
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
