"""metrics.jsonl as curves: every number that a run logged, by name, over its epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.training.registry import number

MOST_BYTES = 2**27
"""Of metrics.jsonl that are read, from its end where it is longer."""
MOST_NAMES = 200
MOST_POINTS = 400
"""Of a curve that is drawn: of more, the lowest and the highest of each stretch stay."""
DEEPEST = 4

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Curves:
    """name -> (epoch, value) of each line that has it, None for what is not finite.

    Names of nested measures are joined by `/`: `terms/cross_entropy`, `val/top1`. cut: the file was too long, or had
    too many names. step: of the last line.
    """

    points: Mapping[str, Sequence[Point]]
    step: int | None = None
    cut: bool = False

    def named(self, prefix: str) -> dict[str, Sequence[Point]]:
        """The curves below a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): found for name, found in self.points.items() if name.startswith(prefix)}

    @property
    def epoch(self) -> float | None:
        """How far the run is."""
        return max((points[-1][0] for points in self.points.values()), default=None)


def read_curves(path: Path) -> Curves:
    """What a file of metrics holds; lines that are no measures, such as the last half-written one, are left out."""
    points: dict[str, list[Point]] = {}
    step, cut = None, False
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            cut = length > MOST_BYTES
            file.seek(max(0, length - MOST_BYTES))
            lines = file.read(MOST_BYTES).splitlines()
    except OSError:
        return Curves({})
    for line in lines:
        try:
            said = json.loads(line)
            epoch = said.pop("epoch")
            at = said.pop("step")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if (now := number(epoch)) is None:
            continue
        step = at if isinstance(at, int) else step
        for name, value in _leaves(said, "", DEEPEST):
            if name in points or len(points) < MOST_NAMES:
                points.setdefault(name, []).append((now, value))
            else:
                cut = True
    return Curves(points, step, cut)


def _leaves(said: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, float | None]]:
    for key, value in said.items():
        if isinstance(value, dict):
            if depth:
                yield from _leaves(value, f"{prefix}{key}/", depth - 1)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield f"{prefix}{key}", number(value)


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about so many points: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most // 2))
    kept = {0, len(points) - 1}
    for first in range(0, len(points), size):
        some = range(first, min(first + size, len(points)))
        known = [at for at in some if points[at][1] is not None]
        if not known:
            kept.add(first)  # a gap stays one
            continue
        kept |= {min(known, key=lambda at: points[at][1]), max(known, key=lambda at: points[at][1])}  # type: ignore[arg-type, return-value]
    return [points[at] for at in sorted(kept)]


__all__ = ["Curves", "read_curves", "thinned"]
