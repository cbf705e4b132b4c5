"""From the runs' results to figures: means, paired differences with intervals, cost; and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manyview.compare.budget import BUDGETS
from manyview.compare.intervals import FEW, Difference, paired
from manyview.compare.plan import Comparison, Entry
from manyview.compare.runs import Outcome, Outcomes, measures_of
from manyview.errors import RunError, unknown
from manyview.evaluate.report import Table
from manyview.show.display import LABELS, table_row

AGGREGATED = "aggregated_top1"


@dataclass(frozen=True)
class Score:
    """One measure of one recipe. values: seed -> value, of the runs that have one. difference: to the reference."""

    values: Mapping[int, float]
    difference: Difference | None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds, of n - 1 degrees of freedom; None of a single one."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Cost:
    """Means over a recipe's runs. seconds: of training, measuring left out. relative: to the reference's."""

    seconds: float
    images_per_second: float
    relative: float | None


@dataclass(frozen=True)
class Results:
    """A comparison whose runs have ended. scores: measure -> recipe -> score; where all runs failed there is none."""

    comparison: Comparison
    outcomes: Outcomes
    main: str
    scores: Mapping[str, Mapping[str, Score]]
    costs: Mapping[str, Cost]

    @property
    def reference(self) -> Entry:
        """What differences are taken to."""
        return self.comparison.entries[0]

    @property
    def failed(self) -> list[tuple[str, int, str]]:
        """(recipe, seed, why) of the runs without a result."""
        ends = [(entry.name, seed, self.outcomes[entry.name, seed].failure) for entry, seed in self.comparison.runs]
        return [(name, seed, why) for name, seed, why in ends if why is not None]

    def results(self, entry: Entry) -> dict[int, dict[str, Any]]:
        """Seed -> what result.json holds, of the runs that have one."""
        return _results(self.comparison, self.outcomes, entry)


def tabulate(comparison: Comparison, outcomes: Outcomes) -> Results:
    """Raises RunError where runs were not measured on the same split, or not by the measure that is asked for."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for entry in comparison.entries:
        for seed, result in _results(comparison, outcomes, entry).items():
            for measure, value in _measured(comparison, entry, seed, result).items():
                values.setdefault(measure, {}).setdefault(entry.name, {})[seed] = value
    reference = comparison.entries[0].name
    scores = {
        measure: {
            name: Score(found, _difference(found, of.get(reference, {}), name == reference))
            for name, found in of.items()
        }
        for measure, of in values.items()
    }
    return Results(comparison, outcomes, _main(comparison, values), scores, _costs(comparison, outcomes))


def _results(comparison: Comparison, outcomes: Outcomes, entry: Entry) -> dict[int, dict[str, Any]]:
    ends: dict[int, Outcome] = {seed: outcomes[entry.name, seed] for seed in comparison.seeds}
    return {seed: end.result for seed, end in ends.items() if end.result is not None}


def _measured(comparison: Comparison, entry: Entry, seed: int, result: Mapping[str, Any]) -> dict[str, float]:
    if comparison.split == "test" and result["eval_split"] != "test":
        folder = comparison.run(entry, seed).folder
        raise RunError(f"{folder} was measured on {result['eval_split']}, and others on test")
    found = measures_of(result, comparison.split)
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def _difference(values: Mapping[int, float], reference: Mapping[int, float], same: bool) -> Difference | None:
    pairs = [] if same else [values[seed] - reference[seed] for seed in values if seed in reference]
    return paired(np.array(pairs)) if pairs else None


def _main(comparison: Comparison, values: Mapping[str, Mapping[str, Any]]) -> str:
    """The measure that is asked for; else top1 where all recipes with results have it, else knn."""
    with_any = {name for of in values.values() for name in of}
    common = [measure for measure, of in values.items() if set(of) == with_any]
    wanted = [comparison.measure] if comparison.measure else ["top1", "knn"]
    chosen = next((name for name in wanted if name in common), None)
    if not with_any:
        return wanted[0]
    if chosen is None:
        raise RunError(
            f"--measure: {unknown('measure', wanted[0], common)} (on {comparison.split}, that all recipes have)"
        )
    return chosen


def _costs(comparison: Comparison, outcomes: Outcomes) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    first = None
    for number, entry in enumerate(comparison.entries):
        results = list(_results(comparison, outcomes, entry).values())
        if results:
            seconds = float(np.mean([result["seconds"] for result in results]))
            speed = float(np.mean([result["images_per_second"] for result in results]))
            first = seconds if number == 0 else first
            costs[entry.name] = Cost(seconds, speed, seconds / first if first else None)
    return costs


# -------------------------------------------------------------------------------------------------------------- tables


