"""Invariance: what a model ignores (supplement of AugSelf, Lee, Lee, Shin, NeurIPS 2021; Tied-Augment, ICML 2023).

Each image x is altered by one op t at one strength, and the features of both are compared:

    cosine   the mean over images of  cos(h(t(x)), h(x))
    others   the mean over all pairs of different images of  cos(h(x), h(y))
    score    (cosine - others) / (1 - others):  1, t is ignored wholly;  0, t(x) is as far off as another image

Features after a ReLU all lie in a narrow cone, where every cosine is high: cosines of one network say little beside
those of another, scores do. AugSelf takes cosines of the projector's z = g(f(x)), which its loss makes alike and which
is thrown away after training; here they are of the backbone's h, which is what is used and what every model has.

Where the model classifies, its answers are compared too (Tied-Augment tracks such overlaps): how often the answers for
t(x) and x agree, and of how many images both are right, both wrong, or only one is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.branches.spec import FEATURES, LOGITS
from manyview.data import Splits
from manyview.errors import DataError, RecipeError
from manyview.evaluate.report import Cell, Report, Table
from manyview.evaluate.tried_ops import draw, plan_ops, some_of
from manyview.foundation.grammar import parse_pipeline
from manyview.foundation.vocabulary import NONE, Words
from manyview.views.ops.op import check_whole
from manyview.views.plan import PlannedView
from manyview.views.streams import IMAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manyview.evaluate.features import Features

DEFAULT = (
    "crop(scale=0.8, ratio=1)",
    "crop(scale=0.5, ratio=1)",
    "crop(scale=0.2, ratio=1)",
    "flip(1)",
    "vflip(1)",
    "rotate((15, 15))",
    "rotate((45, 45))",
    "rotate((90, 90))",
    "rotate((180, 180))",
    "rotate((270, 270))",
    "translate((0.1, 0.1), 0)",
    "translate((0.3, 0.3), 0)",
    "shear((0.1, 0.1))",
    "shear((0.3, 0.3))",
    "brightness(0.6)",
    "brightness(1.4)",
    "contrast(0.6)",
    "contrast(1.4)",
    "color(0.6)",
    "color(1.4)",
    "jitter(hue=(0.1, 0.1))",
    "jitter(hue=(0.25, 0.25))",
    "jitter(hue=(0.5, 0.5))",
    "grayscale(1)",
    "channel_permutation()",
    "invert(1)",
    "solarize(0.75)",
    "solarize(0.5)",
    "posterize(4)",
    "posterize(2)",
    "equalize(1)",
    "blur(0.5, p=1)",
    "blur(1.0, p=1)",
    "blur(2.0, p=1)",
    "erase(1, scale=0.1, ratio=1, value=0.5)",
    "erase(1, scale=0.3, ratio=1, value=0.5)",
)
AT_ONCE = 64
OVERLAP = ("both right", "both wrong", "only clean right", "only altered right")


@dataclass(frozen=True)
class Invariance:
    """What the model ignores: how alike features and answers are for images as they are and altered by one op.

    ops: calls as in a recipe's `make`, a strength each, or pipelines of them: `("grayscale(1)", "blur(2.0, p=1)")`.
    They are applied to what the model looks at, as they are written: with p=0.5 to half of the images. A `crop` without
    a size gives the model's; sigmas are pixels. images: at most so many of the split. Measures are means over the ops:
    of scores (0: as far off as another image, 1: ignored), of cosines, and of agreement in percent; `others` is the
    mean cosine of different images. Lee, Lee, Shin, NeurIPS 2021.
    """

    ops: tuple[str, ...] = DEFAULT
    images: int = 2000
    words: Words = field(default=NONE, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        ops: Any = self.ops
        if isinstance(ops, str):
            ops = (ops,)
        if not isinstance(ops, (tuple, list)) or not ops:
            raise ValueError(f"ops must be calls such as ('grayscale(1)', 'blur(2.0, p=1)'), got {ops!r}")
        object.__setattr__(self, "ops", tuple(ops))
        check_whole("images", self.images, least=2)
        for text in self.ops:
            plan_ops(text, (32, 32), "", "ops", self.words)
        written = Counter(" | ".join(map(str, parse_pipeline(text, "ops"))) for text in self.ops)
        if twice := [text for text, count in written.items() if count > 1]:
            raise ValueError(f"ops names {twice[0]!r} twice, which would count twice in the means; name it once")

    def check(self, splits: Splits) -> None:
        """Raises DataError for a split of one image."""
        for name, images in (("val", splits.val), ("test", splits.test)):
            if images is not None and len(images) < 2:
                raise DataError(f"invariance: split '{name}' has one image, and none to compare it with")

    @torch.no_grad()
    def measure(self, features: Features, split: str) -> Report:
        """Passes each image through the model once as it is, and once for each op."""
        images, model, seed = features.images(split), features.model, features.seed
        clean: list[Tensor] = []
        answers: list[Tensor] = []  # of clean images [B]
        labels: list[Tensor] = []
        cosine: list[list[Tensor]] = [[] for _ in self.ops]
        altered: list[list[Tensor]] = [[] for _ in self.ops]  # answers for altered images [B]
        positions = some_of(np.arange(len(images)), self.images, seed)
        for batch, kept in features.batches(images, positions, AT_ONCE, "invariance"):
            pixels = model.prepare(batch)
            views = [_view(text, pixels, self.words) for text in self.ops]
            as_is = model.read(pixels)
            seen = as_is[FEATURES].cpu()
            clean.append(seen)
            labels.append(torch.from_numpy(images.labels[kept]))
            if LOGITS in as_is:
                answers.append(as_is[LOGITS].argmax(dim=1).cpu())
            for at, (text, view) in enumerate(zip(self.ops, views, strict=True)):
                made = draw({view.name: view}, pixels, images.index[kept], seed, f"invariance: {text}")
                read = model.read(made[view.name].pixels)
                cosine[at].append(cosines(read[FEATURES].cpu(), seen))
                if LOGITS in read:
                    altered[at].append(read[LOGITS].argmax(dim=1).cpu())
        if sum(map(len, clean)) < 2:
            raise DataError(f"invariance: split '{split}' has fewer than two images that can be read")
        truth = torch.cat(labels) if features.classifies else None
        return _report(
            self.ops,
            [float(torch.cat(each).mean()) for each in cosine],
            others(torch.cat(clean)),
            [overlap(torch.cat(answers), torch.cat(each), truth) if each else {} for each in altered],
        )


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of each row of a [B, D] with that of b, float64 [B]; 0 where one of them is 0.

    Raises ValueError for shapes that disagree.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"expected two tensors [B, D] alike, got {tuple(a.shape)} and {tuple(b.shape)}")
    return (F.normalize(a.double(), dim=1) * F.normalize(b.double(), dim=1)).sum(dim=1)


def others(features: Tensor) -> float:
    """The mean cosine over all pairs of different rows of [N, D]. Raises ValueError for less than two rows."""
    if len(features) < 2:
        raise ValueError(f"pairs need two rows or more, got {len(features)}")
    unit = F.normalize(features.double(), dim=1)
    of_itself = unit.square().sum()
    return float((unit.sum(dim=0).square().sum() - of_itself) / (len(unit) * (len(unit) - 1)))


def score(cosine: float, between_others: float) -> float | None:
    """Where a cosine lies between that of different images (0) and 1; None where all images have the same features."""
    return None if 1 - between_others < 1e-9 else (cosine - between_others) / (1 - between_others)


def overlap(clean: Tensor, altered: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """How two sets of answers [B] go together, in percent: `agreement`, and the four of `OVERLAP` where labels are.

    labels: [B], -1 where an image has none; such images count for agreement alone.
    """
    found = {"agreement": _percent(clean == altered)}
    if labels is not None and bool((labels >= 0).any()):
        known = labels >= 0
        first, second = (clean == labels)[known], (altered == labels)[known]
        shares = (first & second, ~first & ~second, first & ~second, ~first & second)
        found |= dict(zip(OVERLAP, map(_percent, shares), strict=True))
    return found


def _percent(chosen: Tensor) -> float:
    return 100 * float(chosen.double().mean())


def _view(text: str, pixels: Tensor, words: Words) -> PlannedView:
    """An op at the size of the pixels. Raises RecipeError if it changes that."""
    height, width = pixels.shape[-2:]
    view = PlannedView("altered", IMAGE, plan_ops(text, (height, width), "invariance", "invariance", words))
    after = view.output_size(torch.tensor([[height, width]]))[0].tolist()
    if after != [height, width]:
        raise RecipeError(
            f"invariance: {text} makes {after[0]}x{after[1]} of the {height}x{width} that the model looks at; "
            f"name ops that keep the size"
        )
    return view


def _named(text: str) -> tuple[str, str | None]:
    """An op and its strength: `blur`, `2.0, p=1`; a pipeline as it is."""
    calls = parse_pipeline(text, "ops")
    if len(calls) > 1:
        return text, None
    return calls[0].name, str(calls[0])[len(calls[0].name) + 1 : -1] or None


def _report(
    ops: Sequence[str], cosine: Sequence[float], between_others: float, answered: Sequence[dict[str, float]]
) -> Report:
    scores = [score(each, between_others) for each in cosine]
    said = tuple(answered[0])
    rows = tuple(
        (*_named(text), value, scored, *more.values())
        for text, value, scored, more in zip(ops, cosine, scores, answered, strict=True)
    )
    table = Table(("op", "strength", "cosine", "score", *said), rows)
    known = [each for each in scores if each is not None]
    measures = {"": sum(known) / len(known)} if known else {}
    measures |= {"cosine": sum(cosine) / len(cosine), "others": between_others}
    if said:
        measures["agreement"] = sum(each["agreement"] for each in answered) / len(answered)
    return Report(measures, {"ops": table}, partial(_figure, table, between_others))


def _figure(table: Table, between_others: float) -> Figure:
    """A bar for each op and strength: its score; a dot: how often answers agree."""
    from matplotlib.figure import Figure

    where, labels, last, place = [], [], None, 0.0
    for row in table.rows:
        place += 1.0 if row[0] == last else 1.6
        last = row[0]
        where.append(place)
        labels.append(str(row[0]) if row[1] is None else f"{row[0]}  {row[1]}")
    values: list[Cell] = [row[3] for row in table.rows]
    figure = Figure(figsize=(8.5, 1.6 + 0.21 * place), layout="constrained")
    axes = figure.subplots()
    axes.barh(where, [float(value or 0) for value in values], height=0.8, color="#4477aa", label="score")
    if "agreement" in table.columns:
        at = table.columns.index("agreement")
        share = [float(row[at] or 0) / 100 for row in table.rows]
        axes.plot(share, where, "o", color="#ee7733", markersize=4, label="answers agree, share of images")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    axes.set_yticks(where, labels, fontsize=8)
    axes.set_ylim(place + 1, 0.6)
    axes.set_xlim(min([0.0, *(float(value) - 0.02 for value in values if isinstance(value, float))]), 1.02)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"1: the op is ignored;  0: as different as another image (cosine {between_others:.3f})")
    figure.suptitle("What the features ignore")
    return figure
