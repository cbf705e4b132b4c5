"""Recipes by name or from a file, with overrides; all is checked that can be before an image is read.

It stands above what it checks: a recipe does not know what its `evaluate:` may name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from manyview.branches.spec import LOGITS
from manyview.data.sources import SOURCES, bind_source
from manyview.errors import ManyviewError, RecipeError, brief
from manyview.evaluate.protocols import PROTOCOLS, parse_protocols
from manyview.foundation.taken import check_overrides, taken_path
from manyview.foundation.vocabulary import NONE, Words
from manyview.optimize.optimize import check_training, parts
from manyview.recipe.cures import first_line, in_full, places
from manyview.recipe.find import packaged_recipes, recipe_text
from manyview.recipe.keeping import check_kept
from manyview.recipe.lr_of_batch import drop_replaced_per, is_lowered
from manyview.recipe.overrides import apply_override
from manyview.recipe.recipe import Recipe
from manyview.recipe.rehearse import rehearse
from manyview.recipe.settings import Data, Frozen, Train
from manyview.recipe.streams import check_streams
from manyview.recipe.strict_yaml import read_yaml
from manyview.recipe.texts import keep_texts
from manyview.recipe.titles import leaves, true_title
from manyview.views.plan import ViewSpec
from manyview.words.load import Use, words_of

__all__ = ["as_override", "data_of", "load_recipe", "packaged_recipes", "parse_recipe"]


class _DataAlone(Frozen):
    data: Data
    seed: int = Field(0, ge=0)


def load_recipe(name: str | Path, *overrides: str, use: Use | Sequence[Use] = ()) -> Recipe:
    """A packaged recipe by name, or a YAML file by path, with `key=value` overrides.

    Keys are dotted and reach into calls: `train.epochs=10`, `train.optimizer.lr=0.05`, `relations.similarity.weight=2`,
    `views.a.make.randaugment.m=9`. use: words of one's own, files or modules, see docs/words.md. Raises RecipeError,
    or WordsError, with one line, for all that is wrong.
    """
    name = taken_path(name, "load_recipe: name")
    check_overrides(overrides, "load_recipe")
    text = recipe_text(name)
    words = words_of(use)
    try:
        return parse_recipe(text, *overrides, name=Path(name).stem, use=words)
    except ManyviewError as error:
        raise type(error)(f"recipe {name}: {error}") from None


def parse_recipe(text: str, *overrides: str, name: str | None = None, use: Use | Sequence[Use] = ()) -> Recipe:
    """A recipe from its YAML text. Raises RecipeError.

    name: how it is called where overrides make its title untrue, see `titles`; without one the title stands.
    use: words of one's own, see `load_recipe`.
    """
    if not isinstance(text, str):
        raise RecipeError(f"parse_recipe: a recipe's YAML as text is wanted, got {brief(text)}")
    check_overrides(overrides, "parse_recipe")
    words = words_of(use)
    raw = read_yaml(text)
    if not isinstance(raw, dict):
        raise RecipeError("expected a mapping with views, branches, relations and train")
    keep_texts(raw, text, Recipe)
    keys = [key for override in overrides for key in _given(override)]
    _drop_replaced_length(raw, keys)
    drop_replaced_per(raw, keys)
    size = raw["train"].get("batch_size", Train().batch_size) if isinstance(raw.get("train"), dict) else None
    changed: dict[str, str] = {}
    for override in overrides:
        before = copy.deepcopy(raw)
        apply_override(raw, override, words, PROTOCOLS)
        if raw != before:
            changed |= _given(override)
    try:
        recipe = Recipe.model_validate(raw, context={"words": words})
    except ValidationError as error:
        raise RecipeError(first_line(error, raw, _models(), words.beside("SOURCES", SOURCES))) from None
    _check(recipe)
    title = None if name is None or "title" in keys else true_title(name, changed, recipe.data.source)
    recipe = recipe if title is None else recipe.model_copy(update={"title": title})
    if is_lowered(size, recipe.train.batch_size, recipe.train.optimizer, keys):
        vars(recipe)["batch_before"] = size  # in the place of what it would compute
    return recipe


def _given(override: str) -> dict[str, str]:
    """Key -> value of all that one override gives; nothing where it cannot be read, which `apply_override` tells."""
    key, _, text = override.partition("=")
    try:
        return leaves(key.strip(), read_yaml(text), text.strip())
    except RecipeError:
        return {key.strip(): text.strip()}


def data_of(overrides: Sequence[str], words: Words = NONE) -> tuple[Data, int]:
    """Data, and the seed, from `data.…=` and `seed=` alone, where there is no recipe. Raises RecipeError."""
    check_overrides(overrides, "overrides")
    raw: dict[str, Any] = {"data": {}}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.partition(".")[0] not in ("data", "seed"):
            cure = in_full(key.strip(), value, places({}, {"data": Data.model_fields}))
            meant = f"; {cure}" if "data." in cure else ""
            raise RecipeError(f"override {override!r}: what may be said here begins with data., or is seed{meant}")
        apply_override(raw, override, words)
    try:
        found = _DataAlone.model_validate(raw, context={"words": words})
    except ValidationError as error:
        raise RecipeError(first_line(error, raw, _models())) from None
    bind_source(found.data.call, words)
    return found.data, found.seed


def as_override(key: str, value: str) -> str:
    """Advice for a key and its value that were given elsewhere than as an override; "" where a recipe has no such."""
    sections = {"data": Data.model_fields, "train": Train.model_fields, "": Recipe.model_fields}
    return in_full(key, value, places({}, sections))


def _models() -> dict[str, type[BaseModel]]:
    return {"data": Data, "train": Train, "views": ViewSpec, "": Recipe}


def _drop_replaced_length(raw: dict[str, Any], keys: Sequence[str]) -> None:
    """An override of `train.epochs` takes the place of the recipe's own `steps`, and the other way round."""
    for given, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"train.{given}" in keys and f"train.{other}" not in keys and isinstance(raw.get("train"), dict):
            raw["train"].pop(other, None)


def _check(recipe: Recipe) -> None:
    views = recipe.view_plan  # first, since it needs torch alone, and branches timm, which takes another two seconds
    rehearse(recipe.branch_plan, recipe.relation_plan, views, recipe.words, recipe.data.channels or 3)
    bind_source(recipe.data.call, recipe.words)
    check_streams(recipe)
    check_kept(recipe)
    heads = {name: [*spec.heads, LOGITS] for name, spec in recipe.branch_plan.items() if spec.learns}
    relations = [plan.name for plan in recipe.relation_plan]
    teaching = [plan.name for plan in recipe.relation_plan if not plan.looks_on]
    check_training(recipe.train, parts(heads, relations), teaching)
    parse_protocols(recipe.evaluate, words=recipe.words)
