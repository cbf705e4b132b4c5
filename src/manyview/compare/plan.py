"""What a comparison trains: recipes with their overrides, on the same data, at lengths that its budget makes equal."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from manyview.compare.alike import check_alike, several_passes, unlike
from manyview.compare.arms import load_arms
from manyview.compare.budget import BUDGETS
from manyview.compare.chosen import check_unchosen
from manyview.compare.comparison import Comparison, Draft, Entry
from manyview.compare.header import beforehand
from manyview.compare.ledger import Ledger
from manyview.compare.lengths import at_length, lengths
from manyview.compare.outcome import result_of
from manyview.data import Splits, check_labels, open_splits
from manyview.errors import DataError, ManyviewError, RecipeError, RunError, unknown
from manyview.evaluate.accuracy import Classify, accuracy
from manyview.evaluate.evaluate import check_model, check_protocols, with_accuracy
from manyview.evaluate.model import StepModel
from manyview.evaluate.protocols import measure_names, parse_protocols
from manyview.foundation.words import counted
from manyview.optimize.optimize import clock_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import read_of
from manyview.step import Step
from manyview.training.prepare import check_teachers, rehearse
from manyview.training.recompute import check_saving
from manyview.training.run import Run
from manyview.training.saving import kept
from manyview.words.load import Use, words_of


def plan_comparison(
    recipes: Sequence[str],
    folder: Path,
    *,
    seeds: int,
    first_seed: int = 0,
    overrides: Sequence[str] = (),
    budget: str = "forwards",
    measure: str | None = None,
    split: str = "test",
    only: Sequence[str] = (),
    use: Use | Sequence[Use] = (),
    ledger: Ledger | None = None,
) -> Comparison:
    """Checks all that can be known before training, and says what will be trained; see `compare`.

    Nothing is written, but for the times of steps where the budget is seconds. Raises ManyviewError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("compare trains one run after another in one process; start it without a launcher")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out names a folder")
    if (folder / "recipe.yaml").exists():
        raise RunError(f"{folder} is a run; choose another --out for a comparison")
    if seeds < 1 or first_seed < 0:
        raise RunError(f"--seeds is at least 1 and --first-seed at least 0, got {seeds} and {first_seed}")
    if budget not in BUDGETS:
        raise RunError(f"--budget: {unknown('budget', budget, BUDGETS)}")
    if split not in ("val", "test"):
        raise RunError(f"--split: {unknown('split', split, ('val', 'test'))}")
    loaded = load_arms(recipes, overrides, first_seed, split, budget, words_of(use))
    for name in only:
        if name not in loaded:
            raise RunError(f"--only: {unknown('recipe', name, loaded)}")
    check_alike({name: arm.recipe for name, arm in loaded.items()})
    first, asked = next(iter(loaded.values())).recipe, range(first_seed, first_seed + seeds)
    splits = open_splits(first.data, first_seed)
    source = source_of(first, splits)
    chooses = split == "val"
    if splits.test is None:
        if splits.val is None:
            raise DataError(f"nothing was held out to compare on; the data are {splits.note}")
        split = "val"
    begun = {name: all(_has_begun(folder, name, seed) for seed in asked) for name in loaded}
    drafts = [
        Draft(
            name,
            arm.recipe,
            arm.overrides,
            _build(name, arm.recipe, splits, begun[name] or bool(only and name not in only)),
        )
        for name, arm in loaded.items()
    ]
    primary = _primary(drafts, measure)
    entries, told = at_length(drafts, lengths(drafts, splits, budget, folder), splits)
    before = beforehand(entries, asked, split, primary, measure is None, splits.note)
    made = Comparison(
        folder=folder,
        texts=tuple(recipes),
        overrides=tuple(overrides),
        entries=tuple(entries),
        seeds=asked,
        budget=budget,
        split=split,
        measure=measure,
        note=splits.note,
        only=tuple(only),
        told=(*before, *told, *several_passes(drafts), *unlike(drafts)),
        source=source,
        chooses=chooses,
    )
    elsewhere = set[tuple[str, int]]()
    if ledger is not None:  # which refuses those of another recipe
        elsewhere = {(each.name, seed) for each, seed in made.runs if ledger.outcome(made, each, seed) is not None}
    if not chooses:
        done = {(entry.name, seed) for entry, seed in made.runs if _has_claimed(made.run(entry, seed))} | elsewhere
        waiting = {seed for entry, seed in made.runs if (entry.name, seed) not in done}
        told = check_unchosen(folder, source, asked, waiting, () if ledger is None else ledger.chosen(source))
        made = replace(made, told=(*told, *made.told))
    for entry, seed in made.runs:
        _check_run(made, entry, seed)
    return made


