"""What a user got wrong, in one line that says what, where, and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ManyviewError(Exception):
    """A user's mistake. The command line prints its one line and leaves with exit code 2."""


class RecipeError(ManyviewError):
    """A recipe that cannot be meant: the message names the place in the recipe."""


class DataError(ManyviewError):
    """Images or labels that cannot be used: the message names the folder, file or row.

    row: which image of a batch it is, where that is all that is known of it; `image 3 of the batch` in the message.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class RunError(ManyviewError):
    """A run folder that cannot be used: not empty, not finished, or made by another recipe."""


class Interrupted(RunError):
    """A run that was asked to stop, by Ctrl-C or a scheduler, and did so after saving where it stood."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shown(text: object) -> str:
    r"""A name as a line of text: ends of lines and other control characters, and bytes that are no text, are escaped.

    >>> shown("caf\udce9\n.png")
    'caf\\xe9\\n.png'
    """
    return _NOT_SHOWN.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    # bytes of a file's name that are not in the system's encoding are kept by Python as U+DC80 to U+DCFF
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()


def unknown(kind: str, name: str, known: Iterable[str], plural: str | None = None) -> str:
    """One line for a name that does not exist: the nearest that does, then all of them.

    >>> unknown("op", "crp", ["crop", "flip"])
    "unknown op 'crp'; did you mean 'crop'? ops: crop, flip"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"unknown {kind} '{name}'{hint} {plural or kind + 's'}: {', '.join(names) or 'none'}"


class ManyviewWarning(UserWarning):
    """A recipe that can be trained but hardly means what it says; the command line shows it as one line."""
