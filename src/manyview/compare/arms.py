"""The recipes of a comparison as they are named on a command line: `RECIPE`, `RECIPE@NAME`, `NAME:key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manyview.errors import RecipeError, unknown
from manyview.foundation.vocabulary import Words
from manyview.load import load_recipe
from manyview.recipe.find import called
from manyview.recipe.recipe import Recipe

SET_HERE = {
    "seed": "compare sets the seeds; use --seeds and --first-seed",
    "data.test": "compare reads the test images where --split test asks for them",
}


@dataclass(frozen=True)
class Arm:
    """A recipe by its name in the comparison, and the overrides that it was given."""

    name: str
    recipe: Recipe
    overrides: tuple[str, ...]


def load_arms(
    texts: Sequence[str], overrides: Sequence[str], seed: int, split: str, budget: str, words: Words
) -> dict[str, Arm]:
    """Name -> recipe. Raises RecipeError for names that come twice, and overrides of what compare sets itself."""
    named = [called(text) for text in texts]
    names = [name for _, name in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        one = next(text for text, name in named if name == twice)
        raise RecipeError(
            f"two recipes are named '{twice}'; a recipe's name, or its file's, is its folder in --out. Call one of "
            f"them otherwise, as in {one} {one}@other other:KEY=VALUE"
        )
    if len(names) < 2:
        cure = "".join(f"; one with other settings is another: {one} {one}@other other:KEY=VALUE" for one, _ in named)
        raise RecipeError(f"compare needs at least two recipes, got {', '.join(names) or 'none'}{cure}")
    given: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        key = override.partition("=")[0]
        whose, colon, rest = key.partition(":")
        if colon and whose not in given:
            raise RecipeError(f"override {override!r}: {unknown('recipe', whose, names)}")
        key = (rest if colon else key).strip()
        if key in SET_HERE:
            raise RecipeError(f"override {override!r}: {SET_HERE[key]}")
        if colon and whose != names[0] and budget != "own" and key in ("train.epochs", "train.steps"):
            raise RecipeError(f"override {override!r}: the budget sets this length; use --budget own")
        for name in [whose] if colon else names:
            given[name].append(override[len(whose) + 1 :] if colon else override)
    set_here = [f"seed={seed}", f"data.test={str(split == 'test').lower()}"]
    return {
        name: Arm(name, load_recipe(text, *set_here, *given[name], use=words), tuple(given[name]))
        for text, name in named
    }
