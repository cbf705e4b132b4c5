"""Packaged recipes on a network and pictures that a test can afford; views, heads and relations stay."""

import functools
import re
import tempfile
from pathlib import Path

from manyview.branches.timm_models import timm_library
from manyview.foundation.files import write_state
from manyview.load import load_recipe
from manyview.views.plan import TEST


def small(name: str, side: int = 32) -> tuple[str, ...]:
    """Overrides: the smallest backbone, and crops of at most so many pixels; a frozen teacher that is at hand."""
    recipe = load_recipe(name)
    trained = [branch for branch, spec in recipe.branch_plan.items() if spec.learns]
    changed = [f"branches.{branch}.backbone=cresnet20" for branch in trained]
    for branch, spec in recipe.branch_plan.items():
        if spec.frozen is not None:
            changed.append(f"branches.{branch}.network=cresnet20(init='{teacher()}')")
    for view, spec in recipe.views.items():
        crop = re.search(r"\bcrop\((\d+)", str(spec.make))
        if view != TEST and crop and int(crop[1]) > side:
            changed.append(f"views.{view}.make.crop.size={side}")
    return tuple(changed)


FOLDER = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


@functools.cache
def teacher() -> Path:
    """A checkpoint of the smallest backbone with ten classes, as drawn."""
    path = Path(FOLDER.name) / "teacher.pt"
    write_state(path, timm_library().create_model("cresnet20", num_classes=10).state_dict())
    return path
