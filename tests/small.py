"""Packaged recipes on a network and pictures that a test can afford; views, heads and relations stay."""

import re

from manyview.load import load_recipe
from manyview.views.plan import TEST


def small(name: str, side: int = 32) -> tuple[str, ...]:
    """Overrides: the smallest backbone, and crops of at most so many pixels."""
    recipe = load_recipe(name)
    trained = [branch for branch, spec in recipe.branch_plan.items() if spec.ema is None]
    changed = [f"branches.{branch}.backbone=cresnet20" for branch in trained]
    for view, spec in recipe.views.items():
        crop = re.search(r"\bcrop\((\d+)", str(spec.make))
        if view != TEST and crop and int(crop[1]) > side:
            changed.append(f"views.{view}.make.crop.size={side}")
    return tuple(changed)
