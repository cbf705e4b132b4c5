"""What a function that is called from Python was given, taken as what it wants; else refused in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from manyview.errors import ManyviewError, brief


def taken_path(given: Any, where: str) -> Path:
    """A path, or a path as text. where: the function and its argument. Raises ManyviewError."""
    if not isinstance(given, (str, os.PathLike)) or isinstance(given, bytes):
        raise ManyviewError(f"{where}: a path is wanted, as text or pathlib's, got {brief(given)}")
    return Path(given)


def taken_paths(given: Any, where: str) -> list[Path]:
    """Several paths, or one alone. Raises ManyviewError."""
    if isinstance(given, (str, os.PathLike)):
        return [taken_path(given, where)]
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
        raise ManyviewError(f"{where}: a list of paths is wanted, got {brief(given)}")
    return [taken_path(each, where) for each in given]


def check_texts(given: Any, where: str, example: str) -> None:
    """Raises ManyviewError unless these are several texts, and not one alone."""
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise ManyviewError(f"{where}: a list of texts is wanted, {example}, got {brief(given)}")
    if odd := [each for each in given if not isinstance(each, str)]:
        raise ManyviewError(f"{where}: a list of texts is wanted, {example}, got one with {brief(odd[0])}")


def check_overrides(given: Any, where: str) -> None:
    """Raises ManyviewError unless all are texts `key=value`. given: the overrides, in a sequence."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ManyviewError(f"{where}: a list of texts is wanted, as ['data.root=DIR'], got {brief(given)}")
    for each in given:
        if isinstance(each, str):
            continue
        cure = "as in 'train.epochs=1'"
        if isinstance(each, Mapping) and each:
            cure = f"as in {', '.join(repr(f'{key}={value}') for key, value in each.items())}"[:120]
        elif isinstance(each, (list, tuple)):
            cure = "and each is given apart, as *overrides of a list"
        raise ManyviewError(f"{where}: an override is a text, {cure}, got {brief(each)}")


__all__ = ["check_overrides", "check_texts", "taken_path", "taken_paths"]
