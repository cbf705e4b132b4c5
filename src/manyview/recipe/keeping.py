"""Where what a frozen branch says of images may be kept: of views that are the same in every epoch."""

from __future__ import annotations

from manyview.errors import RecipeError
from manyview.recipe.recipe import Recipe
from manyview.views.plan import drawn_on_the_way


def check_kept(recipe: Recipe) -> None:
    """Raises RecipeError where a branch that says keep=True looks at what is drawn, or at images read smaller."""
    for name, spec in recipe.branch_plan.items():
        if spec.frozen is None or not spec.frozen.keep:
            continue
        where = f"branches.{name}: keep=True"
        for read in (read for plan in recipe.relation_plan for read in plan.all_reads if read.branch == name):
            if drawn := drawn_on_the_way(recipe.view_plan, read.view):
                raise RecipeError(
                    f"{where} is for views that are the same in every epoch, and {drawn[0]} may draw another "
                    f"{read.view} each time; drop keep, or let it look at a view such as "
                    f"big: {{from: image, make: resize(96)}}"
                )
        if recipe.data.reduced:
            raise RecipeError(f"{where}: data.reduced reads an image as small as its views allow; drop one of both")


__all__ = ["check_kept"]
