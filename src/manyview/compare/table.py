"""From the runs' results to figures: means, paired differences with intervals, cost; and the tables that show them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manyview.compare.budget import BUDGETS
from manyview.compare.comparison import Comparison, Entry
from manyview.compare.corrected import holm
from manyview.compare.images import OverImages
from manyview.compare.intervals import FEW, Difference, paired
from manyview.compare.kept import OverTasks, over_images_of, over_tasks_of
from manyview.compare.outcome import Outcome, Outcomes, measures_of
from manyview.errors import RunError, unknown
from manyview.evaluate.report import Table
from manyview.foundation.words import counted
from manyview.show.display import LABELS, number

AGGREGATED = "aggregated_top1"
COSTS = ("seconds", "images_per_second")
FLOORS = r"_floor(_low|_high)?$"


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
    """A comparison whose runs have ended. scores: measure -> recipe -> score; where all runs failed there is none.

    main: the primary measure. holm: recipe -> its p-value there, adjusted over all recipes. images, tasks: recipe, or
    (measure, recipe) -> what the kept predictions say of it and the reference, see `kept`.
    """

    comparison: Comparison
    outcomes: Outcomes
    main: str
    scores: Mapping[str, Mapping[str, Score]]
    costs: Mapping[str, Cost]
    holm: Mapping[str, float | None] = field(default_factory=dict)
    images: Mapping[str, OverImages] = field(default_factory=dict)
    tasks: Mapping[tuple[str, str], Mapping[int, OverTasks]] = field(default_factory=dict)

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
    main = _main(comparison, values)
    of_main = {name: score.difference for name, score in scores.get(main, {}).items()}
    p = {entry.name: found.p if (found := of_main.get(entry.name)) else None for entry in comparison.entries[1:]}
    return Results(
        comparison,
        outcomes,
        main,
        scores,
        _costs(comparison, outcomes),
        holm(p),
        over_images_of(comparison, main),
        over_tasks_of(comparison),
    )


def _results(comparison: Comparison, outcomes: Outcomes, entry: Entry) -> dict[int, dict[str, Any]]:
    ends: dict[int, Outcome] = {seed: outcomes[entry.name, seed] for seed in comparison.seeds}
    return {seed: end.result for seed, end in ends.items() if end.result is not None}


def _measured(comparison: Comparison, entry: Entry, seed: int, result: Mapping[str, Any]) -> dict[str, float]:
    if comparison.split == "test" and result["eval_split"] != "test":
        folder = comparison.run(entry, seed).folder
        raise RunError(f"{folder} was measured on {result['eval_split']}, and others on test")
    found = measures_of(result, comparison.split)
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _without_number(comparison: Comparison, outcomes: Outcomes) -> list[str]:
    """Each measure and recipe with the seeds on which it came out as no number, such as a probe that diverged."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in comparison.entries:
        for seed, result in _results(comparison, outcomes, entry).items():
            for name, value in measures_of(result, comparison.split).items():
                if not _is_number(value):
                    found.setdefault((name, entry.name), []).append(str(seed))
    return [
        f"{_label(measure)} of {name}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}"
        for (measure, name), seeds in found.items()
    ]


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
    for place, entry in enumerate(comparison.entries):
        results = _results(comparison, outcomes, entry).values()
        known = [result for result in results if all(_is_number(result.get(key)) for key in COSTS)]
        if known:
            seconds, speed = (float(np.mean([result[key] for result in known])) for key in COSTS)
            first = seconds if place == 0 else first
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
        rows.append((*row, *_compared(results.main, score), _p(results.holm.get(entry.name))))
    return Table((*columns, *_compared_columns(results), "p (Holm)"), tuple(rows))


def measures_table(results: Results) -> Table | None:
    """A row a further measure and recipe; None where there is none. Floors of calibration are left to compare.json."""
    rows = [
        (_label(measure), entry.name, _spread(measure, of[entry.name]), *_compared(measure, of[entry.name]))
        for measure, of in results.scores.items()
        for entry in results.comparison.entries
        if measure != results.main and entry.name in of and not re.search(FLOORS, measure)
    ]
    columns = ("measure", "recipe", "mean ± sd", *_compared_columns(results))
    return Table(columns, tuple(rows)) if rows else None


