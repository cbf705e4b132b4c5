"""Training the runs of a comparison, one after another; what is finished is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from manyview.compare.plan import Comparison, Entry
from manyview.errors import Interrupted, RunError
from manyview.foundation.files import read_json
from manyview.foundation.words import counted, duration
from manyview.recipe.recipe import Recipe
from manyview.show.display import table_row
from manyview.training.run import Run
from manyview.training.train import train


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with a result, or with the line that says why there is none."""

    result: dict[str, Any] | None
    failure: str | None = None


Outcomes = dict[tuple[str, int], Outcome]


def ended(run: Run) -> Outcome | None:
    """How a run ended before; None while it is not finished.

    A run whose numbers stopped being numbers would do so again, to the bit: it is not tried twice.
    """
    if (result := run.finished()) is not None:
        return Outcome(result)
    report = run.folder / "failure" / "failure.json"
    if report.is_file():
        try:
            why = str(read_json(report)["message"])
        except (ValueError, KeyError, TypeError):
            why = "it failed, and its report is damaged"
        return Outcome(None, f"{why}; see {report.parent}")
    return None


Begin = Callable[[Recipe, Path], Callable[[], dict[str, Any]]]
"""Begins a run of a recipe into a folder, or goes on with it; returns what waits for its result."""


def train_runs(comparison: Comparison, console: Console, verbose: bool = False, begin: Begin | None = None) -> Outcomes:
    """Trains what is not finished, a line for each run; returns how all runs ended, without those still to come.

    begin: begins runs elsewhere, all of them at once; by default they are trained here, one after another.

    A run that fails is told of, and the next is trained. Raises RunError when it is asked to stop, and DataError or
    RecipeError, which would end all other runs alike.
    """
    outcomes: Outcomes = {}
    for entry, seed in comparison.runs:
        if (outcome := ended(comparison.run(entry, seed))) is not None:
            outcomes[entry.name, seed] = outcome
    mine = [(entry, seed) for entry, seed in comparison.runs if not comparison.only or entry.name in comparison.only]
    waiting = [(entry, seed) for entry, seed in mine if (entry.name, seed) not in outcomes]
    if len(waiting) < len(mine):
        console.print(f"{len(mine) - len(waiting)} of {counted(len(mine), 'run')} ended before")
    here = partial(_here, quiet=not verbose)
    under_way = {
        (entry.name, seed): (begin or here)(comparison.recipe(entry, seed), comparison.run(entry, seed).folder)
        for entry, seed in waiting
    }
    spent: dict[str, list[float]] = {}
    for number, (entry, seed) in enumerate(waiting):
        began = time.perf_counter()
        status = f"{entry.name}, seed {seed}: run {number + 1} of {len(waiting)}"
        with contextlib.nullcontext() if verbose else console.status(status):
            outcome = _ended(under_way[entry.name, seed], entry, seed)
        outcomes[entry.name, seed] = outcome
        if outcome.result is not None:
            spent.setdefault(entry.name, []).append(time.perf_counter() - began)
        left = _time_left([entry for entry, _ in waiting[number + 1 :]], {e.name: e for e in comparison.entries}, spent)
        took = duration(time.perf_counter() - began)
        place = f"{number + 1} of {len(waiting)}" + (f", about {duration(left)} left" if left else "")
        console.print(
            f"{entry.name}, seed {seed}: {_told(outcome, comparison.split)} ({took}); {place}", soft_wrap=True
        )
    return outcomes


def _here(recipe: Recipe, folder: Path, quiet: bool) -> Callable[[], dict[str, Any]]:
    return partial(train, recipe, folder, resume=True, quiet=quiet)


def _ended(run: Callable[[], dict[str, Any]], entry: Entry, seed: int) -> Outcome:
    try:
        return Outcome(run())
    except (Interrupted, KeyboardInterrupt) as error:
        signal = error.signal if isinstance(error, Interrupted) else 0
        raise Interrupted(f"stopped in {entry.name}, seed {seed}; the same command continues", signal) from None
    except RunError as error:
        return Outcome(None, str(error))


def measures_of(result: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What a run's result.json says of a split; what it was only watched by, of val where there was a test split."""
    return result["eval"] if result["eval_split"] == split else result.get("val", {})


def _told(outcome: Outcome, split: str) -> str:
    if outcome.result is None:
        return f"failed: {outcome.failure}"
    measures = measures_of(outcome.result, split)
    shown = [name for name in ("top1", "aggregated_top1", "knn", "linear") if name in measures] or list(measures)[:1]
    return ", ".join(" ".join(table_row(name, measures[name])) for name in shown) or "finished"


def _time_left(waiting: list[Entry], entries: dict[str, Entry], spent: dict[str, list[float]]) -> float:
    """Seconds that the waiting runs will take: as those of their recipe took, else by forward passes; 0 if unknown."""
    if not spent:
        return 0.0
    means = {name: sum(times) / len(times) for name, times in spent.items()}
    pace = sum(means.values()) / sum(entries[name].length.forwards for name in means)
    return sum(means.get(entry.name, pace * entry.length.forwards) for entry in waiting)
