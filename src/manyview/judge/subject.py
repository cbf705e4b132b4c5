"""What `manyview eval` is asked about: a run, an exported folder or a timm model, opened together with its data."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyview.branches.timm_models import timm_library
from manyview.data import Splits, open_splits
from manyview.errors import DataError, RecipeError, RunError
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.evaluate import with_accuracy
from manyview.evaluate.features import Features, Watch
from manyview.evaluate.knn import Knn
from manyview.evaluate.model import Model, StepModel
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import parse_protocols
from manyview.foundation.files import at_home
from manyview.foundation.grammar import Call, parse_call
from manyview.foundation.words import counted
from manyview.judge import cache
from manyview.judge.models import exported, of_timm
from manyview.load import data_of, packaged_recipes
from manyview.recipe.settings import Data
from manyview.training.run import Run
from manyview.words.load import Use, words_of


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    run: the run it is, if any. data: what its results are of, where that is not the run's own data: source, folder, and
    what else tells it apart, so that no result takes the place of another's. own: the calls that
    stand in its recipe. usual: what is measured if nothing is asked for. folder: where its features are kept. skips:
    whether images that cannot be read are left out. workers: processes that read them.
    """

    model: Model
    splits: Splits
    seed: int
    folder: Path
    own: tuple[str, ...]
    usual: tuple[Measure, ...]
    run: Run | None = None
    data: str | None = None
    skips: bool = False
    workers: int = 0

    def features(self, watch: Watch, kept: bool = True) -> Features:
        """What protocols work on; kept: whether outputs are looked for, and left, on disk."""
        return Features(
            self.model,
            self.splits,
            seed=self.seed,
            skipped=[] if self.skips else None,
            watch=watch,
            keeper=cache.kept_in(self.folder) if kept else None,
            workers=self.workers,
        )


def open_subject(
    target: str,
    overrides: Sequence[str] = (),
    checkpoint: Path | None = None,
    size: int | None = None,
    device: str = "cpu",
    use: Use | Sequence[Use] = (),
) -> Subject:
    """Opens a run's folder, an exported folder, or `resnet18(small=True)` with a checkpoint.

    overrides: `data.root=DIR` and the like; with `data.source=…` a run, too, is looked at with other data. size: the
    side of the images that an exported or timm model sees. use: words of one's own, see
    `load_recipe`; of a run, those that it was made with. Raises ManyviewError for all that is wrong with either.
    """
    folder = Path(target)
    if (folder / "recipe.yaml").is_file():
        if checkpoint is not None or size is not None:
            raise RunError(f"{target} is a run, which has its own checkpoint and size; drop --checkpoint and --size")
        return _of_run(Run(folder, use), overrides, device)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise _nothing(target)
        if checkpoint is not None:
            raise RunError(f"{target} is an export, which has its own weights; drop --checkpoint")
        model: Model = exported(folder, device, size)
    else:
        call = _timm_call(target)
        if checkpoint is None:
            raise RunError(f"{target} is a model of timm; its weights come with --checkpoint FILE")
        model = of_timm(call, checkpoint, device, size)
    if not any(override.startswith("data.source=") for override in overrides):
        raise DataError(f"{target} comes without data; say which, as in data.source=cifar10 data.root=DIR")
    data, seed = data_of(overrides, words_of(use))
    splits = open_splits(data, seed)
    return Subject(
        model,
        splits,
        seed,
        cache.usual_folder(),
        (),
        _usual(model, splits),
        data=told_apart(data, seed),
        skips=data.on_bad_image == "skip",
        workers=data.workers,
    )


def told_apart(data: Data, seed: int = 0) -> str:
    """Data in a line: source, folder, and each choice of images that is not the usual one."""
    usual, root = Data(), None if data.root is None else at_home(data.root).resolve()
    chosen = ("val_fraction", "labels_per_class", "imbalance", "limit", "channels")
    told = {"root": root, **{name: getattr(data, name) for name in chosen}, "seed": seed or None}
    return ", ".join([data.source, *(f"{k}={v}" for k, v in told.items() if v != getattr(usual, k, None))])


def _usual(model: Model, splits: Splits) -> tuple[Measure, ...]:
    known = int((splits.train.labels >= 0).sum())
    return (Classify() if Features(model, splits).classifies else Knn(k=max(1, min(Knn().k, known))),)


def _timm_call(target: str) -> Call:
    """A model of timm, whose name may have a tag: `resnet18.a1_in1k`."""
    timm = timm_library()
    if timm.is_model(target):
        return Call(target)
    try:
        call = parse_call(target, "eval")
    except RecipeError:
        raise _nothing(target) from None
    if not timm.is_model(call.name):
        raise _nothing(target)
    return call


def _nothing(target: str) -> RunError:
    return RunError(
        f"{target} is neither a run (it has no recipe.yaml) nor an export (it has no config.json) nor a model of timm"
        f"{_meant(target)}"
    )


def _meant(target: str) -> str:
    """What the words may have meant: a recipe, a file inside a run, or a model by nearly its name."""
    within = next((folder for folder in Path(target).parents if (folder / "recipe.yaml").is_file()), None)
    if within is not None:
        return f"; it lies in the run {within}, so write manyview eval {within}"
    if target in packaged_recipes():
        return f"; it is a recipe, so train it first: manyview train {target} --out runs/{target}"
    if Path(target).exists() or "/" in target:
        return ""
    near = difflib.get_close_matches(target.partition("(")[0].lower(), timm_library().list_models(), n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _of_run(run: Run, overrides: Sequence[str], device: str) -> Subject:
    other = any(override.startswith("data.source=") for override in overrides)
    recipe = run.recipe(*(each for each in overrides if not (other and each.startswith("data."))))
    step = run.step(recipe, device)
    model = StepModel(step, run.classes(), str(run.folder))
    if other:
        own = [] if recipe.data.channels is None else [f"data.channels={recipe.data.channels}"]
        data, _ = data_of([*own, *(each for each in overrides if each.startswith("data."))], recipe.words)
        if (data.channels or 3) != (recipe.data.channels or 3):
            raise DataError(f"{run.folder} was trained on images of {counted(recipe.data.channels or 3, 'channel')}; "
                            f"leave data.channels out")  # fmt: skip
        splits = open_splits(data, recipe.seed)
        usual = _usual(model, splits)
    else:
        data, splits = recipe.data, run.splits(recipe)
        stated = parse_protocols(recipe.evaluate, words=recipe.words)
        usual = tuple(with_accuracy(stated, step)) or _usual(model, splits)
    return Subject(
        model,
        splits,
        recipe.seed,
        run.folder / "features",
        recipe.evaluate,
        usual,
        run,
        told_apart(data) if other else None,
        data.on_bad_image == "skip",
        data.workers,
    )


__all__ = ["Subject", "open_subject"]
