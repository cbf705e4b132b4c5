"""A rehearsal of a recipe: its heads and relations built on torch's meta device, where nothing takes memory or time.

So arguments that they refuse are refused when the recipe is loaded, whatever its numbers. Whether readouts fit their
relation waits for the step, which knows the backbone's width and the number of classes; here both are guessed.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence

import torch

from manyview.branches.heads import TAPS, build_head
from manyview.branches.spec import CLASSIFIER, FEATURES, LOGITS, BranchSpec
from manyview.errors import ManyviewWarning
from manyview.foundation.vocabulary import NONE, Words
from manyview.recipe.readouts import RelationPlan, build_relation, make_port
from manyview.relations import FitError
from manyview.views.plan import PlannedView

WIDTH, CLASSES = 64, 10


def rehearse(
    branches: Mapping[str, BranchSpec],
    relations: Sequence[RelationPlan],
    views: Mapping[str, PlannedView],
    words: Words = NONE,
) -> None:
    """Raises RecipeError, naming the place, for arguments that a head or a relation of the recipe does not take."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ManyviewWarning)  # the step gives them
        shapes = {name: _shapes(spec, views) for name, spec in branches.items()}
        for number, plan in enumerate(relations):
            where = f"relations.{number}: {plan.text}"
            with contextlib.suppress(FitError):
                ports = {
                    read: make_port(read, where, *shapes[read.branch], branches[read.branch], views, CLASSES)
                    for read in plan.all_reads
                }
                build_relation(plan, ports, where)


def _shapes(spec: BranchSpec, views: Mapping[str, PlannedView]) -> tuple[dict[str, int], dict[str, PlannedView]]:
    """Columns of each readout of a branch, and the orbits that heads tell apart."""
    dims: dict[str, int] = {FEATURES: WIDTH}
    orbits: dict[str, PlannedView] = {}
    for head, call in {**spec.heads, LOGITS: spec.heads.get(LOGITS, CLASSIFIER)}.items():
        if call.name in TAPS:
            dims[head] = WIDTH
        else:
            built = build_head(
                call, dims[call.args[0].text], CLASSES, views, f"branches.{spec.name}.{head}", spec.words
            )
            dims[head] = built.width
            if built.orbit is not None:
                orbits[head] = built.orbit
    return dims, orbits
