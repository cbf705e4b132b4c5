"""metrics.jsonl and TensorBoard: one line of measures at a time, and no line twice after a restart."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyview.errors import ManyviewWarning
from manyview.foundation.files import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Appends to a run's metrics. Lines after step `start`, which a resumed run will write again, are dropped.

    A run that starts at 0 will write all of them, that of step 0 too, which tells where training began.
    """

    def __init__(self, path: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = path
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(line + "\n" for line in lines if start and _step_of(line) <= start))
        self._board: SummaryWriter | None = None
        try:
            self._board = SummaryWriter(str(path.parent), purge_step=start + 1 if start else 0)
        except UnicodeEncodeError:
            told = "no events for TensorBoard, whose writer takes no folder with a name that is not UTF-8"
            warnings.warn(f"{path.parent}: {told}", ManyviewWarning, stacklevel=2)

    def write(self, step: int, epoch: float, **measures: Any) -> None:
        """One JSON object, null for what is not finite; nested measures are `terms/similarity` in TensorBoard."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **_plain(measures)}) + "\n")
        for name, value in flatten(measures).items():
            if self._board is not None and math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> float:
    """A line's step; infinity for half a line, such as a process leaves that was killed."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
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
