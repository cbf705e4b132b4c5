"""What `manyview eval` is asked about: a run, an exported folder or a timm model, opened together with its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyview.data import Splits, open_splits
from manyview.errors import DataError, RunError
from manyview.evaluate import cache
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.evaluate import with_accuracy
from manyview.evaluate.features import Features, Watch
from manyview.evaluate.knn import Knn
from manyview.evaluate.model import Model, StepModel, exported, of_timm
from manyview.evaluate.protocols import Measure, parse_protocols
from manyview.grammar import parse_call
from manyview.recipe import data_of
from manyview.run import Run


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    run: the run it is, if any. data: what its results are of, where that is not the run's own data. own: the calls that
    stand in its recipe. usual: what is measured if nothing is asked for. folder: where its features are kept. skips:
    whether images that cannot be read are left out.
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

    def features(self, watch: Watch, kept: bool = True) -> Features:
        """What protocols work on; kept: whether outputs are looked for, and left, on disk."""
        return Features(
            self.model,
            self.splits,
            seed=self.seed,
            skipped=[] if self.skips else None,
            watch=watch,
            folder=self.folder if kept else None,
        )


def open_subject(
    target: str,
    overrides: Sequence[str] = (),
    checkpoint: Path | None = None,
    size: int | None = None,
    device: str = "cpu",
) -> Subject:
    """Opens a run's folder, an exported folder, or `resnet18(small=True)` with a checkpoint.

    overrides: `data.root=DIR` and the like; with `data.source=…` a run, too, is looked at with other data. size: the
    side of the images that an exported or timm model sees. Raises ManyviewError for all that is wrong with either.
    """
    folder = Path(target)
    if (folder / "recipe.yaml").is_file():
        if checkpoint is not None or size is not None:
            raise RunError(f"{target} is a run, which has its own checkpoint and size; drop --checkpoint and --size")
        return _of_run(Run(folder), overrides, device)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RunError(f"{target} is neither a run (it has no recipe.yaml) nor an export (no config.json)")
        if checkpoint is not None:
            raise RunError(f"{target} is an export, which has its own weights; drop --checkpoint")
        model: Model = exported(folder, device, size)
    else:
        call = parse_call(target, "eval")
        if checkpoint is None:
            raise RunError(
                f"{target}: no such run or export; for a model of timm, its weights come with --checkpoint FILE"
            )
        model = of_timm(call, checkpoint, device, size)
    if not any(override.startswith("data.source=") for override in overrides):
        raise DataError(f"{target} comes without data; say which, as in data.source=cifar10 data.root=DIR")
    data, seed = data_of(overrides)
    splits = open_splits(data, seed)
    features = Features(model, splits)
    known = int((splits.train.labels >= 0).sum())
    usual: Measure = Classify() if features.classifies else Knn(k=max(1, min(Knn().k, known)))
    skips = data.on_bad_image == "skip"
    return Subject(model, splits, seed, cache.usual_folder(), (), (usual,), data=data.source, skips=skips)


def _of_run(run: Run, overrides: Sequence[str], device: str) -> Subject:
    other = any(override.startswith("data.source=") for override in overrides)
    recipe = run.recipe(*(each for each in overrides if not (other and each.startswith("data."))))
    step = run.step(recipe, device)
    model = StepModel(step, run.classes(), str(run.folder))
    if other:
        data, _ = data_of([each for each in overrides if each.startswith("data.")])
        splits = open_splits(data, recipe.seed)
    else:
        data, splits = recipe.data, run.splits(recipe)
    usual = with_accuracy(parse_protocols(recipe.evaluate), step)
    return Subject(
        model,
        splits,
        recipe.seed,
        run.folder / "features",
        recipe.evaluate,
        tuple(usual),
        run,
        data.source if other else None,
        data.on_bad_image == "skip",
    )


__all__ = ["Subject", "open_subject"]
