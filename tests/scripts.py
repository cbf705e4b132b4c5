"""Scripts of `benchmarks/`, imported as they are when one of them is run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Inside, what lies in a folder is imported by its name, as it is by a script that stands there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
