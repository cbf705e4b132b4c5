"""Finished runs, a line of JSON each, in a file that goes from machine to machine: `compare --runs runs.jsonl`.

A line is appended as soon as a run is finished, under a lock and in one write, so that any number of processes share a
file. It has what tables need, and a mark of all that the run depends on, but for the seed: a comparison takes a line
for its run where setting, name, seed, split and mark are the same; the run's folder need not be there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.compare.comparison import Comparison, Entry
from manyview.compare.outcome import Outcome, measures_of
from manyview.errors import RunError, brief, warn
from manyview.foundation.disk import sync
from manyview.foundation.files import open_regular
from manyview.foundation.lock import alone_at
from manyview.recipe.method import method_of
from manyview.recipe.recipe import Recipe
from manyview.training.run import INCIDENTAL

NEEDED = {"setting": str, "recipe": str, "seed": int, "split": str, "measures": dict, "mark": str}
MEASURED = (int, float, type(None))
CARRIED = ("epochs", "steps", "seconds", "images_per_second", "selected_by", "device", "data", "git", "versions")
SECTIONS = ("data", "views", "branches", "relations", "train", "evaluate")
PLACES = ("data.root=", "data.unlabeled_root=")  # of one machine, which a file that goes to others does not name
NOT_MARKED = (*INCIDENTAL, "data.memory", "data.render", "train.compile")


def mark_of(recipe: Recipe) -> str:
    """A digest of all that a run's result depends on but its seed, and the words of one's own that it names."""
    said = json.dumps(method_of(recipe, SECTIONS, NOT_MARKED), sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Ledger:
    """The file, and the name of the setting whose lines are looked at."""

    path: Path
    setting: str

    def lines(self) -> list[dict[str, Any]]:
        """All lines of all settings, see `read_lines`."""
        return read_lines(self.path)

    def chosen(self, source: str) -> list[tuple[str, int]]:
        """(where, seed) of the runs on these data that were read on validation."""
        return [
            (str(self.path), line["seed"])
            for line in self.lines()
            if line["split"] == "val" and line.get("source") == source
        ]

    def outcome(self, comparison: Comparison, entry: Entry, seed: int) -> Outcome | None:
        """How a run ended elsewhere. Raises RunError where a line of that name is of another recipe."""
        key = (self.setting, entry.name, seed, comparison.split)
        found = [(number, line) for number, line in _numbered(self.path) if key_of(line) == key]
        for number, line in found:
            if line["mark"] != mark_of(entry.recipe):
                raise RunError(
                    f"{self.path}, line {number}: {entry.name}, seed {seed} of {self.setting} was made by another "
                    f"recipe or at another length; name another --setting, or call the recipe otherwise, RECIPE@NAME"
                )
            if line["measures"] != found[0][1]["measures"]:
                raise RunError(
                    f"{self.path}, lines {found[0][0]} and {number} are of one run, {entry.name}, seed {seed} of "
                    f"{self.setting}, and say different things of it; keep the one that is to count"
                )
        return Outcome(_result_of(found[0][1])) if found else None

    def append(self, comparison: Comparison, entry: Entry, seed: int, result: Mapping[str, Any]) -> None:
        """Adds a finished run, unless it stands there."""
        line = line_of(comparison, entry, seed, result, self.setting)
        try:
            with alone_at(self.path), self.path.open("a+b") as file:
                file.seek(0)
                held = file.read()
                if any(key_of(each) == key_of(line) for _, each in _parsed(held, self.path)):
                    return
                cut = "" if held.endswith(b"\n") or not held else "\n"  # off by what ended a process before
                os.write(file.fileno(), f"{cut}{json.dumps(line, allow_nan=False)}\n".encode())
                sync(self.path)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from None


def key_of(line: Mapping[str, Any]) -> tuple[str, str, int, str]:
    """Which run a line is of, and of which split."""
    return line["setting"], line["recipe"], line["seed"], line["split"]


def line_of(comparison: Comparison, entry: Entry, seed: int, result: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """What is kept of a run: of the split that is compared on, and beside test of validation."""
    length, split = entry.length, comparison.split
    line = {
        "setting": setting,
        "recipe": entry.name,
        "seed": seed,
        "split": split,
        "measures": _numbers(measures_of(result, split)),
        "n": result.get("n", {}).get(split),
        "budget": comparison.budget,
        "images": length.images,
        "forwards": length.forwards,
        "flops": length.flops,
        "overrides": [override for override in entry.overrides if not override.startswith(PLACES)],
        "source": comparison.source,
        "mark": mark_of(entry.recipe),
        **{key: result.get(key) for key in CARRIED},
    }
    return {**line, "val": _numbers(result.get("val", {}))} if split == "test" else line


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of all settings; none where there is no file.

    Raises RunError for one that is none. A last one that is cut short is told of and left out.
    """
    return [line for _, line in _numbered(path)]


def _numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Each with its number in the file, from 1."""
    if not path.exists():
        return []
    try:
        with open_regular(path) as file:
            return _parsed(file.read(), path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None


def _parsed(held: bytes, path: Path) -> list[tuple[int, dict[str, Any]]]:
    found: list[tuple[int, dict[str, Any]]] = []
    lines = held.split(b"\n")
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            wrong = [key for key, kind in NEEDED.items() if type(line[key]) is not kind]
            if wrong:
                raise ValueError(f"{wrong[0]} is {line[wrong[0]]!r}")
            if odd := {name: value for name, value in line["measures"].items() if type(value) not in MEASURED}:
                raise ValueError(f"measures: {brief(odd)} is no number")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) or _was_cut(text):
                warn(f"{path}, line {number} is cut short and left out; its run is finished by the same command again")
                continue
            raise RunError(f"{path}, line {number} is no finished run: {_what_is_wrong(error)}; take it out") from None
        found.append((number, line))
    return found


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error.msg.lower()} at column {error.colno})"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return "it is no table of names and values" if isinstance(error, TypeError) else str(error)


def _was_cut(text: bytes) -> bool:
    """Whether a line began as one of ours and did not end as one."""
    return text.startswith(b'{"setting"') and not text.rstrip().endswith(b"}")


def _result_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """What stands for a run's result.json."""
    result = {key: line.get(key) for key in CARRIED}
    result |= {"eval": line["measures"], "eval_split": line["split"], "val": line.get("val", line["measures"])}
    return {**result, "n": {line["split"]: line.get("n")}}


def _numbers(measures: Mapping[str, Any]) -> dict[str, float | None]:
    """Measures by name; what is not finite, which JSON does not know, is null."""
    return {
        name: float(value) if math.isfinite(value) else None
        for name, value in measures.items()
        if isinstance(value, int | float)
    }
