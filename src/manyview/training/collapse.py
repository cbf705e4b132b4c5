"""Whether a run collapses: its embeddings where nothing classifies, else its answers; told once, or the end of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from manyview.errors import ManyviewWarning
from manyview.foundation.distributed import mean_of
from manyview.relations.reading import has
from manyview.step import Output, Step
from manyview.training.health import PATIENCE, collapse_message, grown, steps_low, told_apart
from manyview.training.setup import Setup
from manyview.training.state import State


def watches_answers(step: Step) -> bool:
    """Whether a collapse shows in a classifier's answers: not in those of one that looks on behind a stop."""
    return step.classifier is not None and step.classifier not in step.main.spec.probes


def look_for_collapse(
    setup: Setup, state: State, output: Output, spread: Mapping[str, float], terms: Mapping[str, float]
) -> str:
    """Counts logged updates in a row that look like one; returns why the run ends, '' where it goes on.

    All processes must call it, and return the same. Warns where `train.on_collapse` says so, and raises nothing.
    """
    recipe, clock, done = setup.recipe, setup.clock, state.number
    classifies = watches_answers(setup.step)
    if recipe.train.on_collapse == "ignore" or (classifies and output["output"] is None):
        return ""
    looks = spread
    if classifies:
        assert output["output"] is not None
        looks = mean_of({"told_apart": told_apart(output["output"])}, setup.accelerator)
    state.low = steps_low(state.low, looks, grown(done, clock.steps, clock.steps_per_epoch))
    labelled = [plan.name for plan in recipe.relation_plan if has("learns_from_labels", plan.factory)]
    told = collapse_message(looks, done, terms, labelled) if state.low >= PATIENCE else ""
    if told and recipe.train.on_collapse == "stop":
        return f"{told}; stopped, as train.on_collapse says"
    if state.low == PATIENCE and setup.main:
        warnings.warn(told, ManyviewWarning, stacklevel=3)
    return ""