def cost_table(results: Results) -> Table:
    """A row a recipe: what it was given, and what that took."""
    rows = []
    for entry in results.comparison.entries:
        length, cost = entry.length, results.costs.get(entry.name)
        work = None if length.flops is None else f"{length.flops:.3g}"
        first = results.reference.length.flops
        share = None if length.flops is None or not first else f"{length.flops / first:.2f}"
        seen = (length.steps, length.images, length.forwards, length.rows_per_image)
        given = (*seen, f"{length.epochs:.4g}", work, share)
        took: tuple[str | None, ...] = (None, None, None)
        if cost is not None:
            relative = None if cost.relative is None else f"{cost.relative:.2f}"
            took = (
                f"{cost.seconds:,.0f}" if cost.seconds >= 100 else f"{cost.seconds:.3g}",
                f"{cost.images_per_second:,.0f}",
                relative,
            )
        rows.append((entry.name, entry.backbone, entry.parameters, *given, *took))
    given_columns = ("steps", "images", "forward passes", "an image", "epochs", "FLOPs", "FLOPs, relative")
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
    lines += [*comparison.told, corrected_line(results)]
    pairs = [score.difference.n for of in results.scores.values() for score in of.values() if score.difference]
    if pairs and min(pairs) < FEW:
        lines.append(
            f"With fewer than {FEW} seeds a bootstrap's interval is too narrow (of normal differences it covers the "
            "mean in 72 % of cases at 3 seeds, in 83 % at 5, in 90 % at 10): go by the t interval."
        )
    if comparison.split == "val":
        chose = "Weights were chosen on validation, too: such" if _chose(results) else "Such"
        lines.append(f"{chose} figures are for choosing a setting, not for a claim; claim on test with other seeds.")
    for name, seed, why in results.failed:
        lines.append(f"Failed: {name}, seed {seed}: {why}. Means are over the other seeds, which flatters {name}.")
    if lost := _without_number(comparison, results.outcomes):
        lines.append(f"No number, and left out of means and pairs, which flatters those recipes: {'; '.join(lost)}.")
    ends = [result for entry in comparison.entries for result in results.results(entry).values()]
    chosen = sorted({str(result["selected_by"]) for result in ends if result.get("selected_by")})
    if chosen:
        lines.append(f"Weights evaluated: those of {' or '.join(chosen)}.")
    for key, what in (("device", "devices"), ("git", "commits of manyview"), ("versions", "versions of libraries")):
        if len({str(result.get(key)) for result in ends}) > 1:
            lines.append(f"The runs were made with unlike {what}; compare.json tells which.")
    return lines


def corrected_line(results: Results) -> str:
    """What was tested how often."""
    count = len(results.comparison.entries) - 1
    return (
        f"p (Holm): Student's paired test of the primary measure, adjusted over {counted(count, 'recipe')} beside the "
        "reference; below 0.05 one may say that a recipe is unlike it. Intervals are of each recipe by itself."
    )


def _chose(results: Results) -> bool:
    ends = [result for entry in results.comparison.entries for result in results.results(entry).values()]
    return any(str(result.get("selected_by")).startswith("validation") for result in ends)


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _compared_columns(results: Results) -> tuple[str, ...]:
    return (f"difference to {results.reference.name}", "95 % bootstrap", "95 % t", "higher on")


def _compared(measure: str, score: Score | None) -> tuple[str | None, ...]:
    if score is None or score.difference is None:
        return (None,) * 4
    found = score.difference
    intervals = [
        None if interval is None else " to ".join(number(measure, end, signed=True) for end in interval)
        for interval in (found.bootstrap, found.t)
    ]
    return (number(measure, found.mean, signed=True), *intervals, f"{found.higher} of {found.n}")


def _seeds(results: Results, entry: Entry) -> str:
    """Of how many runs the mean is, and what became of the others."""
    ended, asked = len(results.results(entry)), len(results.comparison.seeds)
    score = results.scores.get(results.main, {}).get(entry.name)
    known = len(score.values) if score else 0
    others = {"failed": asked - ended, "without a number": ended - known}
    return ", ".join([f"{known}", *(f"{count} {what}" for what, count in others.items() if count)])


def _spread(measure: str, score: Score | None) -> str | None:
    if score is None:
        return None
    return number(measure, score.mean) + ("" if score.sd is None else f" ± {number(measure, score.sd)}")


def _label(measure: str) -> str:
    return LABELS.get(measure, measure)


def _range(comparison: Comparison) -> str:
    seeds = comparison.seeds
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
