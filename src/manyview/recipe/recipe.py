"""A whole recipe, and the plans of its views, branches and relations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from manyview.branches.spec import BranchSpec, parse_branches
from manyview.data.sources import FROM_PYTHON
from manyview.errors import RecipeError, brief
from manyview.recipe.flat import changes, flat
from manyview.recipe.readouts import RelationPlan, plan_relations
from manyview.recipe.settings import Data, Frozen, Train
from manyview.relations.reading import has
from manyview.views.plan import TEST, PlannedView, ViewSpec, plan_views, with_sources


class Recipe(Frozen):
    """A whole recipe. `views`, `branches` and `relations` are kept as written; their plans are properties."""

    title: str = ""
    seed: int = Field(0, ge=0, le=2**63 - 1, strict=True)
    data: Data = Data()
    views: dict[str, ViewSpec]
    branches: dict[str, Any]
    relations: tuple[str, ...]
    train: Train = Train()
    evaluate: tuple[str, ...] = ()

    @cached_property
    def view_plan(self) -> dict[str, PlannedView]:
        """Views in order, with their ops built."""
        return plan_views(self.views, self.words)

    @cached_property
    def train_views(self) -> dict[str, PlannedView]:
        """The views of training: all but that of evaluation."""
        return {name: view for name, view in self.view_plan.items() if name != TEST}

    @cached_property
    def seen_views(self) -> dict[str, PlannedView]:
        """The training views that some relation reads, and those they derive from: what is rendered."""
        read = {view for relation in self.relation_plan for read in relation.all_reads for view in read.views}
        return {name: self.train_views[name] for name in with_sources(self.train_views, read)}

    @cached_property
    def branch_plan(self) -> dict[str, BranchSpec]:
        """Branches, parsed."""
        return parse_branches(self.branches, self.data.channels or 3, self.words)

    @cached_property
    def relation_plan(self) -> list[RelationPlan]:
        """Relations, parsed and checked against views and branches."""
        return plan_relations(self.relations, self.branch_plan, self.view_plan, self.words)

    @cached_property
    def batch_before(self) -> int | None:
        """The batch size that an override lowered while lr stayed, as loading notes it; no part of what a recipe says.

        Told when training begins, see `lr_of_batch`.
        """
        return None

    @property
    def needs_labels(self) -> list[str]:
        """The relations that need a label for every training image, as they are written."""
        return [plan.text for plan in self.relation_plan if plan.needs_labels]

    @property
    def learns_from_labels(self) -> list[str]:
        """Those of them through which labels reach more than heads that look on behind a stop."""
        plans = [plan for plan in self.relation_plan if not plan.looks_on]
        return [plan.text for plan in plans if has("learns_from_labels", plan.factory)]

    @property
    def keeps_best(self) -> bool:
        """Whether validation images choose the weights, see `Train.keep`."""
        return self.train.keep == "best" or (self.train.keep is None and bool(self.learns_from_labels))

    @property
    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted place, as `train.batch_size`."""
        return flat(self.model_dump(mode="json"))

    def on_given_data(self) -> Recipe:
        """The same recipe on data sets that are given in Python, which is all that it then says of where they are."""
        if self.data.source == FROM_PYTHON:
            return self
        data = self.data.model_copy(update={"source": FROM_PYTHON, "root": None, "download": False})
        return self.model_copy(update={"data": data, "title": f"{self.title} with data given in Python".lstrip()})

    def to_yaml(self) -> str:
        """The recipe with every default written out; loading it gives an equal recipe."""
        raw = self.model_dump(mode="json", by_alias=True)
        raw["views"] = {
            name: spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for name, spec in self.views.items()
        }
        return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


def check_recipe(given: Any, who: str) -> None:
    """Raises RecipeError for what is no recipe. who: the function that was given it."""
    if not isinstance(given, Recipe):
        name = f"'{given}'" if isinstance(given, (str, Path)) else "'tied_cifar10'"
        raise RecipeError(f"{who}: recipe is what load_recipe({name}) gives, got {brief(given)}")


def difference(ours: Recipe, theirs: Recipe, ignore: Mapping[str, Any] | None = None) -> list[str]:
    """Lines `key: ours -> theirs` for all that differs between two recipes, but for keys in `ignore`."""
    skipped = tuple(f"{key}." for key in ignore or ())  # a list has a key an entry
    left, right = (
        {key: value for key, value in recipe.flat.items() if not f"{key}.".startswith(skipped)}
        for recipe in (ours, theirs)
    )
    return changes(left, right)
