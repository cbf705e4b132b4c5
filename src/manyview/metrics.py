"""metrics.jsonl and TensorBoard: one line of measures at a time, and no line twice after a restart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from manyview.files import write_text


class Metrics:
    """Appends to a run's metrics. Lines after step `start`, which a resumed run will write again, are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(path, "".join(line + "\n" for line in lines if _step_of(line) <= start))
        self._board = SummaryWriter(str(path.parent), purge_step=start + 1)

    def write(self, step: int, epoch: float, **measures: Any) -> None:
        """One JSON object; nested measures become `terms/similarity` in TensorBoard."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **measures}) + "\n")
        for name, value in flatten(measures).items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        self._board.close()


def _step_of(line: str) -> float:
    """A line's step; infinity for half a line, such as a process leaves that was killed."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf


def flatten(measures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested measures under names joined by `/`."""
    flat: dict[str, float] = {}
    for key, value in measures.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
