"""What `manyview eval` is asked about: a run, an exported folder or a timm model, opened together with its data."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyview.branches.given import Given
from manyview.branches.timm_models import timm_library
from manyview.data import Splits, open_splits
from manyview.data.mark import mark_of
from manyview.data.reading import PATIENCE
from manyview.data.sources import FROM_PYTHON
from manyview.errors import DataError, RecipeError, RunError
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.crew import Crew, Post
from manyview.evaluate.evaluate import with_accuracy
from manyview.evaluate.features import Features, Watch
from manyview.evaluate.knn import Knn
from manyview.evaluate.model import Model, StepModel
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import parse_protocols
from manyview.foundation.files import at_home
from manyview.foundation.grammar import Call, parse_call
from manyview.foundation.taken import check_overrides, taken_path
from manyview.foundation.words import counted
from manyview.judge import cache
from manyview.judge.models import exported, of_timm
from manyview.load import data_of, packaged_recipes
from manyview.recipe.settings import Data
from manyview.training.run import Run, run_of
from manyview.words.load import Use, words_of


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    run: the run it is, if any. data: what its results are of, where that is not the run's own data: source, folder, and
    what else tells it apart, so that no result takes the place of another's. own: the calls that
    stand in its recipe. usual: what is measured if nothing is asked for. folder: where its features are kept. skips:
    whether images that cannot be read are left out. workers, patience: see `Features`.
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
    patience: float = PATIENCE

    def features(self, watch: Watch, kept: bool = True, crew: Crew | None = None, post: Post | None = None) -> Features:
        """What protocols work on. kept: whether outputs are looked for, and left, on disk."""
        return Features(
            self.model,
            self.splits,
            seed=self.seed,
            skipped=[] if self.skips else None,
            watch=watch,
            keeper=cache.kept_in(self.folder) if kept else None,
            workers=self.workers,
            patience=self.patience,
            crew=crew,
            post=post,
        )


def open_subject(
    target: Run | str | Path,
    overrides: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    size: int | None = None,
    device: str = "cpu",
    use: Use | Sequence[Use] = (),
    data: Mapping[str, Any] | None = None,
    backbone: Given | None = None,
) -> Subject:
    """Opens a run's folder, an exported folder, or `resnet18(small=True)` with a checkpoint.

    overrides: `data.root=DIR` and the like; with `data.source=…` a run, too, is looked at with other data. size: the
    side of the images that an exported or timm model sees. data: data sets by split, as `manyview.train` takes them: of
    a run that was given them, the same; of other runs and of models, those to look at. use: words of one's own, see
    `load_recipe`; of a run, those that it was made with. backbone: a network like the one from Python that a run was
    trained with; its weights become the trained ones. Raises ManyviewError for all that is wrong with either.
    """
    run = _run(target, checkpoint, size, use)
    if run is not None:
        return _of_run(run, overrides, device, data, backbone)
    _check_no_network(target, backbone)
    model = _outside(target, checkpoint, size, device)
    if data is None and not any(override.startswith("data.source=") for override in overrides):
        raise DataError(f"{target} comes without data; say which, as in data.source=cifar10 data.root=DIR")
    spec, seed = data_of(overrides, words_of(use))
    splits = open_splits(spec, seed, data)
    return Subject(
        model,
        splits,
        seed,
        cache.usual_folder(),
        (),
        _usual(model, splits),
        data=_told(spec, splits, seed),
        skips=spec.on_bad_image == "skip",
        workers=spec.workers,
        patience=spec.timeout,
    )


def open_model(
    target: Run | str | Path,
    overrides: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    size: int | None = None,
    device: str = "cpu",
    use: Use | Sequence[Use] = (),
    backbone: Given | None = None,
) -> tuple[Model, Data]:
    """Opens what `open_subject` opens, for image files: the model, and how it wants them read, see `Data`."""
    run = _run(target, checkpoint, size, use)
    if run is None:
        _check_no_network(target, backbone)
        return _outside(target, checkpoint, size, device), data_of(overrides, words_of(use))[0]
    recipe = run.recipe(*overrides)
    return StepModel(run.step(recipe, device, backbone=backbone), run.classes(), str(run.folder)), recipe.data


def _run(
    target: Run | str | Path, checkpoint: str | Path | None, size: int | None, use: Use | Sequence[Use]
) -> Run | None:
    run = run_of(target, use, "a run, an export or a model of timm")
    folder = run.folder
    if not (folder / "recipe.yaml").is_file():
        return None
    if checkpoint is not None or size is not None:
        raise RunError(f"{target} is a run, which has its own checkpoint and size; drop --checkpoint and --size")
    return run


def _check_no_network(target: Run | str | Path, backbone: Given | None) -> None:
    if backbone is not None:
        raise RunError(f"{target} is no run; backbone= is for runs that were trained with a network from Python")


def _outside(target: Run | str | Path, checkpoint: str | Path | None, size: int | None, device: str) -> Model:
    """An export, or a model of timm with its weights."""
    folder = run_of(target).folder
    target = str(target.folder if isinstance(target, Run) else target)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise _nothing(target)
        if checkpoint is not None:
            raise RunError(f"{target} is an export, which has its own weights; drop --checkpoint")
        return exported(folder, device, size)
    call = _timm_call(target)
    if checkpoint is None:
        raise RunError(f"{target} is a model of timm; its weights come with --checkpoint FILE")
    return of_timm(call, taken_path(checkpoint, "checkpoint"), device, size)


def _told(spec: Data, splits: Splits, seed: int = 0) -> str:
    """Data in a line, as `told_apart`; of those that were given, which have no place, a digest of what judges."""
    if not splits.given:
        return told_apart(spec, seed)
    marks = [mark_of(getattr(splits, name), pixels=True) for name in ("train", "val", "test")]
    digest = hashlib.blake2b(repr(marks).encode(), digest_size=4).hexdigest()
    return told_apart(spec.model_copy(update={"source": f"{FROM_PYTHON} {digest}", "root": None}), seed)


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


def _of_run(
    run: Run, overrides: Sequence[str], device: str, data: Mapping[str, Any] | None, backbone: Given | None
) -> Subject:
    check_overrides(overrides, "overrides")
    named = any(override.startswith("data.source=") for override in overrides)
    recipe = run.recipe(*(each for each in overrides if not (named and each.startswith("data."))))
    other = named or (data is not None and recipe.data.source != FROM_PYTHON)
    if named and data is not None:
        raise DataError("data= and data.source= both say what to look at; leave one out")
    step = run.step(recipe, device, backbone=backbone)
    model = StepModel(step, run.classes(), str(run.folder))
    spec = recipe.data
    if other:
        own = [] if recipe.data.channels is None else [f"data.channels={recipe.data.channels}"]
        spec, _ = data_of([*own, *(each for each in overrides if each.startswith("data."))], recipe.words)
        if (spec.channels or 3) != (recipe.data.channels or 3):
            raise DataError(f"{run.folder} was trained on images of {counted(recipe.data.channels or 3, 'channel')}; "
                            f"leave data.channels out")  # fmt: skip
        splits = open_splits(spec, recipe.seed, data)
        usual = _usual(model, splits)
    else:
        splits = run.splits(recipe, data)
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
        _told(spec, splits) if other else None,
        spec.on_bad_image == "skip",
        spec.workers,
        spec.timeout,
    )


__all__ = ["Subject", "open_model", "open_subject"]
