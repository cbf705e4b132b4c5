"""The recipes of a comparison at lengths that its budget makes equal, with as many checkpoints to choose among."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manyview.branches.origin import without_origin
from manyview.compare.budget import Length, equal_steps, own_length, step_seconds
from manyview.compare.comparison import Draft, Entry
from manyview.data import Splits
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError, RunError
from manyview.foundation.words import counted
from manyview.optimize.optimize import clock_of, images_of, make_optimizer, make_schedule
from manyview.recipe.method import method_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import read_of
from manyview.show.display import Display
from manyview.show.step_flops import flops_of_update
from manyview.training.prepare import in_memory

_counted: dict[tuple[str, int, str], int] = {}  # operations of an update, by recipe, classes and images


def lengths(drafts: Sequence[Draft], splits: Splits, budget: str, folder: Path) -> list[Length]:
    """What each is given. Raises RunError where the budget is FLOPs and those of a recipe cannot be counted."""
    own = []
    for draft in drafts:
        length = own_length(draft.recipe, read_of(draft.recipe, splits).counts, draft.step.rows)
        own.append(replace(length, flops_per_step=_flops(draft, splits, needed=budget == "flops")))
    speeds: dict[str, float] = {}
    if budget == "seconds":
        data = drafts[0].recipe.data
        loaded = in_memory(splits, data, Display(quiet=True))
        speeds = step_seconds(
            folder / "budget.json", {draft.name: (draft.recipe, draft.step) for draft in drafts}, loaded
        )
    found = [own[0]]
    for draft, length in zip(drafts[1:], own[1:], strict=True):
        speed = (speeds[draft.name], speeds[drafts[0].name]) if speeds else None
        found.append(replace(length, steps=equal_steps(length, own[0], budget, speed)))
    return found


def _flops(draft: Draft, splits: Splits, needed: bool) -> int | None:
    """Operations of an update; None, unless they are needed, where they cannot be counted."""
    seen = read_of(draft.recipe, splits)
    images = images_of(draft.recipe.train, seen.counts)
    train = draft.recipe.train
    said = method_of(draft.recipe, ("data", "views", "branches", "relations"))
    key = (repr((said, train.optimizer, train.accumulate)), draft.step.num_classes, repr(images))
    try:
        if key not in _counted:
            _counted[key] = flops_of_update(draft.recipe, draft.step, images, seen)
        return _counted[key]
    except RecipeError as error:
        if needed:
            raise RunError(f"--budget flops: recipe {draft.name}: {error}; take forwards or seconds") from None
        return None


def at_length(drafts: Sequence[Draft], given: Sequence[Length], splits: Splits) -> tuple[list[Entry], list[str]]:
    """The entries, and what was made equal beside their lengths.

    Warns of schedules that do not follow a new length, raises RecipeError where one does not fit.
    """
    recipes = [_of_length(draft, length, splits) for draft, length in zip(drafts, given, strict=True)]
    recipes, told = _chosen_alike(drafts, recipes, given, splits)
    entries = []
    for draft, recipe, length in zip(drafts, recipes, given, strict=True):
        counts = read_of(recipe, splits).counts
        try:
            make_schedule(recipe.train, make_optimizer(recipe.train, draft.step), clock_of(recipe.train, counts))
        except ManyviewError as error:
            raise type(error)(f"recipe {draft.name}: {error}") from None
        parameters = sum(p.numel() for p in draft.step.parameters() if p.requires_grad)
        backbone = str(without_origin(draft.step.main.spec.backbone))
        entries.append(Entry(draft.name, recipe, draft.overrides, length, backbone, parameters))
    return entries, told


def _of_length(draft: Draft, length: Length, splits: Splits) -> Recipe:
    recipe = draft.recipe
    if clock_of(recipe.train, read_of(recipe, splits).counts).steps == length.steps:
        return recipe
    # a warm-up of some steps is meant as it is; milestones belong to a length
    if re.search(r"at=[^=]*\d ?(epoch|step)", recipe.train.schedule.partition("warmup")[0]):
        warnings.warn(
            f"recipe {draft.name}: the budget gives it {counted(length.steps, 'step')}, not its own, and "
            f"{recipe.train.schedule} does not follow; name parts of the run, as in at=(0.3, 0.6)",
            ManyviewWarning,
            stacklevel=4,
        )
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": None, "steps": length.steps})})


def _chosen_alike(
    drafts: Sequence[Draft], recipes: Sequence[Recipe], given: Sequence[Length], splits: Splits
) -> tuple[list[Recipe], list[str]]:
    """The recipes as they are where all choose among as many checkpoints; else the last of each is taken, and told.

    Who may choose among more is ahead by that alone. A checkpoint that was chosen by single scores is not the best for
    aggregated ones, so where one recipe has these, too, none chooses.
    """
    among = [choices(recipe, length, splits) for recipe, length in zip(recipes, given, strict=True)]
    aggregates = [draft.name for draft in drafts if draft.step.can_aggregate]
    if len(set(among)) == 1 and not (among[0] > 1 and aggregates):
        return list(recipes), []
    if aggregates and len(set(among)) == 1:
        why = f"scores of {', '.join(aggregates)} are aggregated, too, whose best checkpoint is another"
    else:
        numbers = ", ".join(f"{draft.name} {count}" for draft, count in zip(drafts, among, strict=True))
        why = f"there would be unlike numbers to choose among ({numbers})"
    last = [recipe.model_copy(update={"train": recipe.train.model_copy(update={"keep": "last"})}) for recipe in recipes]
    return last, [f"Of every run the last checkpoint is taken, since {why}."]


def choices(recipe: Recipe, length: Length, splits: Splits) -> int:
    """Among how many checkpoints validation chooses."""
    if not recipe.keeps_best or splits.val is None:
        return 1
    whole, rest = divmod(length.steps, length.steps_per_epoch)
    every = recipe.train.evaluate_every
    return whole // every + (1 if rest or whole % every else 0)
