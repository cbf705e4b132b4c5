"""A comparison as a section: its table, seeds, paired differences and intervals, cost, remarks and command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, FiniteFloat, ValidationError

from manyview.compare.images_table import images_table
from manyview.errors import RunError, reason
from manyview.evaluate.report import Cell, Table
from manyview.foundation.files import read_json
from manyview.report.blocks import Block, Code, Facts, Rows, Text
from manyview.report.charts import Apart, differences, seeds
from manyview.show.display import LABELS, number, table_row

NAME = "compare.json"
Interval = tuple[FiniteFloat, FiniteFloat] | None


class Difference(BaseModel):
    """To the reference, paired by seed. higher: on how many of n seeds it was positive."""

    n: int
    mean: FiniteFloat
    higher: int
    bootstrap: Interval = None
    t: Interval = None


class Score(BaseModel):
    """One measure of one recipe, of n seeds."""

    n: int
    mean: FiniteFloat
    sd: FiniteFloat | None = None
    values: dict[str, FiniteFloat]
    difference: Difference | None = None


class Length(BaseModel):
    """What a recipe was given."""

    steps: int
    images: int
    forwards: int
    epochs: FiniteFloat
    flops: FiniteFloat | None = None


class Cost(BaseModel):
    """Means over a recipe's runs."""

    seconds: FiniteFloat
    images_per_second: FiniteFloat
    relative: FiniteFloat | None = None


class Place(BaseModel):
    """Where a run lies, below the comparison."""

    folder: str


class Entry(BaseModel):
    """A recipe of it."""

    name: str
    length: Length
    backbone: str = ""
    parameters: int = 0
    cost: Cost | None = None
    runs: dict[str, Place]


class OverImages(BaseModel):
    """A recipe and the reference by images; see `compare`. Shares are of 1."""

    seeds: int
    images: int
    mean: FiniteFloat
    interval: Interval = None
    only_this: FiniteFloat
    only_reference: FiniteFloat
    unlike: int
    overlap: FiniteFloat | None = None
    same_error: FiniteFloat | None = None


class Failure(BaseModel):
    """A run without a result."""

    recipe: str
    seed: int
    why: str


class Compared(BaseModel):
    """What `compare` wrote, as far as it is shown.

    holm: recipe -> p-value of the main measure, adjusted. by_images: recipe -> the same, image by image.
    """

    command: str
    reference: str
    seeds: list[int]
    budget: str
    data: str
    split: str
    measure: str
    git: str | None = None
    versions: dict[str, str | None] = {}
    table: dict[str, dict[str, Score]]
    holm: dict[str, FiniteFloat | None] = {}
    by_images: dict[str, OverImages] = {}
    failed: list[Failure] = []
    remarks: list[str] = []
    recipes: list[Entry]

    def folders(self, top: Path) -> list[tuple[str, str, Path]]:
        """(recipe, seed, folder) of each run that is there. What leads out of the comparison is no run of it."""
        found = []
        for entry in self.recipes:
            for seed, place in entry.runs.items():
                folder = top / place.folder
                if _is_run_in(top, folder):
                    found.append((entry.name, seed, folder))
        return found


def _is_run_in(top: Path, folder: Path) -> bool:
    try:
        return folder.resolve().is_relative_to(top.resolve()) and (folder / "recipe.yaml").is_file()
    except (OSError, ValueError):  # no name that a folder can have
        return False


