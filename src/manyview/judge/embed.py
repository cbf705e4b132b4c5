"""Features of images, taken out of a model into a file that needs nothing of manyview: `manyview embed`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.branches.given import Given
from manyview.branches.spec import FEATURES, LOGITS
from manyview.data import FolderImages, Images, Splits
from manyview.data.images import Ints, pack
from manyview.errors import DataError, Unreadable, unknown
from manyview.evaluate.features import Features, Watch, unwatched
from manyview.evaluate.model import Model, StepModel
from manyview.evaluate.outputs import halved
from manyview.foundation.environment import best_device
from manyview.foundation.files import write_atomically
from manyview.foundation.words import counted
from manyview.judge.predict import image_files
from manyview.judge.subject import open_model, open_subject
from manyview.training.run import Run
from manyview.words.load import Use

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Embedding:
    """Features [N, dim] of images, in their order, with what is known of each.

    names: paths, or what the source calls its images. index: int64 [N], each image's in its split of the source; split:
    which that is. labels: int64 [N], -1 without one; classes: their names. All but names are None for files that were
    named. skipped: a line on each image that could not be read, which is left out; skips: whether the data say so, too.
    notes: a line on each folder in which something was left out.
    """

    features: Tensor
    names: list[str]
    index: Ints | None = None
    split: list[str] | None = None
    labels: Ints | None = None
    classes: list[str] | None = None
    skipped: tuple[str, ...] = ()
    skips: bool = False
    notes: tuple[str, ...] = ()


def embed(
    target: Run | str | Path,
    paths: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    *,
    readout: str = FEATURES,
    split: str | None = None,
    checkpoint: str | Path | None = None,
    size: int | None = None,
    use: Use | Sequence[Use] = (),
    watch: Watch = unwatched,
    backbone: Given | None = None,
) -> Embedding:
    """Features of image files, or without any of the model's data: a run's own, or `data.source=…` among overrides.

    target, overrides, checkpoint, size, use, backbone: see `open_subject`. readout: h, logits, or a head of a run.
    split: of the data; None for all. Images are read and prepared as for evaluation, on a GPU where there is one.
    Raises ManyviewError.
    """
    device = best_device()
    if paths:
        model, data = open_model(target, overrides, checkpoint, size, device, use, backbone)
        lost: list[str] = []
        files, notes = image_files(paths, data.stored, lambda error: lost.append(str(error)))
        images = FolderImages(Path(), pack([str(path) for path in files]), *_unlabelled(len(files)), data.stored)
        features, kept, skipped = _read(model, {"images": images}, readout, data.workers, watch)
        names = [images.name(int(position)) for position in kept["images"]]
        skips = data.on_bad_image == "skip"
        return Embedding(features, names, skipped=(*lost, *skipped), notes=tuple(notes), skips=skips)
    if split is not None and split not in SPLITS:
        raise DataError(f"--split: {unknown('split', split, SPLITS)}")
    subject = open_subject(target, overrides, checkpoint, size, device, use, backbone=backbone)
    splits = subject.splits
    chosen = {name: getattr(splits, name) for name in SPLITS if split in (None, name)}
    present: dict[str, Images] = {name: images for name, images in chosen.items() if images is not None}
    if not present:
        raise DataError(f"no split '{split}'; there are {splits.note}")
    features, kept, skipped = _read(subject.model, present, readout, subject.workers, watch)
    labels = np.concatenate([each.labels[kept[name]] for name, each in present.items()])
    known = bool((labels >= 0).any())
    return Embedding(
        features,
        [each.name(int(position)) for name, each in present.items() for position in kept[name]],
        np.concatenate([each.index[kept[name]] for name, each in present.items()]),
        [name for name in present for _ in kept[name]],
        labels if known else None,
        list(splits.classes) if known else None,
        skipped=tuple(skipped),
        skips=subject.skips,
    )


def _unlabelled(count: int) -> tuple[Ints, Ints]:
    """Labels and index of images of which nothing is known."""
    return np.full(count, -1, dtype=np.int64), np.arange(count, dtype=np.int64)


def _read(
    model: Model, present: Mapping[str, Images], readout: str, workers: int, watch: Watch
) -> tuple[Tensor, dict[str, Ints], list[str]]:
    """float32 features of all splits on the CPU, positions of those that could be read, and lines on the others."""
    reader, skipped = _reader(model, readout), list[str]()
    first = next(iter(present.values()))
    source = Features(model, Splits(first, None, None, (), ""), skipped=skipped, watch=watch, workers=workers)
    parts: list[Tensor] = []
    kept: dict[str, Ints] = {}
    for name, images in present.items():
        positions: list[Ints] = []
        for batch, read in source.batches(images, watch=name):
            with torch.no_grad():
                parts.append(reader(model.prepare(batch)).float().cpu())
            positions.append(read)
        kept[name] = np.concatenate(positions) if positions else np.zeros(0, dtype=np.int64)
    if not parts:
        total = counted(sum(map(len, present.values())), "image")
        raise Unreadable(f"none of {total} could be read; the first: {(skipped or [''])[0]}")
    return torch.cat(parts), kept, skipped


def _reader(model: Model, readout: str) -> Callable[[Tensor], Tensor]:
    """From what a model looks at to a readout [B, dim]: h, logits, or a head of a run."""
    known = [FEATURES] if model.labels is None else [FEATURES, LOGITS]
    heads = model.step.evaluated.dims if isinstance(model, StepModel) else {}
    if readout in known:
        return lambda pixels: model.read(pixels)[readout]
    if isinstance(model, StepModel) and readout in heads:
        branch = model.step.evaluated
        return lambda pixels: branch.read(pixels, [readout])[readout]
    raise DataError(f"--readout: {unknown('readout', readout, {*known, *heads})}")


# -------------------------------------------------------------------------------------------------------------- files


def write_embedding(path: Path, embedding: Embedding, half: bool = False) -> bool:
    """Writes .npz or .parquet; returns whether features are float16, as `half` asks where that is exact enough.

    A column, or an array, each: features, names, and of index, split, labels what is known. In .npz also classes, and
    nothing in it is pickled; in .parquet the column `class` has names. Raises RunError.
    """
    features = halved(embedding.features) if half else embedding.features
    columns: dict[str, Any] = {
        "names": _text(embedding.names),
        "index": embedding.index,
        "split": embedding.split,
        "labels": embedding.labels,
    }
    known = {name: values for name, values in columns.items() if values is not None}
    if path.suffix.lower() == ".parquet":
        if embedding.labels is not None and embedding.classes is not None:
            names = _text(embedding.classes)
            known["class"] = [names[label] if label >= 0 else None for label in embedding.labels]
        _write_parquet(path, features, known)
    else:
        classes = {} if embedding.classes is None else {"classes": np.array(_text(embedding.classes))}
        arrays = {"features": features.numpy(), **{name: np.asarray(each) for name, each in known.items()}, **classes}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # to a name, NumPy would add its ending
                np.savez(file, **arrays)  # type: ignore[arg-type]

        write_atomically(path, write)
    return features.dtype == torch.float16


def _write_parquet(path: Path, features: Tensor, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa  # optional
    from pyarrow import parquet

    flat = pa.array(features.numpy().reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
    table = pa.table({**{name: pa.array(values) for name, values in columns.items()}, "features": vectors})
    write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def _text(names: Iterable[str]) -> list[str]:
    """Names whose bytes are no text have those as escapes."""
    return [name.encode(errors="backslashreplace").decode() for name in names]
