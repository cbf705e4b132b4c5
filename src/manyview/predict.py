"""Classifying image files with a trained run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manyview.branches import LOGITS
from manyview.data import decode
from manyview.data.folder import ARRAYS, EXTENSIONS
from manyview.environment import best_device
from manyview.errors import DataError, RunError
from manyview.run import Run

AT_ONCE = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a file."""

    path: Path
    label: str
    probability: float


def predict_files(run: Path, paths: Sequence[Path], aggregated: bool = False) -> Iterator[Prediction]:
    """Predictions in the order of the files; folders are searched. aggregated: average over the orbit (SLA+AG).

    Raises DataError for files that cannot be read, RunError for a run without a classifier.
    """
    folder = Run(run)
    recipe = folder.recipe()
    stored = recipe.data.stored
    files = image_files(paths, EXTENSIONS if stored is None else EXTENSIONS + ARRAYS)
    if not files:
        raise DataError("no images given; name files or folders")
    step = folder.step(recipe, best_device())
    classes = folder.classes()
    if step.classifier is None or not classes:
        raise RunError(f"{run} trained no classifier, so it cannot predict classes")
    for start in range(0, len(files), AT_ONCE):
        part = files[start : start + AT_ONCE]
        images = [decode(path, str(path), stored) for path in part]
        result = step.predict(images, aggregated=aggregated)
        chances = result["aggregated" if aggregated else LOGITS].softmax(dim=1)
        for path, row in zip(part, chances, strict=True):
            yield Prediction(path, classes[int(row.argmax())], float(row.max()))


def image_files(paths: Sequence[Path], extensions: Sequence[str] = EXTENSIONS) -> list[Path]:
    """The files named, and the images in the folders named, sorted within each. Raises DataError."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in extensions and p.is_file())
            if not found:
                raise DataError(f"no images in {path}; looked for {', '.join(sorted(extensions))}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"no such file: {path}")
    return files
