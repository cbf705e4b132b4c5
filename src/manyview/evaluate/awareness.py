"""Awareness: what a model knows of augmentation (after AugSelf, Lee, Lee, Shin, NeurIPS 2021).

Two views of an image differ in numbers: where and how large their crops are, how bright they were made. A ridge
regression tells them from the frozen features of the pair, [h_a, h_b]; what it can tell, the features know linearly.

    number        what is told, always a minus b                                                  AugSelf's kind
    crop          centre y, centre x, height, width, in a's frame, after a's flip                       crop
    jitter        brightness, contrast, saturation, hue, each over the width of its range               color
    blur          sigma over the largest; 0 where not applied                                           blur
    solarize      threshold; 1 where not applied                                                        solarize
    flip          applied; from that: were both or neither flipped?                                     flip
    grayscale     applied; from that: are both or neither grey?
    rotate90      which turn (four columns, 0 or 1); from that: (k_a - k_b) mod 4                       rotation

and the other ops of `NUMBERS`. R² is 1 - (squared error / variance): 0 for whoever says the mean.

AugSelf asks whether flips are *alike*. No linear function of [h_a, h_b] can say that, even if h holds the coin itself;
it can say flipped in a minus flipped in b, which is 0 where they are alike. So that is regressed, and the answer is the
possible difference nearest to what is said, times a factor, since regressions are cautious. Turns likewise. For the
same reason centre x is hard to tell wherever views are flipped: in a's frame its sign goes by a's flip.

Regressions are fitted on views of training images. Their strength and the factor are chosen on a fifth of those images,
and nothing on those that are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.branches.spec import FEATURES
from manyview.data import Splits
from manyview.errors import DataError, RecipeError
from manyview.evaluate.report import Report, Table
from manyview.evaluate.tried_ops import draw, plan_ops, some_of
from manyview.foundation.vocabulary import NONE, Words
from manyview.views.ops import OPS
from manyview.views.ops.affine import Rotate, Shear, Translate
from manyview.views.ops.blur import Blur
from manyview.views.ops.color import Brightness, Color, Contrast, Grayscale, Jitter
from manyview.views.ops.crop import Crop, PadCrop
from manyview.views.ops.flip import Flip, Rotate90, VFlip
from manyview.views.ops.histogram import Sharpness
from manyview.views.ops.op import Op, ViewParams, check_whole, coin_difference
from manyview.views.ops.threshold import Invert, Solarize
from manyview.views.plan import PlannedOp, PlannedView
from manyview.views.streams import IMAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manyview.evaluate.features import Features

DEFAULT = "crop(scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2)"
AT_ONCE = 64
FIFTH = 5
STRENGTHS = torch.logspace(-5, 2, 15, dtype=torch.float64)  # as shares of a feature's variance
ROUNDING = 1e-6
FACTORS = torch.cat([torch.zeros(1), torch.logspace(-1, 4, 51)]).double()  # 0: whatever the features, no difference

NUMBERS: dict[type, tuple[str, ...]] = {  # what the columns of an op's `difference` are
    Blur: ("sigma",),
    Brightness: ("factor",),
    Color: ("factor",),
    Contrast: ("factor",),
    Crop: ("centre y", "centre x", "height", "width"),
    Jitter: ("brightness", "contrast", "saturation", "hue"),
    PadCrop: ("centre y", "centre x", "height", "width"),
    Rotate: ("degrees",),
    Sharpness: ("factor",),
    Shear: ("y", "x"),
    Solarize: ("threshold",),
    Translate: ("y", "x"),
}
COINS = (Flip, VFlip, Grayscale, Invert)
ASKED = (*NUMBERS, *COINS, Rotate90)


@dataclass(frozen=True)
class Awareness:
    """What the model knows: how well a ridge regression on features of two views tells how their ops' draws differ.

    views: ops as in a recipe's `make`, drawn anew for each view from the image as it is read; a `crop` without a size
    gives the size that the model looks at. The default is AugSelf's pipeline without its blur, as for CIFAR; for that
    add `| blur()`. images: at most so many of train, to fit, and of the split, to measure. draws: pairs of views of
    each. Measures: the mean R² (0 for a constant), that of each number, and for coins and quarter turns how many
    percent of answers are right. Lee, Lee, Shin, NeurIPS 2021.
    """

    views: str = DEFAULT
    images: int = 5000
    draws: int = 2
    words: Words = field(default=NONE, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        check_whole("images", self.images, least=2 * FIFTH)
        check_whole("draws", self.draws)
        ops = plan_ops(self.views, (32, 32), "", "views", self.words)
        _check_frames(ops)
        if not any(isinstance(planned.op, ASKED) for planned in ops):
            known = [name for name, kind in OPS.items() if issubclass(kind, ASKED)]
            raise RecipeError(f"views: {self.views!r} has no op that is asked for; these are: {', '.join(known)}")

    def check(self, splits: Splits) -> None:
        """Raises DataError for too few training images to fit anything to."""
        if len(splits.train) < 2 * FIFTH:
            raise DataError(
                f"awareness: {len(splits.train)} training images are too few to fit to; {2 * FIFTH} or more"
            )

    @torch.no_grad()
    def measure(self, features: Features, split: str) -> Report:
        """Fits to pairs of views of train, measures those of the split."""
        features.images(split)
        train, held = (_pairs(self, features, name) for name in ("train", split))
        varied = [
            name
            for name, target in held.targets.items()
            if all(bool((each.var(dim=0) > 0).any()) for each in (target, train.targets[name]))
        ]
        if not varied:
            raise RecipeError(f"awareness: two views {self.views!r} never differ in what is asked for; let ops draw")
        images = train.image.unique()
        _check_count(len(images))
        tuning = torch.isin(train.image, images[torch.arange(len(images)) % FIFTH == 0])
        x, new = train.features.double(), held.features.double()
        y = torch.cat([train.targets[name] for name in varied], dim=1)
        with features.watch("awareness: ridge", 2, "fits") as tick:
            tried = ridge(x[~tuning], y[~tuning], x[tuning])
            tick(1, 2)
            said = ridge(x, y, new)
            tick(2, 2)
        rows: list[tuple[str, float, float | None, float | None]] = []
        start = 0
        for name in varied:
            target = held.targets[name]
            columns = slice(start, start + target.shape[1])
            start = columns.stop
            known = y[tuning, columns]
            best = int(r2(tried[:, :, columns], known).nan_to_num().argmax())
            answers = said[best, :, columns]
            right = usual = None
            if name in held.kinds:
                cases, classes = held.kinds[name]
                factor = best_factor(tried[best, :, columns], known, cases, classes)
                truth = nearest(target, cases, classes)
                right = 100 * float((nearest(factor * answers, cases, classes) == truth).double().mean())
                usual = 100 * float(truth.bincount().max()) / len(truth)
            rows.append((name, float(r2(answers, target)), right, usual))
        alike = [name for name in held.targets if name not in varied]
        return _report(rows, f"two views never differ in {', '.join(alike)}, which is not told" if alike else "")


@dataclass(frozen=True)
class Pairs:
    """Views a and b of images.

    features: float32 [R, 2 dim]. targets: name -> float64 [R, k]. kinds: name -> (cases [C, k], the answer that each
    stands for [C]) of those that have a right answer. image: which each row shows, int64 [R].
    """

    features: Tensor
    targets: Mapping[str, Tensor]
    kinds: Mapping[str, tuple[Tensor, Tensor]]
    image: Tensor


def targets_of(name: str, op: Op, a: ViewParams, b: ViewParams) -> dict[str, Tensor]:
    """What an op drew for view a minus what it drew for b: name -> float64 [R, k]. Empty for an op not asked for."""
    if isinstance(op, COINS):
        return {name: coin_difference(dict(a[name]), dict(b[name]))}
    if isinstance(op, Rotate90):
        return {name: (F.one_hot(a[name]["k"], 4) - F.one_hot(b[name]["k"], 4)).double()}
    if type(op) not in NUMBERS:
        return {}
    difference = op.difference(dict(a[name]), dict(b[name]), a).double()
    return {f"{name} {number}": difference[:, [at]] for at, number in enumerate(NUMBERS[type(op)])}


def cases_of(op: Op) -> tuple[Tensor, Tensor] | None:
    """All targets [C, k] that there can be, and the answer [C] that each stands for; None where numbers are told.

    Answers: of a coin, 0 for alike and 1 for unlike; of quarter turns, those from b to a.
    """
    if isinstance(op, COINS):
        return torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64), torch.tensor([0, 1, 1])
    if isinstance(op, Rotate90):
        a, b = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
        return (F.one_hot(a, 4) - F.one_hot(b, 4)).double(), (a - b) % 4
    return None


def ridge(x: Tensor, y: Tensor, new: Tensor, strengths: Tensor = STRENGTHS) -> Tensor:
    """What ridge regressions of each strength, fitted to x [R, d] and y [R, k], say of new rows [N, d]: [S, N, k].

    Columns of x are standardised; those that vary by no more than float32 rounds tell nothing. A strength s adds
    s * R times the squared weights to the squared error.
    """
    mean, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(spread > ROUNDING * x.abs().amax(dim=0), spread, torch.inf)
    x, new, centre = (x - mean) / scale, (new - mean) / scale, y.mean(dim=0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    image = vectors.T @ (x.T @ (y - centre)) / len(x)
    solved = image / (values.clamp_min(0)[:, None] + strengths[:, None, None])
    return (new @ vectors) @ solved + centre


def r2(predicted: Tensor, y: Tensor) -> Tensor:
    """1 - squared error / variance, both summed over columns: [..., N, k] beside [N, k] -> [...]."""
    return 1 - (predicted - y).square().sum(dim=(-2, -1)) / (y - y.mean(dim=0)).square().sum()


def nearest(values: Tensor, cases: Tensor, classes: Tensor) -> Tensor:
    """The answer [N] of the case [C, k] that each row [N, k] is nearest to; of several, the first."""
    return classes[(values[:, None] - cases).square().sum(dim=2).argmin(dim=1)]


def best_factor(answers: Tensor, y: Tensor, cases: Tensor, classes: Tensor) -> float:
    """The smallest factor with which most answers [N, k] are nearest to a case of the right class."""
    truth = nearest(y, cases, classes)
    right = [(nearest(factor * answers, cases, classes) == truth).sum() for factor in FACTORS]
    return float(FACTORS[int(torch.stack(right).argmax())])


def _check_count(images: int) -> None:
    if images < 2 * FIFTH:
        raise DataError(f"awareness: {images} training images are too few to fit to; it takes {2 * FIFTH} or more")


def _check_frames(ops: tuple[PlannedOp, ...]) -> None:
    """Raises RecipeError where the boxes of two views would lie in unlike frames."""
    crops = [at for at, planned in enumerate(ops) if isinstance(planned.op, Crop | PadCrop)]
    for before in ops[: crops[-1]] if crops else ():
        if isinstance(before.op, Flip | VFlip | Rotate90 | Crop | PadCrop):
            raise RecipeError(
                f"views: {before.name} stands before {ops[crops[-1]].name}, so that the boxes of two views lie in "
                f"unlike frames; put one crop first"
            )


def _pairs(asked: Awareness, features: Features, split: str) -> Pairs:
    """Features of both views of each pair, and how they differ."""
    model, images = features.model, features.images(split)
    read: list[Tensor] = []
    targets: dict[str, list[Tensor]] = {}
    kinds: dict[str, tuple[Tensor, Tensor]] = {}
    shown: list[Tensor] = []
    positions = some_of(np.arange(len(images)), asked.images, features.seed)
    for batch, kept in features.batches(images, positions, AT_ONCE, f"awareness: {split}"):
        height, width = model.prepare(batch[:1]).shape[-2:]
        plan = {
            side: PlannedView(
                side,
                IMAGE,
                plan_ops(asked.views, (height, width), f"awareness.{split}.{side}", "awareness", asked.words),
                count=asked.draws,
            )
            for side in ("a", "b")
        }
        views = draw(plan, batch, images.index[kept], features.seed, "awareness")
        size = tuple(views["a"].images.shape[-2:])
        if size != (height, width):
            raise RecipeError(
                f"awareness: the views are {size[0]}x{size[1]}, but the model looks at {height}x{width}; "
                f"begin them with a crop without a size, which takes the model's"
            )
        pair = [model.read(views[side].pixels.to(model.device))[FEATURES].cpu() for side in ("a", "b")]
        read.append(torch.cat(pair, dim=1))
        for planned in plan["a"].ops:
            found = targets_of(planned.name, planned.op, views["a"].params, views["b"].params)
            for name, target in found.items():
                targets.setdefault(name, []).append(target.cpu())
                if (cases := cases_of(planned.op)) is not None:
                    kinds[name] = cases
        shown.append(torch.from_numpy(kept).repeat_interleave(asked.draws))
    if not read:
        raise DataError(f"awareness: no image of split '{split}' could be read")
    return Pairs(torch.cat(read), {name: torch.cat(each) for name, each in targets.items()}, kinds, torch.cat(shown))


def _report(rows: list[tuple[str, float, float | None, float | None]], note: str) -> Report:
    table = Table(("number", "R²", "right, %", "most frequent answer, %"), tuple(rows))
    measures = {"": sum(value for _, value, _, _ in rows) / len(rows)}
    for name, value, right, _ in rows:
        measures[name.replace(" ", "_")] = value
        if right is not None:
            measures[f"{name.replace(' ', '_')}_right"] = right
    return Report(measures, {"numbers": table}, partial(_figure, rows), note)


def _figure(rows: list[tuple[str, float, float | None, float | None]]) -> Figure:
    """A bar for each number: its R²."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.4 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    values = [max(0.0, value) for _, value, _, _ in rows]
    axes.barh(range(len(rows)), values, height=0.7, color="#4477aa")
    for at, (_, value, right, usual) in enumerate(rows):
        told = f"{value:.2f}".replace("-0.00", "0.00")
        if right is not None:
            told += f"   {right:.0f} % right, a constant {usual:.0f} %"
        axes.text(values[at] + 0.01, at, told, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("R² of a ridge regression from the features of two views;  0: no better than the mean")
    figure.suptitle("What the features know of how two views differ")
    return figure