def main_table(results: Results) -> Table:
    """A row a recipe: the main measure, and aggregated accuracy where some recipe has it."""
    aggregated = results.scores.get(AGGREGATED, {}) if results.main != AGGREGATED else {}
    columns = ["recipe", "seeds", _label(results.main), *([_label(AGGREGATED)] if aggregated else [])]
    rows = []
    for entry in results.comparison.entries:
        score = results.scores.get(results.main, {}).get(entry.name)
        row = [entry.name, _seeds(results, entry), _spread(results.main, score)]
        row += [_spread(AGGREGATED, aggregated.get(entry.name))] if aggregated else []
        rows.append((*row, *_compared(results.main, score)))
    return Table((*columns, *_compared_columns(results)), tuple(rows))


def measures_table(results: Results) -> Table | None:
    """A row a further measure and recipe; None where there is none."""
    rows = [
        (_label(measure), entry.name, _spread(measure, of[entry.name]), *_compared(measure, of[entry.name]))
        for measure, of in results.scores.items()
        for entry in results.comparison.entries
        if measure != results.main and entry.name in of
    ]
    columns = ("measure", "recipe", "mean ± sd", *_compared_columns(results))
    return Table(columns, tuple(rows)) if rows else None


def cost_table(results: Results) -> Table:
    """A row a recipe: what it was given, and what that took."""
    rows = []
    for entry in results.comparison.entries:
        length, cost = entry.length, results.costs.get(entry.name)
        given = (length.steps, length.images, length.forwards, length.rows_per_image, f"{length.epochs:.4g}")
        took: tuple[str | None, ...] = (None, None, None)
        if cost is not None:
            relative = None if cost.relative is None else f"{cost.relative:.2f}"
            took = (
                f"{cost.seconds:,.0f}" if cost.seconds >= 100 else f"{cost.seconds:.3g}",
                f"{cost.images_per_second:,.0f}",
                relative,
            )
        rows.append((entry.name, entry.backbone, entry.parameters, *given, *took))
    given_columns = ("steps", "images", "forward passes", "an image", "epochs")
    took_columns = ("seconds", "images/s", "time, relative")
    return Table(("recipe", "network", "parameters", *given_columns, *took_columns), tuple(rows))


def remarks(results: Results) -> list[str]:
    """What one must know to read the tables, a sentence or two each."""
    comparison = results.comparison
    lines = [
        f"Mean ± standard deviation over seeds {_range(comparison)} on {comparison.split}; data of the first seed: "
        f"{comparison.note}. Differences are to {results.reference.name}, paired: runs of one seed share splits and "
        f"the order of images.",
        f"Budget `{comparison.budget}`: each recipe was given {BUDGETS[comparison.budget]}, to the nearest step.",
    ]
    pairs = [score.difference.n for of in results.scores.values() for score in of.values() if score.difference]
    if pairs and min(pairs) < FEW:
        lines.append(
            f"With fewer than {FEW} seeds a bootstrap's interval is too narrow (of normal differences it covers the "
            "mean in 72 % of cases at 3 seeds, in 83 % at 5, in 90 % at 10): go by the t interval."
        )
    if comparison.split == "val":
        lines.append(
            "Weights were chosen on validation, too: such figures are for choosing a setting, not for a claim."
        )
    for name, seed, why in results.failed:
        lines.append(f"Failed: {name}, seed {seed}: {why}. Means are over the other seeds, which flatters {name}.")
    ends = [result for entry in comparison.entries for result in results.results(entry).values()]
    chosen = sorted({str(result["selected_by"]) for result in ends})
    if chosen:
        lines.append(f"Weights evaluated: those of {' or '.join(chosen)}.")
    for key, what in (("device", "devices"), ("git", "commits of manyview"), ("versions", "versions of libraries")):
        if len({str(result.get(key)) for result in ends}) > 1:
            lines.append(f"The runs were made with unlike {what}; compare.json tells which.")
    return lines


def _compared_columns(results: Results) -> tuple[str, ...]:
    return (f"difference to {results.reference.name}", "95 % bootstrap", "95 % t", "higher on")


def _compared(measure: str, score: Score | None) -> tuple[str | None, ...]:
    if score is None or score.difference is None:
        return (None,) * 4
    found = score.difference
    intervals = [
        None if interval is None else " to ".join(_number(measure, end, signed=True) for end in interval)
        for interval in (found.bootstrap, found.t)
    ]
    return (_number(measure, found.mean, signed=True), *intervals, f"{found.higher} of {found.n}")


def _seeds(results: Results, entry: Entry) -> str:
    done, asked = len(results.results(entry)), len(results.comparison.seeds)
    return f"{done}" if done == asked else f"{done}, {asked - done} failed"


def _spread(measure: str, score: Score | None) -> str | None:
    if score is None:
        return None
    return _number(measure, score.mean) + ("" if score.sd is None else f" ± {_number(measure, score.sd)}")


def _number(measure: str, value: float, signed: bool = False) -> str:
    """With the digits that tables show of this measure; accuracies without their per cent signs."""
    text = table_row(measure, value)[1].removesuffix(" %")
    return f"+{text}" if signed and value >= 0 else text


def _label(measure: str) -> str:
    return LABELS.get(measure, measure)


def _range(comparison: Comparison) -> str:
    seeds = comparison.seeds
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
