"""The end of a run: what its result.json holds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from manyview.errors import ManyviewWarning
from manyview.evaluate.crew import Post
from manyview.evaluate.on_one_set import Measure
from manyview.foundation.environment import git_commit, versions
from manyview.foundation.files import read_state, write_json
from manyview.foundation.vocabulary import Words
from manyview.training.predictions import keep_predictions
from manyview.training.run import Run
from manyview.training.validation import Validation


def write_result(run: Run, validation: Validation, post: Post | None = None) -> dict[str, Any]:
    """Measures the weights that were kept, which the step then has, and writes the run's end; for the main process.

    post: how it calls the others, see `Validation.led`.
    """
    setup, state = validation.setup, validation.state
    recipe, clock, splits = setup.recipe, setup.clock, setup.splits
    best = run.best.is_file()
    if best:
        setup.judged.load_state_dict(read_state(run.best)["step"])
    result: dict[str, Any] = {
        "recipe": recipe.title,
        "seed": recipe.seed,
        "epochs": round(clock.steps / clock.steps_per_epoch, 4),
        "steps": clock.steps,
        "git": git_commit(),
        "versions": versions(),
        **_words(recipe.words.used_in(recipe.to_yaml())),
        "device": str(setup.accelerator.device),
        "seconds": round(state.seconds, 2),
        "images_per_second": round(clock.steps * setup.images_per_step / state.seconds, 1),
        "waiting": round(100 * state.waited / state.seconds, 2),
        "rendering": setup.rendering.place,
        "views_per_image": setup.step.rows_per_image,
        "data": splits.note,
        "selected_by": f"validation {validation.choice}" if best else "the last step",
    }
    if starts := run.starts():
        result["starts"] = starts
    features = validation.features(post)
    unmeasured: dict[str, str] = {}  # a protocol that fails must not cost the run its end
    notes: dict[str, str] = {}
    measured: dict[str, int] = {}

    def measure(split: str, chosen: Sequence[Measure]) -> dict[str, float]:
        each: dict[str, Any] = {}
        found = validation.measure(features, split, chosen, unmeasured, notes, each)
        keep_predictions(run.folder, split, each)
        measured.update({split: len(each["labels"])} if "labels" in each else {})  # but for what could not be read
        return found

    if splits.val is not None:
        chosen = setup.protocols if splits.test is None else validation.chooses
        result["val"] = measure("val", chosen)
    if splits.test is not None:
        result["eval"] = measure("test", setup.protocols)
    else:
        result["eval"] = result.get("val", {})
    result["eval_split"] = "test" if splits.test is not None else "val" if splits.val is not None else None
    if state.untrained:
        result["untrained"] = state.untrained
    held = {"val": splits.val, "test": splits.test}
    result["n"] = {name: int((of.labels >= 0).sum()) for name, of in held.items() if of is not None} | measured
    result["skipped_images"] = state.skipped
    if notes:
        result["notes"] = notes
    if unmeasured:
        result["not_measured"] = unmeasured
        warnings.warn(f"not measured: {'; '.join(unmeasured.values())}", ManyviewWarning, stacklevel=2)
    write_json(run.result, result)
    setup.display.summary(run.folder, result)
    return result


def _words(words: Words) -> dict[str, Any]:
    """The words of its own that a run was made with, and the digest of each; nothing where there are none."""
    return {"words": {origin.called: origin.digest for origin in words.origins}} if words.origins else {}
