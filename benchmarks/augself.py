"""What AugSelf's predictors know, and what frozen features tell of the augmentation with and without it.

    python benchmarks/augself.py WITHOUT WITH [--split val|test] [--images N] [--draws N] [--device D] [KEY=VALUE]…

WITHOUT and WITH are two finished runs on the same data, the second with `augself`; KEY=VALUE says where the data are,
as in `data.root=DIR`. All is measured on views as WITH's recipe makes them, drawn anew, of images that were not trained
on. Prints two Markdown tables:

1. The loss of WITH's predictors, over that of the best constant: the mean of the held-out targets, or their shares.
2. R² of a ridge regression from [h_a, h_b], the backbones' frozen features of the first two views, to each number of
   AugSelf's targets: fitted on views of training images, its strength chosen on a fifth of those. For flips, flipped in
   a minus flipped in b is regressed, and as large a part as of the training pairs is called alike, those nearest to 0:
   the share of right answers, beside that of the more frequent one. R² is 0 for the mean of the held-out targets.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyview.branches import FEATURES
from manyview.data import Images, Splits
from manyview.data.loader import read_images
from manyview.errors import RecipeError
from manyview.relations import Reading
from manyview.relations.augself import KINDS, AugSelf
from manyview.run import Run
from manyview.step import Step
from manyview.views import View, member_view

UNSEEN = 1_000_000  # the first epoch to draw from: no run gets there
NUMBERS = {
    "crop": ("centre y", "centre x", "height", "width"),
    "color": ("brightness", "contrast", "saturation", "hue"),
    "flip": ("alike",),
}
STRENGTHS = torch.logspace(-5, 2, 15, dtype=torch.float64)  # as shares of the mean variance of a feature


@dataclass(frozen=True)
class Pairs:
    """Views a and b of images: features of each run [R, 2 dim], targets [R, k] by kind, which image each row shows."""

    features: dict[str, Tensor]
    targets: dict[str, Tensor]
    image: Tensor


def batches(step: Step, images: Images, count: int, draws: int) -> Iterator[tuple[Tensor, dict[str, View]]]:
    """(indices, views) of the first `count` images of a split, `draws` times, each with draws of its own."""
    device = step.main.mean.device
    for epoch in range(UNSEEN, UNSEEN + draws):
        for start in range(0, min(count, len(images)), 256):
            positions = np.arange(start, min(start + 256, count, len(images)))
            pixels, kept, _ = read_images(images, positions, skip=True)
            index = torch.from_numpy(images.index[kept])
            yield (
                index,
                {
                    name: v.moved(lambda t: t.to(device))
                    for name, v in step.views(pixels, index=index, epoch=epoch).items()
                },
            )


def relation_of(step: Step) -> tuple[AugSelf, list[tuple[str, str, str]]]:
    """The first AugSelf of a run, and (branch, readout, view) of all that it reads."""
    for plan in step.recipe.relation_plan:
        relation = step.relations[plan.name]
        if isinstance(relation, AugSelf):
            return relation, [(read.branch, read.name, read.view) for read in plan.reads]
    raise SystemExit("the second run has no augself among its relations")


def view_of(views: Mapping[str, View], name: str) -> View:
    """A view, or a member such as `r.0`."""
    base, _, member = name.partition(".")
    return member_view(views[base], int(member)) if member else views[base]


def told(step: Step, images: Images, count: int, draws: int) -> dict[str, tuple[Tensor, Tensor]]:
    """kind -> (what the run's predictor gives, the truth), for views of held-out images."""
    relation, reads = relation_of(step)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in relation.weights}
    for _, views in batches(step, images, count, draws):
        readings = []
        for branch, readout, name in reads:
            view = view_of(views, name)
            value = step.branch(branch).read(view.pixels, [readout])[readout].float()
            readings.append(Reading(value, None, view.params, view.members))
        for kind, (output, target) in relation.predict(*readings).items():
            parts[kind].append((output.cpu(), target.cpu()))
    return {kind: (torch.cat([o for o, _ in each]), torch.cat([t for _, t in each])) for kind, each in parts.items()}


def constant_loss(kind: str, target: Tensor) -> float:
    """The least loss of one answer to all rows."""
    if kind in ("flip", "rotation"):
        shares = target.unique(return_counts=True)[1] / len(target)
        return -float((shares * shares.log()).sum())
    return float(target.double().var(dim=0, correction=0).mean())


