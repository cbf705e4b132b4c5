"""A comparison: recipes, each at its length, and the seeds that each is trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manyview.compare.budget import Length
from manyview.recipe.recipe import Recipe
from manyview.step import Step
from manyview.training.run import Run


@dataclass(frozen=True)
class Draft:
    """A recipe whose length is not known yet. step: built once, for what only it can tell."""

    name: str
    recipe: Recipe
    overrides: tuple[str, ...]
    step: Step


@dataclass(frozen=True)
class Entry:
    """A recipe of a comparison. recipe: at its length, with the first seed. parameters: that are trained."""

    name: str
    recipe: Recipe
    overrides: tuple[str, ...]
    length: Length
    backbone: str
    parameters: int


@dataclass(frozen=True)
class Comparison:
    """Recipes, the first of which is the reference, and the seeds that each is trained with.

    texts, overrides: as they were given. note: what the data are, for the first seed. split: where results are read.
    measure: the primary one, as it was named. only: names of those to train now. told: what one must know of how the
    runs are made, before they are. source: what tells the data apart. chooses: whether it is to choose by, on val.
    """

    folder: Path
    texts: tuple[str, ...]
    overrides: tuple[str, ...]
    entries: tuple[Entry, ...]
    seeds: range
    budget: str
    split: str
    measure: str | None
    note: str
    only: tuple[str, ...]
    told: tuple[str, ...] = ()
    source: str = ""
    chooses: bool = False

    def run(self, entry: Entry, seed: int) -> Run:
        """Where a run lies."""
        return Run(self.folder / "runs" / entry.name / f"seed-{seed}", entry.recipe.words)

    def recipe(self, entry: Entry, seed: int) -> Recipe:
        """What a run trains: recipes differ, and of one recipe only the seed does."""
        return entry.recipe.model_copy(update={"seed": seed})

    @property
    def runs(self) -> list[tuple[Entry, int]]:
        """All of them, a seed of every recipe before the next, so that pairs are whole early."""
        return [(entry, seed) for seed in self.seeds for entry in self.entries]
