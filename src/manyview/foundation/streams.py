"""Text streams that cannot show all characters: what is lacking is written as an escape, and nothing ends for it.

And what is said on stderr unless quiet was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, final

RENDERER = "manyview.renderer"  # the name under which it logs what takes long


@final
class Escaping:
    """A stream as it is, but that characters which its encoding lacks are written as `\\u221a`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text."""
        encoding = self._stream.encoding or "utf-8"
        return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def hushed() -> Iterator[None]:
    """Nothing is told of what takes long meanwhile."""
    logger = logging.getLogger(RENDERER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
