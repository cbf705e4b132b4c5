"""Image files that a list names: paths, and labels of all of them, of some, or of none."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from manyview.data.decode import Stored
from manyview.data.images import FolderImages, pack
from manyview.data.items import IMAGE_KEYS, LABEL_KEYS, numbers_of
from manyview.data.layout import listed as quoted
from manyview.data.nearby import nearby
from manyview.data.splits import RawSplits
from manyview.errors import DataError, reason, shown, unknown
from manyview.foundation.words import few

PATH_KEYS = (*IMAGE_KEYS, "path", "file", "filename", "file_name")
FORM = "a list is a .csv or .tsv whose first line names its columns, as in image,label, or a .txt with a path a line"
_NUMBER = re.compile(r"-?\d{1,9}")


def listed(
    root: Path | None,
    train: str,
    val: str | None = None,
    test: str | None = None,
    image: str | None = None,
    label: str | None = "label",
    *,
    download: bool,
    stored: Stored | None = None,
) -> RawSplits:
    """Image files that lists name, a list a split; `download` is not used. `stored`: see `decode`.

    `train`, `val`, `test`: `.csv` or `.tsv` files, whose first line names the columns, or `.txt` with a path a line and
    no labels. They and the paths in them are relative to `root`, and stay in it. With `train` alone, test and val are
    taken from it, `val_fraction` each. `image`: the column of paths, by default the one of a usual name (image, path,
    file, …). `label`: the column of labels, whose default "label" may be missing or have another usual name (target,
    class, …); None reads none. Labels are numbers of classes, or else names, whose classes are the names of train,
    sorted. An empty cell and -1 mean that the image has no label.
    Raises `DataError`, naming the line, for files that are not there, a path that comes twice, and what is no label.
    """
    if root is None:
        raise DataError("source 'listed' needs data.root: the folder in which the list and its images lie")
    given = {"train": train, "val": val, "test": test}
    lists = {role: _read(root, name, image, label) for role, name in given.items() if name is not None}
    by_name = not all(map(_is_number, (text for each in lists.values() for text in each.labels)))
    classes: tuple[str, ...] = ()
    splits: dict[str, FolderImages] = {}
    for role, each in lists.items():
        if by_name:
            texts = [None if text in ("", "-1") else text for text in each.labels]
            names, labels = numbers_of(texts, each.places, classes or None)
            classes = classes or names
        else:
            labels = np.array([int(text or -1) for text in each.labels], dtype=np.int64)
            classes = classes or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
        splits[role] = FolderImages(root, pack(each.paths), labels, np.arange(len(labels)), stored)
    remark = "labels are names of classes, sorted" if by_name else ""
    return RawSplits(
        splits["train"], splits.get("val"), splits.get("test"), classes, carve_test=len(splits) == 1, remark=remark
    )


@final
@dataclass(frozen=True)
class _List:
    """What a list names. labels: as texts, "" for none. places: what to call each line in a message."""

    paths: list[str]
    labels: list[str]
    places: list[str]


def _is_number(text: str) -> bool:
    return not text or _NUMBER.fullmatch(text) is not None


def _read(root: Path, name: str, image: str | None, label: str | None) -> _List:
    """One list. Raises `DataError`."""
    place = root / name
    try:
        # a path need not be text in any encoding
        text = place.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        cure = nearby(root, lambda folder: (folder / name).is_file()) or f"; {FORM}"
        raise DataError(f"no list {shown(place)} ({error.strerror}); it is looked for in data.root{cure}") from None
    kind = place.suffix.lower()
    if kind not in (".csv", ".tsv", ".txt"):
        raise DataError(f"{shown(place)}: {FORM}")
    if kind == ".txt":
        rows = [(number, [line]) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        at, label_at, width = 0, None, 1
    else:
        head, rows = _rows(text, "\t" if kind == ".tsv" else ",", place)
        at, label_at, width = _column(head, image, PATH_KEYS, "image", place), _label(head, label, place), len(head)
    if not rows:
        raise DataError(f"{shown(place)} names no image; {FORM}")
    places = [f"{shown(place)} line {number}" for number, _ in rows]
    for where, (_, row) in zip(places, rows, strict=True):
        if len(row) != width:
            raise DataError(f"{where} has {len(row)} fields, and the first line has {width}")
    paths = [row[at].strip() for _, row in rows]
    _check_files(root, paths, places, kind)
    return _List(paths, ["" if label_at is None else row[label_at].strip() for _, row in rows], places)


def _rows(text: str, delimiter: str, place: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows with the number of the line on which each ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{shown(place)} line {reader.line_num}: {reason(error)}; {FORM}") from None
    head = [cell.strip() for cell in rows[0][1]] if rows else []
    return head, rows[1:]


def _column(head: Sequence[str], name: str | None, usual: Sequence[str], option: str, place: Path) -> int:
    """Where a column stands. Raises `DataError` unless there is one."""
    if name is not None:
        if name not in head:
            raise DataError(f"{shown(place)}: {option}: {unknown('column', name, head)} (source: listed({option}=…))")
        return head.index(name)
    found = [at for at, cell in enumerate(head) if cell.lower() in usual]
    if len(found) != 1:
        told = quoted(head) if head else "nothing"
        raise DataError(
            f"{shown(place)}: the first line has {told}; one column holds the paths: say which by "
            f"listed(…, {option}=…), or call it '{option}'"
        )
    return found[0]


def _label(head: Sequence[str], label: str | None, place: Path) -> int | None:
    """The column of labels; None for none. Raises `DataError` where several could be it, or a given one is none."""
    if label is None:
        return None
    if label in head or label != "label":
        return _column(head, label, LABEL_KEYS, "label", place)
    found = [at for at, cell in enumerate(head) if cell.lower() in LABEL_KEYS]
    if len(found) > 1:
        raise DataError(f"{shown(place)} has several columns of labels, {quoted(head[at] for at in found)}; name one")
    return found[0] if found else None


def _check_files(root: Path, paths: Sequence[str], places: Sequence[str], kind: str) -> None:
    """Raises `DataError` for a path that is empty, leads out of the root, comes twice, or is no file.

    Lists may be a stranger's, and packing copies what they name as it is. Links in the root are followed.
    """
    first: dict[str, str] = {}
    inside = os.path.join(os.path.abspath(root), "")
    for path, where in zip(paths, places, strict=True):
        if not path or "\0" in path:
            raise DataError(f"{where}: {'no path' if not path else 'a path cannot hold a NUL'}")
        if not os.path.abspath(root / path).startswith(inside):
            cure = "set data.root to a folder that holds all images, with paths relative to it"
            raise DataError(f"{where}: {shown(path)} leads out of data.root; {cure}")
        if (real := os.path.normpath(path)) in first:
            raise DataError(f"{where}: {shown(path)} stands in {first[real]} already; name each image once")
        first[real] = where
    missing = [at for at, path in enumerate(paths) if not os.path.isfile(root / path)]
    if missing:
        at, more = missing[0], [shown(paths[each]) for each in missing[1:]]
        told = f" ({len(more):,} more: {few(more)})" if more else ""
        cure = "; a .txt has no labels, which need a .csv with columns" if kind == ".txt" else ""
        raise DataError(f"{places[at]}: no file {shown(root / paths[at])}{told}; paths are relative to data.root{cure}")


__all__ = ["listed"]
