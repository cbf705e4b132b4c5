"""A comparison of recipes: plan, train, tabulate, write."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from manyview.compare.chosen import note_choosing
from manyview.compare.ledger import Ledger
from manyview.compare.plan import plan_comparison
from manyview.compare.runs import Begin, train_runs
from manyview.compare.table import tabulate
from manyview.compare.write import show, write_all
from manyview.errors import RunError
from manyview.foundation.streams import Escaping
from manyview.foundation.taken import check_overrides, check_texts, taken_path
from manyview.foundation.words import counted
from manyview.words.load import Use


def compare(
    recipes: Sequence[str],
    out: str | Path,
    *,
    seeds: int = 3,
    first_seed: int = 0,
    overrides: Sequence[str] = (),
    budget: str = "forwards",
    measure: str | None = None,
    split: str = "test",
    only: Sequence[str] = (),
    use: Use | Sequence[Use] = (),
    runs: str | Path | None = None,
    setting: str | None = None,
    quiet: bool = False,
    verbose: bool = False,
    begin: Begin | None = None,
) -> dict[str, Any] | None:
    """Trains recipes with the same seeds on the same data at the same cost, and tells how they differ.

    recipes: names of packaged ones, or YAML files, each perhaps as `RECIPE@NAME`; the first is the reference, at its
    own length. budget: what all are given of, see `BUDGETS`. overrides: `key=value` for all recipes, `NAME:key=value`
    for one. measure: the primary one; by default top1 where all have it, else knn. split: where results are read; `val`
    for a setting that is still to be chosen, which leaves the test images unread, and whose seeds are refused for test
    afterwards. only: names of the recipes to train now, where other processes train the others into the same folder.
    use: words of one's own, see `load_recipe`. runs: a file of finished runs, a line of JSON each, that is gone on from
    and added to, see `ledger`; setting: the name of this comparison's lines in it, by default that of out. verbose:
    shows each run's own lines too. begin: trains the runs elsewhere, see `compare.runs`.

    Runs lie in out/runs/NAME/seed-S. What is finished is not trained again, so the same call continues a comparison.
    Returns what out/compare.json holds, or None while runs are missing. Raises ManyviewError, for mistakes before
    anything is trained, and in the end if a run failed.
    """
    check_texts(recipes, "compare: recipes", "as ['tied_cifar10', 'mine.yaml']")
    check_overrides(overrides, "compare: overrides")
    file: Any = Escaping(sys.stdout)
    console = Console(file=file, quiet=quiet, highlight=False, markup=False)
    folder = taken_path(out, "compare: out")
    if setting is not None and runs is None:
        raise RunError("--setting names the lines in the file of --runs; give that, too")
    ledger = None if runs is None else Ledger(taken_path(runs, "compare: runs"), setting or folder.absolute().name)
    comparison = plan_comparison(
        recipes,
        folder,
        seeds=seeds,
        first_seed=first_seed,
        overrides=overrides,
        budget=budget,
        measure=measure,
        split=split,
        only=only,
        use=use,
        ledger=ledger,
    )
    for line in comparison.told:
        console.print(line, soft_wrap=True)
    if comparison.chooses:
        note_choosing(folder, comparison.source, comparison.seeds)
    outcomes = train_runs(comparison, console, verbose, begin, ledger)
    missing = [f"{entry.name} seed {seed}" for entry, seed in comparison.runs if (entry.name, seed) not in outcomes]
    if missing:
        console.print(f"no table yet; missing: {', '.join(missing)}", soft_wrap=True)
        return None
    results = tabulate(comparison, outcomes)
    written = write_all(results)
    show(results, console)
    if results.failed:
        told = ", ".join(f"{name} seed {seed}" for name, seed, _ in results.failed)
        raise RunError(
            f"{len(results.failed)} of {counted(len(comparison.runs), 'run')} failed: {told}; "
            f"{out}/compare.md has the rest"
        )
    return written
