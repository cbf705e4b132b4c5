"""What splits.json of a run's folder holds, checked as it is read; a damaged file is told."""

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


def read_noted(path: Path) -> dict[str, Any]:
    """What it holds. Raises RunError, naming the file and the place, where that is none of what a run notes."""
    try:
        found = read_mapping(path)
        _Noted.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(f"{path} is damaged: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {reason(error)}") from None
    return found


__all__ = ["read_noted"]