def collect(steps: Mapping[str, Step], images: Images, count: int, draws: int) -> Pairs:
    """Features of all runs for the same views, and how the two views differ, by the kinds that they have."""
    relation, reads = relation_of(steps["with"])
    names = [view for _, _, view in reads[:2]]
    probes = {}
    for kind in NUMBERS:
        try:
            probes[kind] = AugSelf(*relation.views[:2], **{kind: 1.0}, hidden=1).eval()
        except RecipeError:
            continue
    features: dict[str, list[Tensor]] = {run: [] for run in steps}
    targets: dict[str, list[Tensor]] = {kind: [] for kind in probes}
    shown = []
    for index, views in batches(steps["with"], images, count, draws):
        pair = [view_of(views, name) for name in names]
        for run, step in steps.items():
            each = [step.main.read(view.pixels, [FEATURES])[FEATURES].double().cpu() for view in pair]
            features[run].append(torch.cat(each, dim=1))
        blank = torch.zeros(len(pair[0].images), relation.views[0].dim)
        for kind, probe in probes.items():
            target = probe.predict(*(Reading(blank, None, view.params) for view in pair))[kind][1][: len(blank)]
            if kind == "flip":
                flips = [
                    view.params[name]["applied"].double() for view, name in zip(pair, probe.names[kind], strict=True)
                ]
                target = (flips[0] - flips[1])[:, None]
            targets[kind].append(target.cpu())
        shown.append(index.repeat_interleave(pair[0].members))
    differ = {kind: torch.cat(each) for kind, each in targets.items()}
    return Pairs({run: torch.cat(each) for run, each in features.items()}, differ, torch.cat(shown))


def ridge(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """What ridge regressions of each strength, fitted to x [R, d] and y [R, k], say of new rows: [S, N, k]."""
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x, new, centre = (x - mean) / scale, (new - mean) / scale, y.mean(dim=0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    image = vectors.T @ (x.T @ (y - centre)) / len(x)
    solved = image[None] / (values.clamp_min(0)[None, :, None] + STRENGTHS[:, None, None])
    return new @ vectors @ solved + centre


def r2(predicted: Tensor, y: Tensor) -> Tensor:
    """1 - squared error over variance, for each column: [..., N, k] -> [..., k]; nan for what does not vary."""
    return 1 - (predicted - y).square().mean(dim=-2) / y.var(dim=0, correction=0)


def predicted(run: str, kind: str, train: Pairs, held: Pairs) -> Tensor:
    """What the best ridge regression of each column says of the held-out rows, [N, k]."""
    x, y = train.features[run], train.targets[kind]
    images = train.image.unique()
    tuning = torch.isin(train.image, images[torch.arange(len(images)) % 5 == 0])
    best = r2(ridge(x[~tuning], y[~tuning], x[tuning]), y[tuning]).nan_to_num().argmax(dim=0)
    return ridge(x, y, held.features[run])[best, :, torch.arange(y.shape[1])].T


def split_of(splits: Splits, name: str) -> Images:
    """A held-out split. Exits where the run has none."""
    images = getattr(splits, name)
    if images is None:
        raise SystemExit(f"the runs have no {name} split; choose another --split")
    return images


@torch.no_grad()
def main() -> None:
    """Measures two runs and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("without", type=Path)
    parser.add_argument("with_", metavar="with", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--images", type=int, default=5000, help="at most so many of each split")
    parser.add_argument("--draws", type=int, default=2, help="pairs of views of each image")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_intermixed_args()

    runs = {"without": Run(options.without), "with": Run(options.with_)}
    recipes = {name: run.recipe(*options.overrides) for name, run in runs.items()}
    splits = {name: run.splits(recipes[name]) for name, run in runs.items()}
    held_out = split_of(splits["with"], options.split)
    if not np.array_equal(splits["with"].train.index, splits["without"].train.index):
        raise SystemExit("the runs were not trained on the same images")
    steps = {name: run.step(recipes[name], options.device) for name, run in runs.items()}

    print(f"| kind | loss on {options.split} | best constant | ratio |\n| --- | --- | --- | --- |")
    for kind, (output, target) in told(steps["with"], held_out, options.images, options.draws).items():
        loss, constant = float(KINDS[kind].loss(output, target)), constant_loss(kind, target)
        print(f"| {kind} | {loss:.4f} | {constant:.4f} | {loss / constant if constant else float('nan'):.3f} |")

    train, held = (collect(steps, images, options.images, options.draws) for images in (splits["with"].train, held_out))
    print("\n| number | without AugSelf | with AugSelf | base rate |\n| --- | --- | --- | --- |")
    for kind, target in held.targets.items():
        answers = [predicted(run, kind, train, held) for run in runs]
        if kind == "flip":
            usual, alike = (float((t == 0).double().mean()) for t in (train.targets[kind], target))
            called = [answer.abs() <= answer.abs().quantile(usual) for answer in answers]
            rates = [float((answer == (target == 0)).double().mean()) for answer in called]
            print(f"| flip, right | {rates[0]:.3f} | {rates[1]:.3f} | {max(alike, 1 - alike):.3f} |")
            continue
        scores = [r2(answer, target) for answer in answers]
        for column, name in enumerate(NUMBERS[kind]):
            print(f"| {kind}, {name}, R² | {float(scores[0][column]):.3f} | {float(scores[1][column]):.3f} | 0 |")


if __name__ == "__main__":
    main()
