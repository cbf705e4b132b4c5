"""Training the runs of a comparison, one after another; what is finished is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from manyview.compare.comparison import Comparison, Entry
from manyview.compare.ledger import Ledger
from manyview.compare.outcome import Outcome, Outcomes, ended, measures_of
from manyview.errors import Held, Interrupted, RunError
from manyview.foundation.words import counted, duration
from manyview.recipe.recipe import Recipe
from manyview.show.display import table_row
from manyview.training.train import train

Begin = Callable[[Recipe, Path], Callable[[], dict[str, Any]]]
"""Begins a run of a recipe into a folder, or goes on with it; returns what waits for its result."""


def train_runs(
    comparison: Comparison,
    console: Console,
    verbose: bool = False,
    begin: Begin | None = None,
    ledger: Ledger | None = None,
) -> Outcomes:
    """Trains what is not finished, a line for each run; returns how all runs ended, without those still to come.

    begin: begins runs elsewhere, all of them at once; by default they are trained here, one after another. ledger:
    where finished runs are found, too, and written down.

    A run that fails is told of, and the next is trained; one that another command trains now is told of and left to
    that. Raises RunError when it is asked to stop, and DataError or RecipeError, which would end all other runs alike.
    """
    outcomes = _known(comparison, comparison.runs, ledger)
    mine = [(entry, seed) for entry, seed in comparison.runs if not comparison.only or entry.name in comparison.only]
    waiting = [(entry, seed) for entry, seed in mine if (entry.name, seed) not in outcomes]
    if len(waiting) < len(mine):
        console.print(f"{len(mine) - len(waiting)} of {counted(len(mine), 'run')} ended before")
    here = partial(_here, quiet=not verbose)
    under_way = {
        (entry.name, seed): (begin or here)(comparison.recipe(entry, seed), comparison.run(entry, seed).folder)
        for entry, seed in waiting
    }
    took: dict[str, list[float]] = {}
    started = time.perf_counter()
    for number, (entry, seed) in enumerate(waiting):
        began = time.perf_counter()
        status = f"{entry.name}, seed {seed}: run {number + 1} of {len(waiting)}"
        with contextlib.nullcontext() if verbose else console.status(status):
            outcome = _ended(under_way[entry.name, seed], entry, seed)
        if isinstance(outcome, Held):
            console.print(f"{entry.name}, seed {seed}: left to another command; {outcome}", soft_wrap=True)
            continue
        outcomes[entry.name, seed] = outcome
        if outcome.result is not None:
            took.setdefault(entry.name, []).append(float(outcome.result["seconds"]))
            if ledger is not None:
                ledger.append(comparison, entry, seed, outcome.result)
        further = [entry for entry, _ in waiting[number + 1 :]]
        left = time_left(comparison.entries, further, took, time.perf_counter() - started)
        place = f"{number + 1} of {len(waiting)}" + (f", about {duration(left)} left" if left else "")
        spent = duration(time.perf_counter() - began)
        console.print(
            f"{entry.name}, seed {seed}: {_told(outcome, comparison.split)} ({spent}); {place}", soft_wrap=True
        )
    missing = [(entry, seed) for entry, seed in comparison.runs if (entry.name, seed) not in outcomes]
    return outcomes | _known(comparison, missing, ledger)  # of other commands, meanwhile


def _known(comparison: Comparison, runs: Sequence[tuple[Entry, int]], ledger: Ledger | None) -> Outcomes:
    """How runs ended before, in their folders or elsewhere; those here are written down, where they were not."""
    outcomes: Outcomes = {}
    for entry, seed in runs:
        here = ended(comparison.run(entry, seed))
        if here is not None and here.result is not None and ledger is not None:
            ledger.append(comparison, entry, seed, here.result)
        there = None if ledger is None or here is not None else ledger.outcome(comparison, entry, seed)
        if (outcome := here or there) is not None:
            outcomes[entry.name, seed] = outcome
    return outcomes


def _here(recipe: Recipe, folder: Path, quiet: bool) -> Callable[[], dict[str, Any]]:
    return partial(train, recipe, folder, resume=True, quiet=quiet)


def _ended(run: Callable[[], dict[str, Any]], entry: Entry, seed: int) -> Outcome | Held:
    try:
        return Outcome(run())
    except (Interrupted, KeyboardInterrupt) as error:
        signal = error.signal if isinstance(error, Interrupted) else 0
        raise Interrupted(f"stopped in {entry.name}, seed {seed}; the same command continues", signal) from None
    except Held as error:
        return error
    except RunError as error:
        return Outcome(None, str(error))


def _told(outcome: Outcome, split: str) -> str:
    if outcome.result is None:
        return f"failed: {outcome.failure}"
    measures = measures_of(outcome.result, split)
    shown = [name for name in ("top1", "aggregated_top1", "knn", "linear") if name in measures] or list(measures)[:1]
    return ", ".join(" ".join(table_row(name, measures[name])) for name in shown) or "finished"


def time_left(
    entries: Sequence[Entry], waiting: Sequence[Entry], took: Mapping[str, Sequence[float]], elapsed: float
) -> float:
    """Seconds until all that waits is done; 0 if unknown.

    entries: all recipes. took: seconds of training of each finished run, by recipe; one that has none yet takes what
    its operations say, or where these are not known its forward passes. elapsed: since the first run began, with all
    that is beside training, and less than the sum where runs go on side by side.
    """
    done = sum(map(sum, took.values()))
    if not waiting or not done:
        return 0.0
    known = all(entry.length.flops for entry in entries)
    work = {entry.name: float((known and entry.length.flops) or entry.length.forwards) for entry in entries}
    means = {name: sum(each) / len(each) for name, each in took.items()}
    pace = sum(means.values()) / sum(work[name] for name in means)
    return sum(means.get(entry.name, pace * work[entry.name]) for entry in waiting) * elapsed / done
