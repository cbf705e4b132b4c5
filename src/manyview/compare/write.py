"""What a comparison leaves behind: compare.json with everything, compare.md to paste, compare.svg to look at."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from manyview.compare.comparison import Comparison
from manyview.compare.figure import draw, save_svg
from manyview.compare.images import OverImages
from manyview.compare.images_table import images_table, tasks_table
from manyview.compare.intervals import FEW
from manyview.compare.table import Results, cost_table, main_table, measures_table, remarks
from manyview.evaluate.report import Table
from manyview.foundation.environment import git_commit, versions
from manyview.foundation.files import write_atomically, write_json, write_text
from manyview.foundation.vocabulary import Origin
from manyview.recipe.recipe import Recipe
from manyview.recipe.strict_yaml import read_yaml
from manyview.show.display import rich_table

BRIEF = (
    "recipe",
    "images",
    "forward passes",
    "FLOPs, relative",
    "epochs",
    "seconds",
    "time, relative",
)  # what a terminal has room for

BY_IMAGES = (
    "By images, where runs kept what they predict (right alone: images a seed that one of both alone gets right; "
    "errors shared: of the images that either gets wrong):"
)


def write_all(results: Results) -> dict[str, Any]:
    """Writes the three files, the one that others read last; returns what it holds. Raises RunError."""
    folder = results.comparison.folder
    figure = draw(results)
    write_atomically(folder / "compare.svg", lambda path: save_svg(figure, path))
    write_text(folder / "compare.md", markdown(results))
    written = as_json(results)
    write_json(folder / "compare.json", written)
    return written


def markdown(results: Results) -> str:
    """Tables and remarks."""
    by_image, by_task, further = (
        images_table(results.images, results.reference.name),
        tasks_table(results),
        measures_table(results),
    )
    parts = [
        f"`{command(results.comparison)}`",
        main_table(results).markdown(),
        "\n".join(f"- {line}" for line in remarks(results)),
        "What each recipe was given, and what a run took:",
        cost_table(results).markdown(),
    ]
    if by_image is not None:
        parts += [BY_IMAGES, by_image.markdown()]
    if by_task is not None:
        parts += ["Few-shot tasks in pairs:", by_task.markdown()]
    if further is not None:
        parts += ["All other measures, exploratory: nothing is corrected for their number.", further.markdown()]
    return "\n\n".join(parts) + "\n"


def command(comparison: Comparison) -> str:
    """The command that makes this comparison; folders of data and words are left for the reader to fill in."""
    seeds = [f"--seeds {len(comparison.seeds)}"]
    seeds += [f"--first-seed {comparison.seeds[0]}"] if comparison.seeds[0] else []
    seeds += [f"--split {comparison.split}"] if comparison.split != "test" else []
    seeds += [f"--measure {shlex.quote(comparison.measure)}"] if comparison.measure else []
    overrides = ["data.root=DIR" if text.startswith("data.root=") else text for text in comparison.overrides]
    words = [*comparison.texts, *overrides]
    used = {origin.called: None for entry in comparison.entries for origin in _origins(entry.recipe)}
    seeds += [f"--use {shlex.quote(Path(called).name)}" for called in used]
    return " ".join(["manyview compare", *map(shlex.quote, words), *seeds, f"--budget {comparison.budget} --out OUT"])


def _origins(recipe: Recipe) -> Iterable[Origin]:
    return recipe.words.used_in(recipe.to_yaml()).origins


def as_json(results: Results) -> dict[str, Any]:
    """Everything, as plain values; what is not a finite number is null."""
    comparison = results.comparison
    recipes = []
    for entry in comparison.entries:
        runs: dict[str, Any] = {}
        for seed in comparison.seeds:
            end = results.outcomes[entry.name, seed]
            folder = str(comparison.run(entry, seed).folder.relative_to(comparison.folder))
            runs[str(seed)] = {"folder": folder, **(end.result or {"failed": end.failure})}
        given = entry.length
        length = {**asdict(given), "images": given.images, "forwards": given.forwards, "flops": given.flops}
        cost = results.costs.get(entry.name)
        recipes.append(
            {
                "name": entry.name,
                "overrides": list(entry.overrides),
                "recipe": read_yaml(entry.recipe.to_yaml()),
                "length": {**length, "epochs": given.epochs},
                "backbone": entry.backbone,
                "parameters": entry.parameters,
                "cost": None if cost is None else asdict(cost),
                "runs": runs,
            }
        )
    scores = {
        measure: {
            name: {
                "n": len(score.values),
                "mean": score.mean,
                "sd": score.sd,
                "values": {str(seed): value for seed, value in score.values.items()},
                "difference": None if score.difference is None else asdict(score.difference),
            }
            for name, score in of.items()
        }
        for measure, of in results.scores.items()
    }
    return _finite(
        {
            "command": command(comparison),
            "reference": results.reference.name,
            "seeds": list(comparison.seeds),
            "budget": comparison.budget,
            "data": comparison.note,
            "split": comparison.split,
            "measure": results.main,
            "git": git_commit(),
            "versions": versions(),
            "holm": dict(results.holm),
            "by_images": {name: _by_images(found) for name, found in results.images.items()},
            "by_tasks": {
                measure: {
                    name: {str(seed): asdict(found) for seed, found in of.items()}
                    for (of_measure, name), of in results.tasks.items()
                    if of_measure == measure
                }
                for measure in dict.fromkeys(measure for measure, _ in results.tasks)
            },
            "table": scores,
            "failed": [{"recipe": name, "seed": seed, "why": why} for name, seed, why in results.failed],
            "remarks": remarks(results),
            "recipes": recipes,
        }
    )


def _by_images(found: OverImages) -> dict[str, Any]:
    return {**asdict(found), "mcnemar": {str(seed): p for seed, p in found.mcnemar.items()}}


def _finite(value: Any) -> Any:
    """The value with null for nan and infinity, which JSON does not know, and lists for tuples."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(results: Results, console: Console) -> None:
    """Prints the main table, with the bootstrap where it covers, the cost and the remarks."""
    main, few = main_table(results), len(results.comparison.seeds) < FEW
    by_image = images_table(results.images, results.reference.name)
    shown = [column for column in main.columns if column != "95 % bootstrap" or not few]
    console.print(rich_table("", _only(main, shown)))
    console.print()
    console.print(rich_table("", _only(cost_table(results), BRIEF)))
    if by_image is not None:
        console.print()
        console.print(rich_table("", by_image))
    console.print()
    for line in remarks(results):
        if line not in results.comparison.told:  # before the runs
            console.print(line, soft_wrap=True)
    console.print(f"written: {results.comparison.folder}/compare.md, compare.json, compare.svg", soft_wrap=True)


def _only(table: Table, columns: Sequence[str]) -> Table:
    at = [table.columns.index(column) for column in columns]
    return Table(tuple(columns), tuple(tuple(row[place] for place in at) for row in table.rows))
