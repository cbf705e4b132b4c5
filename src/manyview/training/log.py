"""metrics.jsonl, and what trackers are told: one line of measures at a time, and no line twice after a restart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from manyview.errors import RunError, reason
from manyview.foundation.files import write_text
from manyview.training.trackers import start_trackers


@final
class Metrics:
    """Appends to a run's metrics. Lines after step `start`, which a resumed run will write again, are dropped.

    A run that starts at 0 will write all of them, that of step 0 too, which tells where training began. track: where
    else they go, see `trackers`, with `config` beside them.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        track: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = path
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(line + "\n" for line in lines if start and _step_of(line) <= start))
        self._trackers = start_trackers(track, path.parent, start, config)

    def write(self, step: int, epoch: float, **measures: Any) -> None:
        """One JSON object, null for what is not finite; nested measures are `terms/similarity` to trackers."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **_plain(measures)}) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {reason(error)}") from None
        self._trackers.log({name: value for name, value in flatten(measures).items() if math.isfinite(value)}, step)

    def close(self) -> None:
        """Ends what trackers hold."""
        self._trackers.finish()


def _step_of(line: str) -> float:
    """A line's step; infinity for what is none, such as half a line of a process that was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf


def _plain(measures: dict[str, Any]) -> dict[str, Any]:
    """Measures as JSON has them: it knows no nan."""
    return {
        key: _plain(value) if isinstance(value, dict) else value if math.isfinite(value) else None
        for key, value in measures.items()
    }


def flatten(measures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested measures under names joined by `/`."""
    flat: dict[str, float] = {}
    for key, value in measures.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
