"""What decoders warn of, as one line that names the image.

Pillow warns without saying which file it has open, again for every file and in every epoch; it and tifffile also log.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from manyview.errors import ManyviewWarning

NAMED = 20  # images that are named for one kind of doubt; of the others it is only said that there are more

# an entry of `warnings.filters`: every warning of these modules
ALWAYS = ("always", None, Warning, re.compile(r"(PIL|numpy|tifffile|imagecodecs|manyview\.data)\b"), 0)
LOGGERS = ("PIL", "tifffile")
LIBTIFF = re.compile(rb"[\w.]+: .*\.\s*$")  # what its messages look like

_printing = threading.Lock()  # there is one error stream


@final
class overheard:
    """The lines that decoders warn of in this thread meanwhile, each once; what others say passes.

    logged: also those that they log. A context that costs a microsecond, for it is entered for every image.
    """

    def __init__(self, *, logged: bool = False) -> None:
        self.lines: list[str] = []
        self._logged = logged
        self._before: list[str] | None = None

    def __enter__(self) -> list[str]:
        self._before = _ears.listen(self.lines, self._logged)
        return self.lines

    def __exit__(self, *error: object) -> None:
        _ears.rest(self._before, self._logged)


def tell(name: str, lines: list[str]) -> None:
    """Warns of an image in one line (`ManyviewWarning`), once in a process however often it is read."""
    _told.tell(name, "; ".join(lines))


def load(image: Image.Image) -> None:
    """Reads the pixels of an opened image. What libtiff prints of them, past Python, becomes warnings."""
    if not (isinstance(image, TiffImageFile) and image.tile and image.tile[0][0] == "libtiff"):
        image.load()
        return
    with _printed() as lines:
        image.load()
    for line in lines:
        warnings.warn(line, stacklevel=2)


@contextmanager
def _printed() -> Iterator[list[str]]:
    """The lines that libtiff prints meanwhile; those that others print go where they would have gone."""
    lines: list[str] = []
    with _printing, tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(2)
        except OSError:  # a process without an error stream
            yield lines
            return
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            file.seek(0)
            for line in file:
                if LIBTIFF.match(line):
                    lines.append(line.decode(errors="replace").strip())
                else:
                    os.write(kept, line)
            os.close(kept)


@final
class _Ears(logging.Handler):
    """Listens while any thread decodes: the state of `warnings` is one for all threads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()
        self._guard = threading.Lock()
        self._listeners, self._readers = 0, 0
        self._usual: tuple[Any, Any] = (None, None)

    def listen(self, lines: list[str], logged: bool) -> list[str] | None:
        """What this thread's decoders say goes to `lines`; returns where it went before.

        Not by `warnings.catch_warnings`, after which all that was said once in a process is said again.
        """
        before: list[str] | None = getattr(self._heard, "lines", None)
        self._heard.lines = lines
        with self._guard:
            self._listeners += 1
            if self._listeners == 1:
                self._usual = warnings.filters, warnings.showwarning
                warnings.filters, warnings.showwarning = [ALWAYS, *warnings.filters], self._show
            if logged:
                self._readers += 1
                for name in LOGGERS:
                    logging.getLogger(name).addHandler(self)
        return before

    def rest(self, before: list[str] | None, logged: bool) -> None:
        """Ends `listen`."""
        self._heard.lines = before
        with self._guard:
            self._listeners -= 1
            if not self._listeners:
                warnings.filters, warnings.showwarning = self._usual
            self._readers -= logged
            if logged and not self._readers:
                for name in LOGGERS:
                    logging.getLogger(name).removeHandler(self)

    def begin_anew(self) -> None:
        """In a process that was just forked: threads of its parent that listened are none of its own."""
        self._guard = threading.Lock()
        if self._listeners:
            warnings.filters, warnings.showwarning = self._usual
        self._listeners, self._readers = 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """A line of a decoder's log."""
        self._note(record.getMessage())

    def _show(self, message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if not self._note(str(message)):
            self._usual[1](message, category, *where, **more)

    def _note(self, text: str) -> bool:
        lines = getattr(self._heard, "lines", None)
        line = text.strip().partition("\n")[0]
        if lines is not None and line not in lines:
            lines.append(line)
        return lines is not None


@final
class _Told:
    """Which images a process has told of, by kind of doubt: its text without the numbers in it."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def tell(self, name: str, text: str) -> None:
        names = self._names.setdefault(re.sub(r"\d+", "#", text), set())
        if name in names or len(names) > NAMED:
            return
        names.add(name)
        more = "" if len(names) <= NAMED else " (as do more images, which are not named)"
        warnings.warn(f"{name}: {text}{more}", ManyviewWarning, stacklevel=2)


def _after_fork() -> None:
    """A lock that another thread of the parent held would be held for ever."""
    global _printing
    _printing = threading.Lock()
    _ears.begin_anew()


_ears, _told = _Ears(), _Told()
os.register_at_fork(after_in_child=_after_fork)