def source_of(recipe: Recipe, splits: Splits) -> str:
    """What tells the data apart, wherever they lie: the source and its classes."""
    digest = hashlib.blake2b("\n".join(splits.classes).encode(), digest_size=4).hexdigest()
    return f"{recipe.data.source}, {counted(len(splits.classes), 'class')} ({digest})"


def _has_claimed(run: Run) -> bool:
    """Whether a run has ended and was read on test."""
    result = result_of(run)
    return result is not None and result["eval_split"] == "test"


def _check_run(comparison: Comparison, entry: Entry, seed: int) -> None:
    """Raises RunError for a run in its folder that is of another recipe, or was judged on other images."""
    run = comparison.run(entry, seed)
    if not (run.folder / "recipe.yaml").is_file():
        return
    run.check_same(comparison.recipe(entry, seed))
    result = result_of(run)
    if result is not None and result["eval_split"] != comparison.split:
        raise RunError(
            f"{run.folder} was measured on {result['eval_split']}, and this comparison reads {comparison.split}: what "
            f"chooses does not claim. Take other seeds and another --out"
        )


def _has_begun(folder: Path, name: str, seed: int) -> bool:
    """Whether a run has its weights already, wherever they once came from."""
    run = Run(folder / "runs" / name / f"seed-{seed}")
    return run.result.is_file() or bool(kept(run.last))


def _build(name: str, recipe: Recipe, splits: Splits, begun: bool) -> Step:
    """The recipe's step, after all that `train` refuses was looked for, but for its schedule.

    begun: whether what weights come from need not be there any more.
    """
    splits = read_of(recipe, splits)
    try:
        check_labels(splits, recipe.needs_labels, recipe.evaluate)
        check_protocols(parse_protocols(recipe.evaluate, words=recipe.words), splits)
        steps = clock_of(recipe.train, splits.counts).steps
        step = Step(recipe, len(splits.classes), steps, pretrained=not begun)
        check_teachers(step, splits.classes)
        check_saving(step)
        if step.classifier:
            check_labels(splits, (), ["classify"])
        check_model(parse_protocols(recipe.evaluate, words=recipe.words), StepModel(step, splits.classes), splits)
        rehearse(step, splits, recipe.train.batch_size // recipe.train.accumulate)
    except ManyviewError as error:
        raise type(error)(f"recipe {name}: {error}") from None
    return step


def _primary(drafts: Sequence[Draft], measure: str | None) -> str:
    """The measure that decides: the one asked for, else top1 where all recipes will have it, else knn.

    Raises RecipeError where a recipe measures nothing, RunError where they will not have that measure in common.
    """
    found = [_measures(draft.step, draft.recipe) for draft in drafts]
    for draft, names in zip(drafts, found, strict=True):
        if not names:
            raise RecipeError(f"recipe {draft.name} measures nothing: name a protocol, as in evaluate=['knn(k=20)']")
        if measure is not None and not any(measure == name or measure.startswith(f"{name}_") for name in names):
            raise RunError(f"--measure: {unknown('measure', measure, names)} (recipe {draft.name})")
    common = set.intersection(*map(set, found))
    usual = next((name for name in ("top1", "knn") if name in common), None)
    if measure is None and usual is None:
        raise RunError(
            "the recipes have neither top1 nor knn in common; choose another with --measure"
            + (f": {', '.join(sorted(common))}" if common else ", or give all the same evaluate")
        )
    return measure or str(usual)


def _measures(step: Step, recipe: Recipe) -> list[str]:
    """The names of what a run will measure; a protocol may have more, that begin with its name."""
    names: list[str] = []
    stated = parse_protocols(recipe.evaluate, words=recipe.words)
    for protocol, name in measure_names(with_accuracy(stated, step)).items():
        if isinstance(protocol, Classify):
            if step.classifier is not None:
                usual = list(accuracy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)))
                names += usual + [f"aggregated_{each}" for each in usual if step.can_aggregate]
        else:
            names.append(name)
    return names
