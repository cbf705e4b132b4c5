"""Predictions as text: a line a file, in the order of the files, for people, for tables, and for programs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manyview.errors import RunError, shown, unknown

if TYPE_CHECKING:
    from manyview.judge.predict import Prediction

FORMATS = ("tsv", "csv", "json")
ENDINGS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".json": "json", ".jsonl": "json"}


def format_of(named: str | None, out: Path | None) -> str:
    """The format that was named, else the one that the file's ending says, else tsv. Raises RunError."""
    if named is None:
        return "tsv" if out is None else ENDINGS.get(out.suffix.lower(), "tsv")
    if named not in FORMATS:
        raise RunError(f"--format: {unknown('format', named, FORMATS)}")
    return named


def as_lines(predictions: Iterable[Prediction], kind: str, header_of: int = 1) -> Iterator[str]:
    r"""Lines with their ends, each as soon as its prediction is there.

    tsv: file, class and probability, then the next class and its probability; tabs, ends of lines and backslashes in
    names are escaped. csv: the same with a header and CSV's quotes, `file,class,probability`, or `class_1` and so on
    where several are asked for, here header_of. json: an object a line (JSON lines),
    `{"file": …, "predictions": [{"class": …, "probability": …}, …]}`.
    """
    if kind == "csv":
        several = [f"_{place}" for place in range(1, header_of + 1)] if header_of > 1 else [""]
        yield _csv_line(["file", *(f"{word}{place}" for place in several for word in ("class", "probability"))])
    for each in predictions:
        name = str(each.path)
        if kind == "json":
            told = [{"class": label, "probability": round(share, 6)} for label, share in each.classes]
            yield json.dumps({"file": name, "predictions": told}) + "\n"
        elif kind == "csv":
            cells = [cell for label, share in each.classes for cell in (label, f"{share:.6f}")]
            yield _csv_line([name, *cells])
        else:
            name = name if os.sep == "\\" else name.replace("\\", "\\\\")
            cells = [cell for label, share in each.classes for cell in (shown(label), f"{share:.4f}")]
            yield "\t".join([shown(name), *cells]) + "\n"


def _csv_line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
