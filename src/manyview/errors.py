"""What a user got wrong, in one line that says what, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def unknown(kind: str, name: str, known: Iterable[str], plural: str | None = None) -> str:
    """One line for a name that does not exist: the nearest that does, then all of them.

    >>> unknown("op", "crp", ["crop", "flip"])
    "unknown op 'crp'; did you mean 'crop'? ops: crop, flip"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"unknown {kind} '{name}'{hint} {plural or kind + 's'}: {', '.join(names) or 'none'}"


def reason(error: BaseException) -> str:
    """What an exception says, in one line; the name of its kind where it says nothing."""
    told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return told or type(error).__name__


class ManyviewWarning(UserWarning):
    """A recipe that can be trained but hardly means what it says; the command line shows it as one line."""
