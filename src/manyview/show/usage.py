"""What the command line's own parser refuses, in one line, with what would be right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

USAGE: Any = typer.BadParameter.__base__
"""What typer raises for all that its parser refuses; its own way to say so is a box of several lines."""

EXAMPLES = {"--index": "--index 3", "--epoch": "--epoch 0"}
OUT = {"views": "views.png", "replay": "seen.png", "embed": "features.npz", "report": "report.html"}
"""Command -> a file; all others write folders."""


def usage_line(error: Any, override: Callable[[str, str], str], words: Sequence[str] = ()) -> str:
    """One line for what was wrong; "" where help was shown instead.

    override: advice for a key and its value that were given as an option, "" where a recipe has no such key; what
    knows it takes seconds to load, and is asked for such mistakes alone. words: of the command line, by default its
    own.
    """
    message = " ".join(error.format_message().split()).rstrip(".")
    if not message:
        return ""
    command = error.ctx.command_path if error.ctx is not None else "manyview"
    option, told = getattr(error, "option_name", ""), f"{message[:1].lower()}{message[1:]}"
    advice = ""
    if told.startswith("missing option"):
        missing = error.param.opts[0]
        out = f"--out {OUT.get(command.rpartition(' ')[2], 'runs/NAME')}"
        advice = f"write {out if missing == '--out' else EXAMPLES.get(missing, missing)}"
    elif told.startswith("no such option"):
        advice = _as_override(option, list(words or sys.argv), override)
        told = re.sub(r" \(Possible options: .*\)", "", told) if advice else told
    return f"{told}; {advice or f'see {command} --help'}"


def _as_override(option: str, words: list[str], override: Callable[[str, str], str]) -> str:
    """How `--epochs 3` or `--train.epochs=3` is written; "" where a recipe has no such key."""
    key = option.lstrip("-")
    together = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    after = [value for word, value in zip(words, [*words[1:], ""], strict=True) if word == option]
    value = next(iter(together + after), "")
    return override(key, value) or (f"write {key}={value}" if "." in key else "")
