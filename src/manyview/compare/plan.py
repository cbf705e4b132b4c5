"""What a comparison trains: recipes with their overrides, on the same data, at lengths that its budget makes equal."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from manyview.branches.origin import without_origin
from manyview.compare.budget import BUDGETS, Length, equal_steps, own_length, step_seconds
from manyview.data import Splits, check_labels, open_splits
from manyview.errors import DataError, ManyviewError, ManyviewWarning, RecipeError, RunError, unknown
from manyview.evaluate.accuracy import Classify, accuracy
from manyview.evaluate.evaluate import check_model, check_protocols, with_accuracy
from manyview.evaluate.model import StepModel
from manyview.evaluate.protocols import measure_names, parse_protocols
from manyview.foundation.vocabulary import Words
from manyview.foundation.words import counted
from manyview.load import load_recipe
from manyview.optimize.optimize import clock_of, make_optimizer, make_schedule
from manyview.recipe.recipe import Recipe, difference
from manyview.recipe.streams import read_of
from manyview.show.display import Display
from manyview.step import Step
from manyview.training.prepare import check_teachers, in_memory, rehearse
from manyview.training.run import Run
from manyview.training.saving import kept
from manyview.words.load import Use, words_of

# settings of data that say how images are reached, not which they are
ANYWHERE = ("data.download", "data.memory", "data.render", "data.workers")


@dataclass(frozen=True)
class Entry:
    """A recipe of a comparison. recipe: at its length, with the first seed. parameters: that are trained."""

    name: str
    recipe: Recipe
    overrides: tuple[str, ...]
    length: Length
    backbone: str
    parameters: int


@dataclass(frozen=True)
class Comparison:
    """Recipes, the first of which is the reference, and the seeds that each is trained with.

    texts, overrides: as they were given. note: what the data are, for the first seed. split: where results are read.
    only: names of those to train now.
    """

    folder: Path
    texts: tuple[str, ...]
    overrides: tuple[str, ...]
    entries: tuple[Entry, ...]
    seeds: range
    budget: str
    split: str
    measure: str | None
    note: str
    only: tuple[str, ...]

    def run(self, entry: Entry, seed: int) -> Run:
        """Where a run lies."""
        return Run(self.folder / "runs" / entry.name / f"seed-{seed}", entry.recipe.words)

    def recipe(self, entry: Entry, seed: int) -> Recipe:
        """What a run trains: recipes differ, and of one recipe only the seed does."""
        return entry.recipe.model_copy(update={"seed": seed})

    @property
    def runs(self) -> list[tuple[Entry, int]]:
        """All of them, a seed of every recipe before the next, so that pairs are whole early."""
        return [(entry, seed) for seed in self.seeds for entry in self.entries]


@dataclass(frozen=True)
class _Draft:
    """An entry whose length is not known yet. step: built once, for what only it can tell."""

    name: str
    recipe: Recipe
    overrides: tuple[str, ...]
    step: Step


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
    loaded = _load(recipes, overrides, first_seed, budget, words_of(use))
    for name in only:
        if name not in loaded:
            raise RunError(f"--only: {unknown('recipe', name, loaded)}")
    _check_alike({name: recipe for name, (recipe, _) in loaded.items()})
    first, _ = next(iter(loaded.values()))
    splits = open_splits(first.data, first_seed)
    if splits.test is None or split == "val":
        if splits.val is None:
            raise DataError(f"nothing was held out to compare on; the data are {splits.note}")
        split = "val"
    begun = {name: all(_has_begun(folder, name, first_seed + seed) for seed in range(seeds)) for name in loaded}
    drafts = [
        _Draft(name, recipe, own, _build(name, recipe, splits, begun[name] or bool(only and name not in only)))
        for name, (recipe, own) in loaded.items()
    ]
    _check_measure(drafts, measure)
    entries = tuple(_at_length(drafts, _lengths(drafts, splits, budget, folder), splits))
    made = Comparison(
        folder=folder,
        texts=tuple(recipes),
        overrides=tuple(overrides),
        entries=entries,
        seeds=range(first_seed, first_seed + seeds),
        budget=budget,
        split=split,
        measure=measure,
        note=splits.note,
        only=tuple(only),
    )
    for entry, seed in made.runs:
        if (made.run(entry, seed).folder / "recipe.yaml").is_file():
            made.run(entry, seed).check_same(made.recipe(entry, seed))
    return made


# ------------------------------------------------------------------------------------------------------------- recipes


def _load(
    texts: Sequence[str], overrides: Sequence[str], seed: int, budget: str, words: Words
) -> dict[str, tuple[Recipe, tuple[str, ...]]]:
    """Name -> the recipe with its overrides, and these."""
    named = [(_name(text), text) for text in texts]
    names = [name for name, _ in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two recipes are named '{twice}'; a recipe's name, or its file's, is its folder in --out")
    if len(names) < 2:
        raise RecipeError(f"compare needs at least two recipes, got {', '.join(names) or 'none'}")
    own: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        key = override.partition("=")[0]
        whose, colon, rest = key.partition(":")
        if colon and whose not in own:
            raise RecipeError(f"override {override!r}: {unknown('recipe', whose, names)}")
        key = (rest if colon else key).strip()
        if key == "seed":
            raise RecipeError(f"override {override!r}: compare sets the seeds; use --seeds and --first-seed")
        if colon and whose != names[0] and budget != "own" and key in ("train.epochs", "train.steps"):
            raise RecipeError(f"override {override!r}: the budget sets this length; use --budget own")
        for name in [whose] if colon else names:
            own[name].append(override[len(whose) + 1 :] if colon else override)
    return {name: (load_recipe(text, f"seed={seed}", *own[name], use=words), tuple(own[name])) for name, text in named}


def _name(text: str) -> str:
    path = Path(text)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def _check_alike(recipes: Mapping[str, Recipe]) -> None:
    """Raises RecipeError unless all recipes have the same data, and a protocol that several name the same settings."""
    (reference, first), *others = recipes.items()
    for name, recipe in others:
        lines = [line for line in difference(first, recipe, dict.fromkeys(ANYWHERE)) if line.startswith("data.")]
        if lines:
            raise RecipeError(
                f"{reference} and {name} are not trained on the same data: {'; '.join(lines)}; give one value for all"
            )
    protocols: dict[str, tuple[str, object]] = {}
    for name, recipe in recipes.items():
        for protocol, label in measure_names(parse_protocols(recipe.evaluate, words=recipe.words)).items():
            other, known = protocols.setdefault(label, (name, protocol))
            if known != protocol:
                raise RecipeError(
                    f"evaluate: {label} has other settings in {other} than in {name}: {known} and {protocol}; "
                    "give the same to all, as in evaluate=['knn(k=20)']"
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
        if step.classifier:
            check_labels(splits, (), ["classify"])
        check_model(parse_protocols(recipe.evaluate, words=recipe.words), StepModel(step, splits.classes), splits)
        rehearse(step, splits, recipe.train.batch_size // recipe.train.accumulate)
    except ManyviewError as error:
        raise type(error)(f"recipe {name}: {error}") from None
    return step


def _check_measure(drafts: Sequence[_Draft], measure: str | None) -> None:
    """Raises RunError where the recipes will not have a measure to compare in common, or not the one asked for."""
    found = [_measures(draft.step, draft.recipe) for draft in drafts]
    for draft, names in zip(drafts, found, strict=True):
        if not names:
            raise RecipeError(f"recipe {draft.name} measures nothing: name a protocol, as in evaluate=['knn(k=20)']")
        if measure is not None and not any(measure == name or measure.startswith(f"{name}_") for name in names):
            raise RunError(f"--measure: {unknown('measure', measure, names)} (recipe {draft.name})")
    common = set.intersection(*map(set, found))
    if measure is None and not common & {"top1", "knn"}:
        raise RunError(
            "the recipes have neither top1 nor knn in common; choose another with --measure"
            + (f": {', '.join(sorted(common))}" if common else ", or give all the same evaluate")
        )


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


# ------------------------------------------------------------------------------------------------------------- lengths


def _lengths(drafts: Sequence[_Draft], splits: Splits, budget: str, folder: Path) -> list[Length]:
    own = [own_length(draft.recipe, read_of(draft.recipe, splits).counts, draft.step.rows) for draft in drafts]
    speeds: dict[str, float] = {}
    if budget == "seconds":
        data = drafts[0].recipe.data
        loaded = in_memory(splits, data, Display(quiet=True))
        speeds = step_seconds(
            folder / "budget.json", {draft.name: (draft.recipe, draft.step) for draft in drafts}, loaded
        )
    lengths = [own[0]]
    for draft, length in zip(drafts[1:], own[1:], strict=True):
        speed = (speeds[draft.name], speeds[drafts[0].name]) if speeds else None
        steps = equal_steps(length, own[0], budget, speed)
        lengths.append(Length(steps, length.steps_per_epoch, length.images_per_step, length.rows_per_image))
    return lengths


def _at_length(drafts: Sequence[_Draft], lengths: Sequence[Length], splits: Splits) -> list[Entry]:
    """The entries; warns of schedules that do not follow a new length, raises RecipeError where one does not fit."""
    entries = []
    for draft, length in zip(drafts, lengths, strict=True):
        recipe, step = draft.recipe, draft.step
        counts = read_of(recipe, splits).counts
        if clock_of(recipe.train, counts).steps != length.steps:
            # a warm-up of some steps is meant as it is; milestones belong to a length
            if re.search(r"at=[^=]*\d ?(epoch|step)", recipe.train.schedule.partition("warmup")[0]):
                warnings.warn(
                    f"recipe {draft.name}: the budget gives it {counted(length.steps, 'step')}, not its own, and "
                    f"{recipe.train.schedule} does not follow; name parts of the run, as in at=(0.3, 0.6)",
                    ManyviewWarning,
                    stacklevel=2,
                )
            train = recipe.train.model_copy(update={"epochs": None, "steps": length.steps})
            recipe = recipe.model_copy(update={"train": train})
        try:
            make_schedule(recipe.train, make_optimizer(recipe.train, step), clock_of(recipe.train, counts))
        except ManyviewError as error:
            raise type(error)(f"recipe {draft.name}: {error}") from None
        parameters = sum(p.numel() for p in step.parameters() if p.requires_grad)
        entries.append(
            Entry(draft.name, recipe, draft.overrides, length, str(without_origin(step.main.spec.backbone)), parameters)
        )
    return entries
