"""What splits.json and result.json of a run's folder hold, checked as they are read; a damaged file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from manyview.errors import RunError, reason
from manyview.foundation.files import read_mapping


class _Noted(BaseModel):
    """Kinds of what a run notes as it begins, and as it goes on; older ones note less."""

    model_config = ConfigDict(extra="allow", strict=True)

    classes: list[str]
    note: str = ""
    processes: int = 1
    renderer: int = 1
    continued: list[list[int]] = []
    starts: dict[str, dict[str, Any]] = {}
    looks: dict[str, Any] = {}
    train: dict[str, Any] | None = None
    val: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    unlabeled: dict[str, Any] | None = None


Measures = dict[str, float | None]


class _Evaluation(BaseModel):
    """What `manyview eval` adds."""

    model_config = ConfigDict(extra="allow", strict=True)

    measures: Measures
    note: str | None = None


class _Result(BaseModel):
    """Kinds of what is read of a run's end; older ones have less, and so has one that another program wrote."""

    model_config = ConfigDict(extra="allow", strict=True)

    eval: Measures = {}
    eval_split: str | None = None
    val: Measures = {}
    seconds: float | None = None
    images_per_second: float | None = None
    epochs: float | None = None
    selected_by: str | None = None
    starts: dict[str, dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    skipped_images: list[Any] = []
    evaluations: dict[str, _Evaluation] = {}


def read_noted(path: Path) -> dict[str, Any]:
    """What splits.json holds. Raises RunError, naming the file and the place, where that is not what a run notes."""
    return _read(path, _Noted)


def read_result(path: Path) -> dict[str, Any]:
    """What result.json holds. Raises RunError as `read_noted` does."""
    return _read(path, _Result)


def _read(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    try:
        found = read_mapping(path)
        kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(f"{path} is damaged: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {reason(error)}") from None
    return found


__all__ = ["read_noted", "read_result"]
