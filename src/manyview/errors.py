"""What a user got wrong, in one line that says what, where, and what would be right."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from signal import SIGINT, Signals
from typing import Any

from manyview.foundation.words import several

_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ManyviewError(Exception):
    """A user's mistake. The command line prints its one line and leaves with exit code 2.

    tells: whether it is this process that prints it; of several that all refuse the same, it is the first.
    """

    tells = True


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


class Lost(RunError):
    """A run of several processes of which another ended before its time, or could not be reached any more."""


class Held(RunError):
    """A run that another command is training now; the message says which."""


class DamagedError(RunError):
    """A file of weights that is not as it was written: torn, changed, or never one."""


class BatchError(DataError, ValueError):
    """A batch that a step cannot take: the message says what of it, and what would be right."""


class WordsError(ManyviewError):
    """Words of one's own that cannot be used: the message names the file, and where in it."""


class Unreadable(DataError):
    """A split of which no image can be read, where what cannot be read is left out."""


REQUEUED: tuple[int, ...] = tuple(
    Signals[name] for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if name in Signals.__members__
)
"""What schedulers send to a job that is to go on later."""
REQUEUE = 75  # the exit code of a run that does, EX_TEMPFAIL of sysexits.h: the same command goes on


class Interrupted(RunError):
    """A run that was asked to stop, by Ctrl-C or a scheduler, and did so after saving where it stood.

    signal: the number of the one that asked, here or in another process; by default Ctrl-C's.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal or int(SIGINT)

    @property
    def code(self) -> int:
        """With what the command line leaves: REQUEUE for a scheduler's signal, else 128 more, as shells have it."""
        return REQUEUE if self.signal in REQUEUED else 128 + self.signal


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


FEW = 10  # names that a message lists; of more it gives the nearest
NEAREST = 3
LISTS = {
    "optimizer": "timm.optim.list_optimizers(), with sam,",
    "recipe": "manyview recipes",
    "torchvision dataset": "torchvision.datasets",
    **dict.fromkeys(("corruption", "head", "key", "op", "protocol", "relation", "source"), "docs/reference.md"),
}
"""Kind of name -> where all of them stand."""
OWN = ("op", "protocol", "relation", "source")  # which may be of one's own; so may heads, for which keys are taken


def unknown(kind: str, name: str, known: Iterable[str], plural: str | None = None, own: Collection[str] = ()) -> str:
    """One line for a name that does not exist: the one that may be meant, then all, or the nearest and where all are.

    own: those of them that are not packaged, and stand in no list of ours.

    >>> unknown("op", "crp", ["crop", "flip"])
    "unknown op 'crp'; did you mean 'crop'? ops: crop, flip"
    """
    names = sorted(known)
    ranked = nearest(name, names)
    close = difflib.get_close_matches(name.lower(), [each.lower() for each in ranked[:1]], n=1)
    hint = f"; did you mean '{ranked[0]}'?" if close else ";"
    told = ", ".join(names) or "none"
    if len(names) > FEW:
        packaged = len(names) - len(own)
        where = f"{LISTS[kind]} has all {packaged}" if kind in LISTS else f"{packaged} in all"
        where += f", and your own: {', '.join(sorted(own))}" if own else ""
        told = f"{', '.join(ranked[:NEAREST])}, … ({where})"
    yours = "; words of your own come with --use FILE.py" if kind in OWN and not (close or own) else ""
    return f"unknown {kind} '{name}'{hint} {plural or several(kind)}: {told}{yours}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names, those first that are most like this one, whatever their case; what holds it whole is very like it."""
    meant = name.lower()
    alike = {
        each: (meant in each.lower() and len(meant) > 2, difflib.SequenceMatcher(None, meant, each.lower()).ratio())
        for each in known
    }
    return sorted(alike, key=lambda each: (alike[each], each), reverse=True)


# what libraries propose that would run code from a file
_HARMS = re.compile(r"weights.only|trusted source|allow_pickle|trust_remote_code|pickle\.load", re.IGNORECASE)


def reason(error: BaseException) -> str:
    """What an exception says, in one line, but for advice that no user of ours should take; else its kind's name.

    >>> reason(ValueError("Cannot load it. Set allow_pickle=True if you trust it."))
    'Cannot load it.'
    """
    told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if _HARMS.search(told):
        parts = [part for part in re.split(r"(?<=[.;:]) ", told) if not _HARMS.search(part)]
        told = " ".join(parts).strip(" ;:") or "it holds Python objects, which may be code"
    if isinstance(error, OSError) and error.strerror:
        told = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return told or type(error).__name__


def brief(value: object) -> str:
    """A value that was got instead of another: Python's text for it, in one line of at most 80 characters."""
    return shown(" ".join(repr(value).split()))[:80]


def misfit(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why arguments do not fit a signature, None where they do. What Python itself says changes with its version."""
    parameters = signature.parameters.values()
    keywords = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    kinds = {p.kind for p in parameters}
    if len(args) > len(by_position) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        return "too many positional arguments"
    taken = by_position[: len(args)]
    for name in kwargs:
        if name in taken and name in keywords:
            return f"multiple values for argument '{name}'"
        if name not in keywords and inspect.Parameter.VAR_KEYWORD not in kinds:
            return f"got an unexpected keyword argument '{name}'"
    needed = [p.name for p in parameters if p.default is p.empty and p.name in {*by_position, *keywords}]
    missing = [name for name in needed if name not in taken and name not in kwargs]
    return f"missing a required argument: '{missing[0]}'" if missing else None


class ManyviewWarning(UserWarning):
    """A recipe that can be trained but hardly means what it says; the command line shows it as one line."""


_OURS = os.path.dirname(__file__) + os.sep
_WRAPS = contextlib.__file__  # whose contexts stand around functions of ours
_LOOPS = tuple(os.path.join("-packages", name, "") for name in ("torch", "accelerate"))  # which call modules and hooks


def warn(text: str) -> None:
    """Warns in the name of the line of the caller's own code that led here, past ours and torch's."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_not_the_callers(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, ManyviewWarning, stacklevel=level)


def _is_not_the_callers(file: str) -> bool:
    return file.startswith((_OURS, _WRAPS)) or any(loop in file for loop in _LOOPS)
