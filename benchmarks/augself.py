"""What AugSelf's predictors know: their loss over that of the best constant.

    python benchmarks/augself.py RUN [--split val|test] [--images N] [--draws N] [--device D] [KEY=VALUE]…

RUN is a finished run with `augself`; KEY=VALUE says where the data are, as in `data.root=DIR`. The loss of its
predictors is measured on views as its recipe makes them, drawn anew, of images that were not trained on, over that of
the best constant: the mean of those views' targets, or their shares. Prints a Markdown table. What the features alone
tell, with and without AugSelf, is `manyview eval RUN awareness`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyview.data import Images
from manyview.data.loader import read_images
from manyview.relations import Reading
from manyview.relations.augself import KINDS, AugSelf
from manyview.step import Step
from manyview.training.run import Run
from manyview.views.view import View, member_view

UNSEEN = 1_000_000  # the first epoch to draw from: no run gets there


def batches(step: Step, images: Images, count: int, draws: int) -> Iterator[dict[str, View]]:
    """Views of the first `count` images of a split, `draws` times, each with draws of its own."""
    device = step.main.mean.device
    for epoch in range(UNSEEN, UNSEEN + draws):
        for start in range(0, min(count, len(images)), 256):
            positions = np.arange(start, min(start + 256, count, len(images)))
            pixels, kept, _ = read_images(images, positions, skip=True)
            index = torch.from_numpy(images.index[kept])
            views = step.views(pixels, index=index, epoch=epoch)
            yield {name: view.moved(lambda tensor: tensor.to(device)) for name, view in views.items()}


def relation_of(step: Step) -> tuple[AugSelf, list[tuple[str, str, str]]]:
    """The first AugSelf of a run, and (branch, readout, view) of all that it reads."""
    for plan in step.recipe.relation_plan:
        relation = step.relations[plan.name]
        if isinstance(relation, AugSelf):
            return relation, [(read.branch, read.name, read.view) for read in plan.reads]
    raise SystemExit("the run has no augself among its relations")


def view_of(views: Mapping[str, View], name: str) -> View:
    """A view, or a member such as `r.0`."""
    base, _, member = name.partition(".")
    return member_view(views[base], int(member)) if member else views[base]


def told(step: Step, images: Images, count: int, draws: int) -> dict[str, tuple[Tensor, Tensor]]:
    """kind -> (what the run's predictor gives, the truth), for views of held-out images."""
    relation, reads = relation_of(step)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in relation.weights}
    for views in batches(step, images, count, draws):
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


@torch.no_grad()
def main() -> None:
    """Measures a run and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--images", type=int, default=5000, help="at most so many of the split")
    parser.add_argument("--draws", type=int, default=2, help="pairs of views of each image")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_intermixed_args()

    run = Run(options.run)
    recipe = run.recipe(*options.overrides)
    images = getattr(run.splits(recipe), options.split)
    if images is None:
        raise SystemExit(f"the run has no {options.split} split; choose another --split")
    step = run.step(recipe, options.device)

    print(f"| kind | loss on {options.split} | best constant | ratio |\n| --- | --- | --- | --- |")
    for kind, (output, target) in told(step, images, options.images, options.draws).items():
        loss, constant = float(KINDS[kind].loss(output, target)), constant_loss(kind, target)
        print(f"| {kind} | {loss:.4f} | {constant:.4f} | {loss / constant if constant else float('nan'):.3f} |")


if __name__ == "__main__":
    main()