def read(top: Path) -> Compared:
    """Raises RunError for a comparison that is damaged, or not finished."""
    path = top / NAME
    try:
        return Compared.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path} is damaged: {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {reason(error)}") from None


def verdict(found: Compared) -> list[Block]:
    """The main measure: seeds, means, paired differences and their intervals."""
    main = found.table.get(found.measure, {})
    names = [entry.name for entry in found.recipes]
    label = LABELS.get(found.measure, found.measure)
    unit = " %" if table_row(found.measure, 0.0)[1].endswith("%") else ""
    scores = [main.get(name) for name in names]
    each = [[] if score is None else list(score.values.values()) for score in scores]
    table = _table(found, found.measure, names, main)
    blocks: list[Block] = [Rows(f"{label} on {found.split}", table)]
    if found.holm:
        adjusted = tuple((name, f"{p:.3g}") for name, p in found.holm.items() if p is not None)
        blocks.append(Rows("p-values, adjusted by Holm's procedure", Table(("recipe", "p"), adjusted)))
    blocks.append(seeds("compared-seeds", f"{label} on {found.split}, every seed", names, each, _by_seed(found), unit))
    apart = [None if score is None or score.difference is None else score.difference for score in scores]
    if any(apart):
        drawn = [None if one is None else Apart(one.mean, one.bootstrap, one.t) for one in apart]
        title = f"Paired difference to {found.reference}"
        blocks.append(differences("compared-differences", title, names, drawn, table))
    if (by_image := images_table(found.by_images, found.reference)) is not None:
        blocks.append(Rows("Image by image", by_image))
    blocks += [Text(f"{each.recipe}, seed {each.seed}, failed: {each.why}", told=True) for each in found.failed]
    return [*blocks, *(Text(line, small=True) for line in found.remarks)]


def _table(found: Compared, measure: str, names: list[str], scores: Mapping[str, Score]) -> Table:
    columns = (
        "recipe",
        "seeds",
        "mean ± sd",
        f"difference to {found.reference}",
        "95 % t",
        "95 % bootstrap",
        "higher on",
    )
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        score = scores.get(name)
        if score is None:
            rows.append((name, "0, all failed", *(None,) * 5))
            continue
        spread = number(measure, score.mean) + ("" if score.sd is None else f" ± {number(measure, score.sd)}")
        apart = score.difference
        if apart is None:
            rows.append((name, str(score.n), spread, *(None,) * 4))
            continue
        ends = [
            None if each is None else " to ".join(number(measure, end, True) for end in each)
            for each in (apart.t, apart.bootstrap)
        ]
        rows.append(
            (name, str(score.n), spread, number(measure, apart.mean, True), *ends, f"{apart.higher} of {apart.n}")
        )
    return Table(columns, tuple(rows))


def _by_seed(found: Compared) -> Table:
    main = found.table.get(found.measure, {})
    rows = []
    for entry in found.recipes:
        values = {} if entry.name not in main else main[entry.name].values
        cells = [values.get(str(seed)) for seed in found.seeds]
        rows.append((entry.name, *(None if each is None else number(found.measure, each) for each in cells)))
    return Table(("recipe", *(f"seed {seed}" for seed in found.seeds)), tuple(rows))


def others(found: Compared) -> list[Block]:
    """All other measures, a row a measure and recipe."""
    names = [entry.name for entry in found.recipes]
    rows: list[tuple[Cell, ...]] = []
    columns: tuple[str, ...] = ()
    for measure, scores in found.table.items():
        if measure != found.measure:
            of = _table(found, measure, [name for name in names if name in scores], scores)
            columns = ("measure", *of.columns)
            rows += [(table_row(measure, None)[0], *row) for row in of.rows]
    return [Rows("All other measures", Table(columns, tuple(rows)), folded=True)] if rows else []


def cost(found: Compared) -> list[Block]:
    """What each recipe was given, and what that took."""
    flops = any(entry.length.flops is not None for entry in found.recipes)
    rows: list[tuple[Cell, ...]] = []
    for entry in found.recipes:
        length, took = entry.length, entry.cost
        given = (entry.backbone, entry.parameters, length.steps, length.images, length.forwards, f"{length.epochs:.4g}")
        work = () if not flops else (None if length.flops is None else f"{length.flops / 1e12:.3g}",)
        spent: tuple[Cell, ...] = (None, None, None)
        if took is not None:
            relative = None if took.relative is None else f"{took.relative:.2f}"
            spent = (f"{took.seconds:,.3g}", f"{took.images_per_second:,.0f}", relative)
        rows.append((entry.name, *given, *work, *spent))
    given_columns = ("network", "parameters", "steps", "images", "forward passes", "epochs")
    work_columns = ("TFLOPs",) if flops else ()
    table = Table(("recipe", *given_columns, *work_columns, "seconds", "images/s", "time, relative"), tuple(rows))
    return [Rows(f"What each was given, by budget {found.budget}, and what a run took", table)]


def again(found: Compared) -> list[Block]:
    """The command, and what it was made with."""
    made = [("data", found.data), ("seeds", ", ".join(map(str, found.seeds)))]
    made += [("commit of manyview", found.git)] if found.git else []
    versions = [(name, value) for name, value in found.versions.items() if value]
    return [Code("The command", found.command), Facts([*made, *versions])]


__all__ = ["NAME", "Compared", "again", "cost", "others", "read", "verdict"]
